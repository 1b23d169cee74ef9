"""Files written for other frameworks: they load them, and what they had comes back to the bit."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import pytest

from tests import peers
from xception_jax.errors import UserError
from xception_jax.inference.activations import diff
from xception_jax.pretrained import load
from xception_jax.pretrained.conversion import caveat, convert


def keras_model(name, classes=5):
    return getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=classes)


@pytest.mark.parametrize("name", ["Xception", pytest.param("InceptionV3", marks=pytest.mark.slow)])
def test_keras_loads_what_it_wrote(tmp_path, name):
    model = keras_model(name)
    model.save_weights(tmp_path / "a.weights.h5")
    for to, output in (("npz", "b.npz"), ("keras", "c.h5")):
        convert(str(tmp_path / "a.weights.h5"), to, tmp_path / output)
    again = keras_model(name)  # numbers its layers differently: the session goes on
    convert(str(tmp_path / "b.npz"), "keras", tmp_path / "d.h5")
    again.load_weights(tmp_path / "d.h5")
    assert (tmp_path / "c.h5").read_bytes() == (tmp_path / "d.h5").read_bytes()
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["xception", "xception65p", "inception_v3"])
def test_timm_loads_what_it_wrote(tmp_path, name):
    torch, *_ = peers.libraries()
    from safetensors.torch import load_file, save_file

    twin = peers.timm_model(name, num_classes=5)
    save_file(twin.state_dict(), tmp_path / "a.safetensors")
    convert(str(tmp_path / "a.safetensors"), "timm", tmp_path / "b.safetensors")
    state = load_file(tmp_path / "b.safetensors")
    twin.load_state_dict(state, strict=True)
    original = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(state[name], original[name]) for name in original)


def test_torchvision_loads_inception_v3(tmp_path):
    _, torchvision, _ = peers.libraries()
    from safetensors.torch import load_file, save_file

    twin = torchvision.models.inception_v3(weights=None, init_weights=False)
    save_file(twin.state_dict(), tmp_path / "a.safetensors")
    convert(str(tmp_path / "a.safetensors"), "torchvision", tmp_path / "b.safetensors")
    twin.load_state_dict(load_file(tmp_path / "b.safetensors"), strict=True)


def test_diff_names_the_first_layer(tmp_path):
    """Changed in the middle of the network: all before agree, to the bit."""
    peers.libraries()
    from safetensors.torch import save_file

    state = peers.timm_model("xception", num_classes=5).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    state["block6.rep.4.pointwise.weight"] *= 1.1
    save_file(state, tmp_path / "b.safetensors")
    layers = diff(str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"))
    assert len(layers) == 36 + 4 + 40 + 34 + 1  # convolutions, batch normalizations, logits
    first = next(name for name, difference in layers if difference > 0)
    assert first == "block7/sepconvs/1/pointwise"


@pytest.mark.parametrize(
    ("to", "output", "message"),
    [
        ("torchvision", "x.safetensors", "torchvision has inception_v3, but not xception"),
        ("keras", "x.weights.h5", "--to=keras writes a .h5 file"),
        ("npz", "x.npy", "--to=npz writes a .npz file"),
    ],
)
def test_mistakes(tmp_path, to, output, message):
    keras_model("Xception").save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(UserError, match=message):
        convert(str(tmp_path / "a.weights.h5"), to, tmp_path / output)


def test_what_must_be_set_there_is_said(tmp_path):
    keras_model("Xception").save_weights(tmp_path / "a.weights.h5")
    note = caveat(load(tmp_path / "a.weights.h5"), "timm")
    assert "bn_epsilon 0.001 (default there: 1e-05), pool_padding same (default there: symmetric)" in note
    assert not caveat(load(tmp_path / "a.weights.h5"), "keras")
