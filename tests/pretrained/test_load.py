"""Weight files that Keras, timm and torchvision write, loaded by content, against the networks that wrote them."""

import json
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import h5py
import jax
import keras
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tests import peers
from xception_jax.errors import UserError
from xception_jax.formats import writing
from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.models import cards, variables
from xception_jax.pretrained import create_model, load, transplant
from xception_jax.pretrained.layouts.table import to_foreign, to_ours
from xception_jax.pretrained.layouts.timm import timm_table
from xception_jax.pretrained.pretrained import imagenet_classes

SIZE = 97  # odd, so that "same" and symmetric padding differ
CLASSES = 7


@nnx.jit
def logits(model, images):
    return model(images)


@pytest.fixture(scope="module", params=["Xception", pytest.param("InceptionV3", marks=pytest.mark.slow)])
def keras_twin(request, cheap_initializers):
    """A Keras network with random weights and statistics, and what it says of the pictures."""
    kind = getattr(keras.applications, request.param)
    model = kind(weights=None, input_shape=(SIZE, SIZE, 3), classes=CLASSES, classifier_activation=None)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    with jax.numpy_rank_promotion("allow"):
        return model, np.asarray(model.predict(peers.pictures(SIZE), verbose=0))


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_keras_files(keras_twin, tmp_path, suffix):
    model, expected = keras_twin
    path = tmp_path / f"whatever{suffix}"
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    ours = create_model(model.name, weights=str(path))
    assert peers.error(logits(ours, peers.pictures(SIZE)), expected) < 1e-4
    # Its users squash images by `load_img(target_size=...)`, and `preprocess_input` makes them -1 to 1.
    wide, size = np.random.default_rng(0).integers(0, 256, (40, 120, 3), np.uint8), ours.input_spec.image_size
    squashed = np.asarray(Image.fromarray(wide).resize((size, size), Image.Resampling.BILINEAR), np.float32)
    np.testing.assert_allclose(ours.preprocess(wide)[0], squashed / 127.5 - 1, atol=1.01 / 127.5)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("xception", ".safetensors"), ("xception", ".pth"), ("xception41p", ".safetensors"), ("inception_v3", ".bin")],
)
def test_timm_files(tmp_path, name, suffix):
    """Their arrays to the bit; that these give timm's logits, test_timm_parity shows."""
    torch, *_ = peers.libraries()
    from safetensors.torch import save_file

    twin = peers.timm_model(name, num_classes=CLASSES)
    path = tmp_path / f"whatever{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(twin.state_dict(), path)
    found = load(path)
    assert (found.model, found.num_classes) == (name, CLASSES)
    assert_same(found.weights, to_ours(peers.arrays(twin), timm_table(name)))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def state_dict(name="xception", num_classes=CLASSES):
    """Zeros under timm's names."""
    model = nnx.eval_shape(lambda: create_model(name, num_classes=num_classes))
    weights = variables.split(model)[1]
    return to_foreign(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), weights), timm_table(name))


def saved(tmp_path, tensors):
    path = tmp_path / "xception41.safetensors"  # what a file is called tells nothing
    path.write_bytes(writing.safetensors(tensors))
    return path


def test_options_and_input_come_with_the_weights(tmp_path):
    found = load(saved(tmp_path, state_dict(num_classes=1000)))
    assert found.options == {"bn_epsilon": 1e-5, "pool_padding": "symmetric"}
    assert (found.input.crop_fraction, found.input.interpolation) == (0.8975, "bicubic")
    assert found.class_names[207] == "golden retriever"


def test_a_card_beside_the_weights_comes_first(tmp_path):
    """A config.json as timm's repositories have it."""
    card = {
        "pretrained_cfg": {
            "input_size": [3, 333, 333],
            "crop_pct": 0.9,
            "interpolation": "bilinear",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "license": "apache-2.0",
        },
        "label_names": [f"kind {i}" for i in range(CLASSES)],
    }
    (tmp_path / "config.json").write_text(json.dumps(card))
    found = load(saved(tmp_path, state_dict()))
    normalization = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.input == InputSpec(333, 0.9, "bilinear", normalization)
    assert found.licence == "apache-2.0"
    assert found.class_names[3] == "kind 3"


def test_older_names_and_shapes(tmp_path):
    """Cadene's files: last_linear, pointwise kernels as matrices; and prefixes of training scripts."""
    tensors = {}
    for name, x in state_dict().items():
        name = name.replace("fc.", "last_linear.")
        tensors[f"module.model.{name}"] = x[:, :, 0, 0] if name.endswith("pointwise.weight") else x
    assert_same(load(saved(tmp_path, tensors)).weights, load(saved(tmp_path, state_dict())).weights)


def test_another_network_s_weights_are_refused_by_their_structure(tmp_path):
    with pytest.raises(UserError, match=r"Chollet's Xception \(--model=xception\), not of DeepLab"):
        create_model("xception41", weights=str(saved(tmp_path, state_dict())))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("block3.rep.2.bias"), r"missing: block3.rep.2.bias"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), r"unexpected: extra"),
        (lambda t: t.update({"bn1.bias": np.zeros(5, np.float32)}), r"bn1.bias \(5,\) instead of \(32,\)"),
        (
            lambda t: t.update({"bn1.bias": np.full(32, np.nan, np.float32)}),
            r"bn1.bias has values that are not f",
        ),
        (lambda t: t.update({"bn1.running_var": np.full(32, -1, np.float32)}), r"bn1.running_var has negative"),
        (lambda t: t.update({"bn1.bias": np.zeros(32, np.int64)}), r"bn1.bias has dtype int64"),
        (lambda t: [t.pop(k) for k in list(t) if k.startswith("block")], r"a known network|does not match"),
    ],
)
def test_every_array_is_accounted_for(tmp_path, change, message):
    tensors = state_dict()
    change(tensors)
    with pytest.raises(UserError, match=message):
        load(saved(tmp_path, tensors))


def test_head_of_another_class_count_is_replaced_and_said_so(tmp_path):
    path = saved(tmp_path, state_dict())
    model = nnx.eval_shape(lambda: create_model("xception", num_classes=3))
    trained, report = transplant(load(path), variables.split(model)[1])
    assert "newly initialised in place of those for 7 classes: head/logits/bias, head/logits/kernel" in report
    assert trained.params["head"]["logits"]["kernel"] is None
    assert trained.params["block1"]["conv1"]["kernel"] is not None


def test_weights_of_a_network_of_another_width_are_refused(tmp_path):
    pretrained = load(saved(tmp_path, state_dict()))
    model = nnx.eval_shape(lambda: create_model("xception", width=0.5))
    with pytest.raises(UserError, match="with another shape: block1/conv1/kernel"):
        transplant(pretrained, variables.split(model)[1])


def test_imagenet_classes_are_in_the_usual_order():
    """Facts that everybody who uses ImageNet's weights relies on."""
    names = imagenet_classes()
    assert len(set(names)) == 1000
    assert {i: names[i] for i in (0, 1, 281, 388, 999)} == {
        0: "tench", 1: "goldfish", 281: "tabby", 388: "giant panda", 999: "toilet tissue",
    }  # fmt: skip


def test_unknown_name_suggests_a_known_one():
    with pytest.raises(UserError, match='neither a file nor a known name; did you mean "imagenet"'):
        load("imagnet")


def test_damaged_download_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XCEPTION_JAX_CACHE", str(tmp_path))
    path = tmp_path / "weights" / "xception_weights_tf_dim_ordering_tf_kernels.h5"
    path.parent.mkdir()
    path.write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"damaged \(its md5 is [0-9a-f]{32}, not 0a58e3b7378bc2990ea3b43d5981f1f6\)"):
        load("imagenet")


def test_without_a_network_the_file_to_fetch_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XCEPTION_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(cards, "KERAS", "http://127.0.0.1:9/")  # the discard port: nobody answers
    with pytest.raises(UserError, match=r"fetch it elsewhere and put it at .*xception_weights_tf_dim_ordering"):
        load("imagenet")
    assert not list(tmp_path.rglob("*.tmp"))


def test_keras_has_no_weights_of_the_aligned_networks():
    with pytest.raises(UserError, match="timm/xception65"):
        load("imagenet", "xception65")


def keras_1_file(model, path):
    """A Keras network's arrays as Keras 1 names them: layers numbered from 1 in the order in which they are made."""
    kinds = {"Conv2D": "convolution2d", "SeparableConv2D": "separableconvolution2d", "Dense": "dense"}
    kinds["BatchNormalization"] = "batchnormalization"
    variables = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    residual = [layer for layer in model.layers if layer.name.startswith(("conv2d", "batch_normalization"))]
    before = ("block2_sepconv1", "block3_sepconv1_act", "block4_sepconv1_act", "block13_sepconv1_act")
    made = []
    for layer in model.layers:
        if layer.name in before:
            made += residual[2 * before.index(layer.name) :][:2]
        if layer not in residual:
            made.append(layer)
    counts = {"dense": 1}  # the logits are dense_2
    with h5py.File(path, "w") as file:
        groups = []
        for layer in made:
            kind = kinds.get(type(layer).__name__, type(layer).__name__.lower())
            counts[kind] = counts.get(kind, 0) + 1
            name = f"{kind}_{counts[kind]}"
            group = file.create_group(name)
            groups.append((model.layers.index(layer), name))
            names = [f"{name}_{variables.get(w.name, w.name)}:0" for w in layer.weights]
            group.attrs["weight_names"] = np.array(names, "S") if names else np.array([], "S1")
            for own, w in zip(names, layer.weights, strict=True):
                group.create_dataset(own, data=np.asarray(w))
        file.attrs["layer_names"] = np.array([name for _, name in sorted(groups)], "S")


@pytest.mark.parametrize("top", [True, False])
def test_keras_1_names(keras_twin, tmp_path, top):
    """As in the published xception_weights_tf_dim_ordering_tf_kernels.h5, and its _notop."""
    model, expected = keras_twin
    if model.name != "xception":
        pytest.skip("Inception V3 was published with Keras 2's names")
    path = tmp_path / "keras1.h5"
    keras_1_file(model if top else keras.Model(model.input, model.layers[-3].output), path)
    pretrained = load(str(path))
    assert pretrained.num_classes == (CLASSES if top else 0)
    if top:
        ours = create_model("xception", weights=str(path))
        assert peers.error(logits(ours, peers.pictures(SIZE)), expected) < 1e-4
