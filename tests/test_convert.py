"""Files written for other frameworks: they load them, and what they had comes back to the bit."""

import dataclasses
import json
import os
import re

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import peers
from xception_jax.errors import UserError
from xception_jax.inference.activations import diff
from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.pretrained import load
from xception_jax.pretrained.conversion import caveats, convert, files
from xception_jax.pretrained.layouts.keras_config import keras_config
from xception_jax.pretrained.pretrained import Pretrained

pytestmark = pytest.mark.usefixtures("cheap_initializers")


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
        ("keras", "x.weights.h5", "--to=keras writes a .keras or .h5 file"),
        ("npz", "x.npy", "--to=npz writes a .npz file"),
    ],
)
def test_mistakes(tmp_path, to, output, message):
    keras_model("Xception").save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(UserError, match=message):
        convert(str(tmp_path / "a.weights.h5"), to, tmp_path / output)


def test_what_must_be_set_there_is_said(tmp_path):
    keras_model("Xception").save_weights(tmp_path / "a.weights.h5")
    (note,) = caveats(load(tmp_path / "a.weights.h5"), "timm", tmp_path / "b.safetensors")
    assert "bn_epsilon 0.001 (default there: 1e-05), pool_padding same (default there: symmetric)" in note
    assert not caveats(load(tmp_path / "a.weights.h5"), "keras", tmp_path / "b.h5")


COLOURS = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMES = ("cat", "dog", "owl", "fox", "bee")


def narrow(model="xception", *, spec=InputSpec(96), scores="softmax", **options):
    """A narrow network with random weights, with all that surrounds them."""
    options = {"width": 0.05} | options
    _, weights = peers.tiny(model, **options)
    classes = options.pop("num_classes", len(NAMES))
    names = NAMES[:classes]
    return Pretrained("here", model, options, classes, jax.device_get(weights), spec, names, scores, licence="MIT")


def written(pretrained, to, output):
    """Writes as `convert` does."""
    for path, contents in files(pretrained, to, output).items():
        path.write_bytes(contents)
    return output


def own(layers, *, after):
    """Layers as Keras serializes them: class, configuration, inputs; `after` takes the place of the network's input."""
    found = []
    for layer in layers:
        config = dict(layer["config"])
        if config.get("axis") == 3:  # of four: the last
            config["axis"] = -1
        nodes = [node["args"] for node in layer["inbound_nodes"]]
        inputs = [part["config"]["keras_history"] for part in jax.tree.leaves(nodes, is_leaf=is_tensor)]
        found.append((layer["class_name"], config, [after.get(name, name) for name, *_ in inputs]))
    return found


def is_tensor(x):
    return isinstance(x, dict) and x.get("class_name") == "__keras_tensor__"


@pytest.mark.parametrize("name", ["Xception", "InceptionV3"])
def test_keras_configuration_is_keras_s_own(name):
    """Layer by layer, in the same order, with every setting; but for the Rescaling layer, which comes first here."""
    keras.utils.clear_session()
    theirs = keras_model(name)
    arrays = {f"{layer.name}/{w.name}": np.empty(w.shape) for layer in theirs.layers for w in layer.weights}
    config = keras_config(theirs.name, arrays, InputSpec(96), options={}, activation="softmax")
    assert [layer["name"] for layer in config["config"]["layers"]][1] == "rescaling"
    ours = keras.models.model_from_json(json.dumps(config))
    start, rescaling, *layers = json.loads(ours.to_json())["config"]["layers"]
    their_start, *their_layers = json.loads(theirs.to_json())["config"]["layers"]
    assert own([start], after={}) == own([their_start], after={})
    assert (rescaling["config"]["scale"], rescaling["config"]["offset"]) == (pytest.approx(1 / 127.5), -1)
    assert own(layers, after={"rescaling": "input_layer"}) == own(their_layers, after={})


HEADS = {
    "hidden": {"hidden": (7, 6), "hidden_norm": True, "hidden_dropout": 0.1, "dropout": 0.2, "scores": "linear"},
    "plain": {"bn_epsilon": 1e-5, "middle_blocks": 5},
    "headless": {"num_classes": 0},
    "inception": {"model": "inception_v3", "flavour": "keras", "hidden": (6,)},
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("headless", "inception") else ()) for kind in HEADS]
)
def test_keras_computes_the_same(tmp_path, kind):
    """From pixels 0..255: the range is in the file."""
    given = narrow(spec=InputSpec(96, normalization=COLOURS), **HEADS[kind])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    graphdef, _ = peers.tiny(given.model, num_classes=given.num_classes, **given.options)
    outputs = np.asarray(peers.run_ours(graphdef, given.weights, given.input.normalization(pixels))[0])
    if given.num_classes and given.scores == "softmax":  # of small numbers, so that it is not all or nothing
        last = given.weights.params["head"]["logits"]
        factor, mean = np.float32(1 / np.ptp(outputs, axis=0).max()), outputs.mean(0)
        last.update(kernel=last["kernel"] * factor, bias=(last["bias"] - mean) * factor)
        outputs = jax.nn.softmax((outputs - mean) * factor)
    theirs = keras.models.load_model(written(given, "keras", tmp_path / "a.keras"))
    with jax.numpy_rank_promotion("allow"):
        expected = theirs.predict(pixels.astype(np.float32), verbose=0)
    assert np.ptp(expected, axis=0).max() > 1e-2  # the pictures differ
    assert peers.error(outputs, expected) < 1e-4


@pytest.mark.parametrize("to", ["timm", "keras"])
def test_what_surrounds_the_weights_comes_back(tmp_path, capsys, to):
    """And the weights, to the bit. The epsilon and the padding are neither timm's usual ones nor Keras'."""
    options = {"bn_epsilon": 1e-4, "pool_padding": "symmetric" if to == "keras" else "same"}
    if to == "keras":  # of a graph, which timm's files do not have
        options["middle_blocks"] = 3
    given = narrow(spec=InputSpec(128, 0.9, "area", COLOURS, resize="squash"), **options)
    path = written(given, to, tmp_path / ("a.keras" if to == "keras" else "a.safetensors"))
    found = load(path)
    jax.tree.map(np.testing.assert_array_equal, found.weights, given.weights)
    assert found.options.pop("width") == pytest.approx(0.05, rel=0.1)  # in whole channels
    del given.options["width"]
    same = {"source": given.source, "weights": given.weights, "num_classes": 5}
    assert dataclasses.replace(found, **same) == given
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["xception", *(pytest.param(n, marks=pytest.mark.slow) for n in ("inception_v3", "xception41p"))]
)
def test_timm_makes_the_network_from_the_folder(tmp_path, name):
    """Under timm's own rules for what must fit, with input and names; and from the file alone."""
    torch, _, timm = peers.libraries()
    aux = {"aux_head": True} if name == "inception_v3" else {}
    given = narrow(name, spec=InputSpec(128, 0.9, "area", COLOURS, resize="pad"), width=1, **aux)
    path = written(given, "timm", tmp_path / "model.safetensors")
    made = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    cfg = timm.data.resolve_data_config(model=made)
    assert tuple(cfg["input_size"]) == (3, 128, 128)
    assert (tuple(cfg["mean"]), tuple(cfg["std"])) == (COLOURS.mean, COLOURS.std)
    assert (cfg["crop_pct"], cfg["crop_mode"], cfg["interpolation"]) == (0.9, "border", "box")
    assert made.pretrained_cfg["label_names"] == list(NAMES)
    assert made.pretrained_cfg["license"] == "MIT"
    overlay = {"file": str(path), "num_classes": 5}
    architecture = json.loads((tmp_path / "config.json").read_text())["architecture"]
    other = timm.create_model(architecture, pretrained=True, num_classes=5, pretrained_cfg_overlay=overlay)
    for a, b in zip(made.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    made.get_classifier().weight.data.zero_()
    timm.models.load_checkpoint(made, str(path), strict=not aux)
    logits = given.weights.params["head"]["logits"]["kernel"].T
    for model in (made, other):
        np.testing.assert_array_equal(model.get_classifier().weight.detach(), logits)


@pytest.mark.parametrize(
    ("options", "to", "message"),
    [
        ({"hidden": (7,)}, "timm", "timm has no equivalent of this xception .*no place for head/hidden/0/bias"),
        ({"stem": "small"}, "timm", "timm has no equivalent of this xception: stem is 'small'"),
        ({"between": "elu"}, "keras", "keras has no equivalent of this xception: between is 'elu'"),
        ({"segments": 4}, "keras", "keras has no equivalent of this xception: segments is 4"),
        (
            {"middle_blocks": 0},
            "npz",
            "npz has no equivalent of this xception: middle_blocks is 0; --to=keras --output=",
        ),
        ({"model": "inception_v3"}, "keras", "keras has no equivalent of this inception_v3 .*no place for"),
        ({"model": "xception41"}, "keras", 'Keras has no equivalent of model "xception41"'),
        ({"hidden": (7,)}, "npz", "npz has no equivalent"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(tmp_path, options, to, message):
    suffix = {"timm": ".safetensors", "keras": ".keras", "npz": ".npz"}[to]
    with pytest.raises(UserError, match=message):
        files(narrow(**options), to, tmp_path / f"a{suffix}")


def test_what_a_pytorch_file_does_not_say_of_its_head_is_converted_with_it(tmp_path):
    path, output = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    written(narrow(), "timm", path)
    arrays = load_file(path)
    width = arrays.pop("fc.weight").shape[1]
    del arrays["fc.bias"]
    layers = {"fc.weight": (7, width), "fc.bias": (7,), "out.weight": (3, 7), "out.bias": (3,)}
    save_file(arrays | {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(layers.items())}, path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="--head"):
        convert(str(path), "native", output)
    convert(str(path), "native", output, head="dense 7 gelu")
    found = load(output)
    assert (found.options["head"], found.num_classes) == ("dense 7, gelu", 3)
    assert found.weights.params["head"]["hidden"][0]["kernel"][0, 0] == 0.0
    assert found.weights.params["head"]["logits"]["kernel"][0, 0] == 2.0


def test_a_config_of_others_is_not_overwritten(tmp_path):
    written(narrow(), "timm", tmp_path / "a.safetensors")
    (tmp_path / "b").mkdir()
    output = tmp_path / "b" / "model.safetensors"
    for _ in range(2):
        convert(str(tmp_path / "a.safetensors"), "timm", output)
    other = tmp_path / "b" / "other.safetensors"
    convert(str(tmp_path / "a.safetensors"), "timm", other)  # the card is the same
    (tmp_path / "b" / "config.json").write_text('{"batch_size": 3}')
    for path in (output, other):
        with pytest.raises(UserError, match=r"config\.json is there and describes other weights; give --output in"):
            convert(str(tmp_path / "a.safetensors"), "timm", path)


@pytest.mark.parametrize(
    ("spec", "output", "message"),
    [
        (InputSpec(96, normalization=COLOURS), "a.h5", r"expects \(pixels / 255 - \(0.485, 0.456, 0.406\)\) / \(0.229"),
        (InputSpec(96, normalization=COLOURS), "a.keras", None),
        (InputSpec(96, normalization=Normalization(standardize=True)), "a.keras", "standardized each by itself"),
    ],
)
def test_what_a_file_does_not_say_of_its_input_is_said(tmp_path, spec, output, message):
    notes = caveats(narrow(spec=spec), "keras", tmp_path / output)
    assert len(notes) == (message is not None)
    assert all(re.search(message, note) for note in notes)
