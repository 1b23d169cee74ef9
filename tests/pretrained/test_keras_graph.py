"""Keras files as people build them, followed from input to output, against Keras' own probabilities."""

import functools
import json
import os
import zipfile

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

from xception_jax.errors import WeightsFileError
from xception_jax.formats import layer_graph
from xception_jax.models.head import SCORES
from xception_jax.models.layers import scaled
from xception_jax.pretrained import create_model, load

pytestmark = pytest.mark.usefixtures("cheap_initializers")

SIZE, CLASSES, WIDTH = 71, 5, 1 / 16


def narrow(layer):
    """A layer of Keras' Xception with a sixteenth of the channels."""
    config = layer.get_config()
    if "filters" in config:
        config["filters"] = scaled((config["filters"],), WIDTH)[0]
    return type(layer).from_config(config)


def xception(pooling=None):
    """Keras' Xception without its top, as a network of its own."""
    wide = keras.applications.Xception(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3), pooling=pooling)
    model = keras.models.clone_model(wide, clone_function=narrow)
    model.name = "xception"
    return model


def nested(*head, before=()):
    inputs = x = keras.Input((SIZE, SIZE, 3))
    for layer in before:
        x = layer(x)
    x = xception()(x, training=False)
    for layer in head:
        x = layer(x)
    return keras.Model(inputs, x)


def continued(*head, pooling=None):
    """The backbone's own graph goes on."""
    base = xception(pooling)
    x = base.output
    for layer in head:
        x = layer(x)
    return keras.Model(base.input, x)


def softmax(**options):
    return L.Dense(CLASSES, activation="softmax", **options)


def adapted():
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)))
    return layer


def augmentation():
    return keras.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.1)])


AVG, MAX = L.GlobalAveragePooling2D, L.GlobalMaxPooling2D
NETWORKS = {
    "average": lambda: nested(AVG(), L.Dropout(0.2), softmax()),
    "named": lambda: nested(AVG(name="pool"), softmax(name="classifier")),
    "continued": lambda: continued(softmax(), pooling="avg"),
    "sequential": lambda: keras.Sequential([xception(), AVG(), L.Dropout(0.3), softmax()]),
    "sequential, pooled": lambda: keras.Sequential([xception("max"), softmax()]),
    "rescaled to -1..1": lambda: nested(AVG(), softmax(), before=[augmentation(), L.Rescaling(1 / 127.5, offset=-1)]),
    "rescaled to 0..1": lambda: nested(AVG(), softmax(), before=[L.Rescaling(1 / 255)]),
    "normalized": lambda: nested(AVG(), softmax(), before=[adapted()]),
    "normalized by numbers": lambda: nested(
        AVG(), softmax(), before=[L.Rescaling(1 / 255), L.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.1] * 3)]
    ),
    "preprocess_input": lambda: nested(AVG(), softmax(), before=[keras.applications.xception.preprocess_input]),
    "logits": lambda: nested(AVG(), L.Dense(CLASSES)),
    "several labels": lambda: nested(AVG(), L.Dense(CLASSES, activation="sigmoid")),
    "one probability": lambda: nested(AVG(), L.Dense(1, activation="sigmoid")),
    "one logit": lambda: nested(AVG(), L.Dense(1)),
    "normalized head": lambda: nested(AVG(), L.BatchNormalization(), softmax()),
    "layer norm": lambda: nested(AVG(), L.LayerNormalization(), L.Dense(16, "gelu"), softmax()),
    "hidden": lambda: nested(AVG(), L.Dense(16, activation="relu"), L.Dropout(0.3), L.Dense(CLASSES)),
    "two hidden": lambda: nested(
        MAX(), L.Dense(16), L.LeakyReLU(), L.BatchNormalization(), L.Dense(8, "tanh"), softmax()
    ),
    "no bias": lambda: nested(AVG(), softmax(use_bias=False)),
    "activation apart": lambda: nested(AVG(), L.Dense(CLASSES), L.Activation("softmax", dtype="float32")),
    "flattened": lambda: nested(L.Flatten(), L.Dense(8, activation="relu"), softmax()),
    "maximum": lambda: nested(MAX(), softmax()),
}  # fmt: skip


def randomized(model, seed=0):
    """Random weights; what comes before a ReLU is mostly positive."""
    rng = np.random.default_rng(seed)
    ranges = {
        "gamma": (0.5, 1.5), "beta": (0, 1), "bias": (-1, 1), "moving_mean": (-0.3, 0.3), "moving_variance": (0.5, 1.5),
    }  # fmt: skip
    for w in model.weights:
        kind = w.path.split("/")[-1]
        if kind.endswith("kernel"):
            fan_in = np.prod(w.shape[:2]) if kind == "depthwise_kernel" else np.prod(w.shape[:-1])
            w.assign(rng.standard_normal(w.shape) * fan_in**-0.5)
        elif kind in ranges:
            w.assign(rng.uniform(*ranges[kind], w.shape))
    return model


PICTURES = np.random.default_rng(7).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


def expected(model, scaled_before):
    x = PICTURES.astype(np.float32) if scaled_before else PICTURES / np.float32(127.5) - 1
    with jax.numpy_rank_promotion("allow"):
        return np.asarray(model(x, training=False), np.float64)


def probabilities(path):
    """What our network says: the scores that the file's logits mean."""
    pretrained = load(str(path))
    model = create_model(pretrained.model, weights=str(path))
    logits = model(pretrained.input.normalization(PICTURES), train=False)
    return pretrained, np.asarray(SCORES[pretrained.scores](logits), np.float64)


def agree(model, path, scaled_before):
    theirs = expected(model, scaled_before)
    pretrained, ours = probabilities(path)
    if theirs.shape[1] < pretrained.num_classes:  # one probability, as two classes
        assert (theirs.shape[1], pretrained.num_classes) == (1, 2)
        ours = ours[:, 1:]
    if any("outputs mean" in line for line in pretrained.assumed):  # what their logits are taken for
        theirs = np.asarray(SCORES["sigmoid" if theirs.shape[1] == 1 else "softmax"](theirs))
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    assert pretrained.input.image_size == SIZE
    assert scaled_before != any("-1..1" in line for line in pretrained.assumed)


# Most are run apart, and as .h5 some: the graph is the same in both, and heads are drawn below.
FEW = {"sequential, pooled", "normalized", "two hidden"}
CASES = [
    pytest.param(name, suffix, marks=[] if name in FEW and suffix == ".keras" else pytest.mark.slow)
    for name in NETWORKS
    for suffix in (".keras", ".h5")
    if suffix == ".keras" or name in FEW
]


@pytest.mark.parametrize(("name", "suffix"), CASES)
def test_says_what_keras_says(tmp_path, name, suffix):
    keras.utils.clear_session()
    model = randomized(NETWORKS[name]())
    model.save(tmp_path / f"network{suffix}")
    agree(
        model,
        tmp_path / f"network{suffix}",
        name.startswith(("rescaled", "normalized by", "preprocess")) or name == "normalized",
    )


def two_inputs():
    a, b = keras.Input((SIZE, SIZE, 3)), keras.Input((4,))
    return keras.Model([a, b], softmax()(L.Concatenate()([AVG()(xception()(a)), b])))


def skipping():
    base = xception("avg")
    return keras.Model(base.input, softmax()(L.Add()([base.output, L.Dense(128)(base.output)])))


def changed():
    inputs = keras.Input((SIZE, SIZE, 3))
    x = L.Conv2D(3, 1)(inputs)
    return keras.Model(inputs, softmax()(AVG()(xception()(x))))


REFUSED = {
    "several inputs": (two_inputs, "several inputs or outputs"),
    "not a chain": (skipping, r'"add_?\d*" \(Add\) joins 2 layers'),
    "a convolution before": (changed, "it has 7 Conv2D, Keras' has 6"),
    "a lambda": (
        lambda: nested(L.Lambda(lambda x: x * 2, name="twice"), AVG(), softmax()), r'"twice" \(Lambda\) comes after'
    ),
    "a crop": (
        lambda: nested(AVG(), softmax(), before=[L.CenterCrop(SIZE, SIZE, name="cut")]),
        r'"cut" \(CenterCrop\) comes before',
    ),
    "normalized maps": (
        lambda: nested(L.BatchNormalization(name="early"), AVG(), softmax()), "between the last map and its pool"
    ),
    "no backbone": (lambda: keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), softmax()]), "no Xception or"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(tmp_path, name):
    make, message = REFUSED[name]
    make().save(tmp_path / "network.keras")
    with pytest.raises(WeightsFileError, match=message):
        load(str(tmp_path / "network.keras"))


def test_a_backbone_without_its_head(tmp_path):
    model = randomized(nested(L.Lambda(lambda x: x * 2), AVG(), softmax()))
    model.save(tmp_path / "network.keras")
    pretrained = load(f"{tmp_path}/network.keras@backbone")
    assert pretrained.num_classes == 0
    ours = create_model("xception", weights=f"{tmp_path}/network.keras@backbone", num_classes=0)
    x = PICTURES / np.float32(127.5) - 1
    with jax.numpy_rank_promotion("allow"):
        theirs = np.asarray(next(layer for layer in model.layers if layer.name == "xception")(x, training=False))
    np.testing.assert_allclose(ours.features(x), theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)


def test_a_loss_says_what_outputs_are(tmp_path):
    model = nested(AVG(), L.Dense(1))
    model.compile(loss="mse")
    model.save(tmp_path / "age.keras")
    pretrained = load(str(tmp_path / "age.keras"))
    assert (pretrained.scores, pretrained.num_classes) == ("linear", 1)
    assert not any("outputs mean" in line for line in pretrained.assumed)


def calls(layer, *arguments, **keywords):
    """Of a layer's class: made in the test, since layers draw a seed, which hypothesis does not want while it draws."""
    return st.builds(functools.partial, st.just(layer), *arguments, **keywords)


HEAD_LAYERS = st.one_of(
    calls(L.Dense, st.sampled_from([4, 8]), activation=st.sampled_from([None, "relu", "gelu", "silu", "tanh", "elu"])),
    calls(L.BatchNormalization, epsilon=st.sampled_from([1e-3, 1e-5]), scale=st.booleans()),
    calls(L.LayerNormalization, center=st.booleans()),
    calls(L.Dropout, st.just(0.4)),
    calls(L.Activation, st.sampled_from(["relu", "softplus", "selu"])),
)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    pool=st.sampled_from([AVG, MAX, L.Flatten]),
    head=st.lists(HEAD_LAYERS, max_size=4),
    last=st.sampled_from(["softmax", "sigmoid"]),
    before=st.sampled_from([(), (1 / 255,), (1 / 127.5, -1), (2, 3)]),
)
def test_heads_drawn_from_the_grammar(tmp_path_factory, pool, head, last, before):
    keras.utils.clear_session()
    scaling = [L.Rescaling(*before)] if before else []
    model = randomized(
        nested(pool(), *(make() for make in head), L.Dense(CLASSES, activation=last), before=scaling), seed=len(head)
    )
    path = tmp_path_factory.mktemp("drawn") / "network.keras"
    model.save(path)
    agree(model, path, bool(before))


def described(layers, kind="Functional", **config):
    return {"class_name": kind, "config": {"name": "network", "layers": layers, **config}}


def test_a_hundred_thousand_layers_are_refused_at_once():
    layers = [{"class_name": "Dense", "config": {"name": f"d{i}"}, "inbound_nodes": []} for i in range(100_000)]
    with pytest.raises(WeightsFileError, match="describes 100,000 layers"):
        layer_graph.read(described(layers, input_layers=[["d0", 0, 0]], output_layers=[["d1", 0, 0]]), "it")


def test_networks_nested_without_end_are_refused():
    network = {"class_name": "Dense", "config": {"name": "d"}}
    for _ in range(300):
        network = described([network], "Sequential")
    with pytest.raises(WeightsFileError, match="nested too deeply"):
        layer_graph.read(network, "it")


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        {"class_name": "Functional"},
        described(3),
        described([{}]),
        described([], input_layers=[], output_layers=[]),
    ],
)
def test_a_damaged_configuration_is_one_error(config):
    with pytest.raises(WeightsFileError, match=r"damaged|class|several"):
        layer_graph.read(config, "it")


def test_layers_that_depend_on_each_other_are_refused():
    def layer(name, of):
        return {"class_name": "Dense", "config": {"name": name}, "inbound_nodes": [[[of, 0, 0, {}]]]}

    layers = [layer("a", "b"), layer("b", "a")]
    with pytest.raises(WeightsFileError, match="damaged"):
        layer_graph.read(described(layers, input_layers=[["c", 0, 0]], output_layers=[["b", 0, 0]]), "it")


def test_early_keras_3_without_names(tmp_path):
    """Its arrays have numbers alone; the configuration names the layers."""
    import h5py

    model = randomized(nested(AVG(), L.Dense(8, "relu"), softmax()))
    model.save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        for name in new.namelist():
            new.extract(name, tmp_path)
            if name.endswith(".h5"):
                with h5py.File(tmp_path / name, "r+") as file:
                    file.visititems(lambda _, item: item.attrs.pop("name", None))
            old.write(tmp_path / name, name)
    agree(model, tmp_path / "old.keras", False)


def test_half_precision(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = nested(AVG(), L.Dense(CLASSES), L.Activation("softmax", dtype="float32"))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model.save(tmp_path / "half.keras")
    pretrained = load(str(tmp_path / "half.keras"))
    assert (pretrained.scores, pretrained.num_classes) == ("softmax", CLASSES)
    config = json.loads(zipfile.ZipFile(tmp_path / "half.keras").read("config.json"))
    assert "mixed_float16" in json.dumps(config)


def made_after(head):
    """The backbone first, so that Keras numbers its layers first."""
    base, inputs = xception(), keras.Input((SIZE, SIZE, 3))
    x = base(inputs, training=False)
    for layer in head():
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_weights_alone_whose_head_follows_from_shapes(tmp_path, suffix):
    keras.utils.clear_session()
    model = made_after(
        lambda: (AVG(), L.Dense(32, "relu"), L.BatchNormalization(), L.Dropout(0.2), L.Dense(16, "relu"), softmax())
    )
    path = tmp_path / f"network{suffix}"
    randomized(model).save_weights(path) if suffix == ".weights.h5" else legacy_weights(randomized(model), path)
    pretrained, ours = probabilities(path)
    np.testing.assert_allclose(ours, expected(model, False), atol=1e-4, rtol=0)
    assert any("ReLU" in line for line in pretrained.assumed)


def legacy_weights(model, path):
    """As `save_weights("x.h5")` of Keras 2 writes them."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def test_a_head_that_fits_in_two_ways_is_refused(tmp_path):
    keras.utils.clear_session()
    model = made_after(lambda: (AVG(), L.Dense(128, "relu"), L.BatchNormalization(), softmax()))
    model.save_weights(tmp_path / "network.weights.h5")
    with pytest.raises(WeightsFileError, match="several orders of its head's 3 layers"):
        load(str(tmp_path / "network.weights.h5"))
