"""The networks against Keras' with the same weights: logits, and what training does to the batch statistics.

Every number of the Keras networks is random, the statistics, gammas and betas too, so that nothing hides in a default.
Chollet's Inception V3 of August 2016, whose parameters the paper counts, is no longer in Keras: it is built here.
"""

import functools
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from keras import layers

from tests.peers import error, pictures
from xception_jax.models import build_network

pytestmark = pytest.mark.usefixtures("cheap_initializers")

NAMES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
SHORTCUTS = {128: "block2", 256: "block3", 728: "block4", 1024: "block13"}

INCEPTION_A = {"branch1x1": 1, "branch5x5": 2, "branch3x3dbl": 3, "branch_pool": 1}
INCEPTION_B = {"branch3x3": 1, "branch3x3dbl": 3}
INCEPTION_C = {"branch1x1": 1, "branch7x7": 3, "branch7x7dbl": 5, "branch_pool": 1}
INCEPTION_D = {"branch3x3": 2, "branch7x7x3": 4}
INCEPTION_E = {
    "branch1x1": 1,
    "branch3x3": 1,
    "branch3x3_a": 1,
    "branch3x3_b": 1,
    "branch3x3dbl": 2,
    "branch3x3dbl_a": 1,
    "branch3x3dbl_b": 1,
    "branch_pool": 1,
}
INCEPTION = {"stem": {"convs1": 3, "convs2": 2}}
INCEPTION |= {f"mixed{i}": INCEPTION_A for i in (0, 1, 2)} | {"mixed3": INCEPTION_B}
INCEPTION |= {f"mixed{i}": INCEPTION_C for i in (4, 5, 6, 7)} | {"mixed8": INCEPTION_D}
INCEPTION |= {f"mixed{i}": INCEPTION_E for i in (9, 10)}


def paper_inception_v3(input_tensor, weights=None, classifier_activation=None):
    """Chollet's first public Keras Inception V3: convolution with bias, ReLU, batch normalization."""

    def conv(x, filters, rows, columns, strides=1, padding="same"):
        x = layers.Conv2D(filters, (rows, columns), strides=strides, padding=padding, activation="relu")(x)
        return layers.BatchNormalization(axis=-1)(x)

    def chain(x, *units):
        for unit in units:
            x = conv(x, *unit)
        return x

    def average(x):
        return layers.AveragePooling2D(3, 1, padding="same")(x)

    join = layers.Concatenate(axis=-1)
    x = chain(input_tensor, (32, 3, 3, 2, "valid"), (32, 3, 3, 1, "valid"), (64, 3, 3))
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.MaxPooling2D(3, 2)(chain(x, (80, 1, 1), (192, 3, 3, 1, "valid")))
    for _ in range(3):
        one, five = chain(x, (64, 1, 1)), chain(x, (48, 1, 1), (64, 5, 5))
        x = join([one, five, chain(x, (64, 1, 1), (96, 3, 3), (96, 3, 3)), chain(average(x), (32, 1, 1))])
    three = chain(x, (384, 3, 3, 2, "valid"))
    double = chain(x, (64, 1, 1), (96, 3, 3), (96, 3, 3, 2, "valid"))
    x = join([three, double, layers.MaxPooling2D(3, 2)(x)])
    for inner, first in ((128, 128), (160, 160), (160, 160), (192, 160)):
        one, seven = chain(x, (192, 1, 1)), chain(x, (inner, 1, 1), (inner, 1, 7), (192, 7, 1))
        double = chain(x, (first, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7))
        x = join([one, seven, double, chain(average(x), (192, 1, 1))])
    three = chain(x, (192, 1, 1), (320, 3, 3, 2, "valid"))
    seven = chain(x, (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2, "valid"))
    x = join([three, seven, layers.AveragePooling2D(3, 2)(x)])
    for _ in range(2):
        one, three = chain(x, (320, 1, 1)), chain(x, (384, 1, 1))
        split = [chain(three, (384, 1, 3)), chain(three, (384, 3, 1))]
        double = chain(x, (448, 1, 1), (384, 3, 3))
        split += [chain(double, (384, 1, 3)), chain(double, (384, 3, 1))]
        x = join([one, *split, chain(average(x), (192, 1, 1))])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(input_tensor, layers.Dense(1000, name="predictions")(x))


KERAS = {
    "xception": keras.applications.Xception,
    "inception_v3": keras.applications.InceptionV3,
    "paper": paper_inception_v3,
}
OURS = {
    "xception": {"name": "xception"},
    "inception_v3": {"name": "inception_v3", "flavour": "keras"},
    "paper": {"name": "inception_v3", "flavour": "paper"},
}


def random_weight(rng, layer, name, shape):
    """Kernels keep the scale of what they are applied to, so that all layers matter to the logits.

    What is added before a ReLU is positive, so that most units are active: on channels that are nearly dead, training
    magnifies rounding (float32 is then 1e-3 off float64, in Keras too).
    """
    if name == "depthwise_kernel":
        return rng.normal(0, np.sqrt(1 / (shape[0] * shape[1])), shape)
    if name.endswith("kernel"):
        return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    ranges = {"gamma": (0.5, 1.5), "beta": (0, 2), "moving_variance": (0.5, 1.5), "bias": (1, 3)}
    return rng.uniform(*((-0.3, 0.3) if layer == "predictions" else ranges.get(name, (-0.3, 0.3))), shape)


@functools.cache
def keras_model(name):
    """A Keras network for any size, and its weights as {layer: {weight: array}}."""
    model = KERAS[name](weights=None, classifier_activation=None, input_tensor=keras.Input((None, None, 3)))
    rng = np.random.default_rng(7)
    weights = {}
    for layer in model.layers:
        for variable in layer.weights:
            value = random_weight(rng, layer.name, variable.name, variable.shape).astype(np.float32)
            variable.assign(value)
            weights.setdefault(layer.name, {})[variable.name] = value
    return model, weights


def in_order(weights, prefix):
    """Layers that Keras named itself, in the order in which they were made: conv2d, conv2d_1, .."""
    names = [n for n in weights if n.removeprefix(prefix).lstrip("_").isdecimal() or n == prefix]
    return [weights[n] for n in sorted(names, key=lambda n: int(n.removeprefix(prefix).lstrip("_") or 0))]


def xception_layers(weights):
    """Pairs of a Keras layer's weights and its path here."""
    unnamed = in_order(weights, "conv2d"), in_order(weights, "batch_normalization")
    for layer, block in [(w, SHORTCUTS[w["kernel"].shape[-1]]) for w in unnamed[0]]:
        yield layer, (block, "shortcut")
    for layer, block in [(w, SHORTCUTS[w["gamma"].shape[-1]]) for w in unnamed[1]]:
        yield layer, (block, "shortcut_bn")
    for name, layer in weights.items():
        block, _, rest = name.partition("_")
        if name == "predictions":
            yield layer, ("head", "logits")
        elif block in ("block1", "block14"):
            yield layer, (block, rest)
        elif block.startswith("block"):
            kind = "norms" if rest.endswith("_bn") else "sepconvs"
            yield layer, (block, kind, int(rest.removeprefix("sepconv").removesuffix("_bn")) - 1)


def inception_layers(weights):
    """Pairs of a Keras layer's weights and its path here: layers are made in the same order."""
    paths = [
        (block, branch, "units", i)
        for block, branches in INCEPTION.items()
        for branch, length in branches.items()
        for i in range(length)
    ]
    for path, conv, norm in zip(
        paths, in_order(weights, "conv2d"), in_order(weights, "batch_normalization"), strict=True
    ):
        yield conv, (*path, "conv")
        yield norm, (*path, "bn")
    yield weights["predictions"], ("head", "logits")


def converted(name, weights):
    """Keras' weights by their paths here."""
    flat = {}
    for layer, path in (xception_layers if name == "xception" else inception_layers)(weights):
        for key, value in layer.items():
            if key == "depthwise_kernel":  # [3, 3, C, 1] in Keras, [3, 3, 1, C] here
                flat[(*path, "depthwise", "kernel")] = value.transpose(0, 1, 3, 2)
            elif key == "pointwise_kernel":
                flat[(*path, "pointwise", "kernel")] = value
            else:
                flat[(*path, NAMES.get(key, key))] = value
    return flat


@functools.cache
def our_model(name):
    """Our network's structure, and the Keras network's weights in it."""
    model = nnx.eval_shape(lambda: build_network(rngs=nnx.Rngs(0), **OURS[name]))
    graphdef, state = nnx.split(model)
    flat = converted(name, keras_model(name)[1])
    shapes = {path: x.shape for path, x in flatten_dict(nnx.to_pure_dict(state)).items()}
    assert {path: x.shape for path, x in flat.items()} == shapes
    return graphdef, flat


@functools.partial(jax.jit, static_argnums=(0, 3))
def run_ours(graphdef, weights, images, train):
    model = nnx.merge(graphdef, weights)
    logits = model(images, train=train)
    return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def run_keras(model, images, train):
    def call(trainable, statistics, images):
        return model.stateless_call(trainable, statistics, images, training=train)

    trainable, statistics = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))
    with jax.numpy_rank_promotion("allow"):
        return jax.jit(call)(trainable, statistics, images)


@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("xception", 299, marks=pytest.mark.slow),
        ("xception", 139),
        pytest.param("inception_v3", 299, marks=pytest.mark.slow),
        pytest.param("inception_v3", 139, marks=pytest.mark.slow),
        pytest.param("paper", 139, marks=pytest.mark.slow),
    ],
)
def test_logits_and_statistics_are_keras_s(name, size, train):
    model, before = keras_model(name)
    images = pictures(size)
    expected, statistics = run_keras(model, images, train)
    graphdef, flat = our_model(name)
    logits, updated = run_ours(graphdef, unflatten_dict(flat), images, train)
    print(f"{name} {size} train={train}: logits {error(logits, expected):.1e}")
    assert np.ptp(expected, axis=0).mean() > 0.1  # the pictures' logits differ
    assert error(logits, expected) < 1e-4

    # What the statistics moved by: with momentum 0.99 their old values would hide a wrong new one.
    after = {layer: dict(values) for layer, values in before.items()}
    for variable, value in zip(model.non_trainable_variables, statistics, strict=True):
        layer, key = variable.path.split("/")[-2:]
        after[layer][key] = np.asarray(value)
    expected_statistics = converted(name, after)
    moved = {path: (np.asarray(x), expected_statistics[path], flat[path]) for path, x in flatten_dict(updated).items()}
    if train:
        worst = max(error(x - old, new - old) for x, new, old in moved.values())
        print(f"{name} {size} train={train}: what the statistics moved by, worst layer {worst:.1e}")
        assert worst < 1e-3
    else:
        assert all(np.array_equal(x, old) and np.array_equal(new, old) for x, new, old in moved.values())


def test_the_twin_has_the_paper_s_number_of_parameters():
    model, _ = keras_model("paper")
    assert sum(v.value.size for v in model.trainable_variables) == 23_626_728
    assert sum(v.value.size for v in model.non_trainable_variables) == 34_240
