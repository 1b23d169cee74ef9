"""Writes fixtures/pathology, a narrow network in the layout of Slideflow's published models, and fixtures/bundle, two
layers with their optimizer's state and metrics, both saved by TensorFlow.

    pip install tensorflow tf_keras && TF_USE_LEGACY_KERAS=1 python tests/pretrained/make_savedmodel_fixture.py

It was run once, with TensorFlow 2.21 and tf_keras 2.21. Every number is random. `expected.npz` has pictures (uint8) and
the outputs that TensorFlow computed for them after per-image standardization, or the arrays as TensorFlow has them.
saved_model.pb, which has the graph and which nothing here reads, is cut to its first bytes.
"""

import json
import os
import shutil
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf

keras = tf.keras
layers = keras.layers

FIXTURES = Path(__file__).parent / "fixtures"
FOLDER = FIXTURES / "pathology"
SIZE = 75
WIDTHS = {32: 8, 64: 8, 128: 8, 256: 8, 728: 8, 1024: 16, 1536: 16, 2048: 24}  # at width 24 / 2048
HIDDEN = 20


def xception() -> keras.Model:
    """Keras' Xception without its top, narrower: the same layers, of the same names, made in the same order."""

    def norm(x, name=None):
        return layers.BatchNormalization(name=name)(x)

    def sepconv(x, width, name):
        x = layers.SeparableConv2D(WIDTHS[width], 3, padding="same", use_bias=False, name=name)(x)
        return norm(x, f"{name}_bn")

    def relu(x, name):
        return layers.Activation("relu", name=name)(x)

    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(WIDTHS[32], 3, strides=2, use_bias=False, name="block1_conv1")(image)
    x = relu(norm(x, "block1_conv1_bn"), "block1_conv1_act")
    x = layers.Conv2D(WIDTHS[64], 3, use_bias=False, name="block1_conv2")(x)
    x = relu(norm(x, "block1_conv2_bn"), "block1_conv2_act")
    for block, widths in ((2, (128, 128)), (3, (256, 256)), (4, (728, 728)), (13, (728, 1024))):
        if block == 13:
            for middle in range(5, 13):
                residual = x
                for i in (1, 2, 3):
                    x = relu(x, f"block{middle}_sepconv{i}_act")
                    x = sepconv(x, 728, f"block{middle}_sepconv{i}")
                x = layers.add([x, residual])
        residual = layers.Conv2D(WIDTHS[widths[1]], 1, strides=2, padding="same", use_bias=False)(x)
        residual = norm(residual)
        if block != 2:
            x = relu(x, f"block{block}_sepconv1_act")
        x = sepconv(x, widths[0], f"block{block}_sepconv1")
        x = relu(x, f"block{block}_sepconv2_act")
        x = sepconv(x, widths[1], f"block{block}_sepconv2")
        x = layers.MaxPooling2D(3, strides=2, padding="same", name=f"block{block}_pool")(x)
        x = layers.add([x, residual])
    for i, width in ((1, 1536), (2, 2048)):
        x = relu(sepconv(x, width, f"block14_sepconv{i}"), f"block14_sepconv{i}_act")
    return keras.Model(image, layers.GlobalAveragePooling2D()(x), name="xception")


def network() -> keras.Model:
    """The graph of the models: base, dropout, twice (dense, normalization, dropout), logits, softmax."""
    base = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), name="tile_image"),
            xception(),
            layers.Activation("linear", name="post_convolution"),
            layers.Dropout(0.1),
        ]
    )
    x = base.output
    for i in range(2):
        x = layers.Dense(HIDDEN, activation="relu", name=f"hidden_{i}")(x)
        x = layers.BatchNormalization()(x)
        x = layers.Dropout(0.1)(x)
    x = layers.Dense(2, name="prelogits")(x)
    return keras.Model(base.input, layers.Activation("softmax", name="output")(x))


def randomize(model: keras.Model) -> None:
    rng = np.random.default_rng(0)
    for variable in model.weights:
        kind, shape = variable.name.split("/")[-1].removesuffix(":0"), tuple(variable.shape)
        if "kernel" in kind:
            fan_in = 9 if kind == "depthwise_kernel" else np.prod(shape[:-1])
            gain = 0.1 if "prelogits" in variable.name else 1  # no probability is 0 or 1
            value = rng.normal(0, gain * np.sqrt((1 if kind == "depthwise_kernel" else 2) / fan_in), shape)
        else:
            low, high = {"gamma": (0.5, 1.5), "beta": (-0.2, 1), "moving_variance": (0.5, 1.5)}.get(kind, (-0.3, 0.3))
            value = rng.uniform(low, high, shape)
        variable.assign(value.astype(np.float32))


def save(model: keras.Model, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model.save(folder, save_format="tf")
    for name in ("assets", "fingerprint.pb", "keras_metadata.pb"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    graph = folder / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:64])


def bundle() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, use_bias=False, name="block1_conv1")(image)
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name="block1_conv1_bn")(x))
    model = keras.Model(image, layers.Dense(2, name="predictions")(x))
    randomize(model)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "mse", metrics=["mae"])
    model.fit(np.ones((2, 8, 8, 3)), np.ones((2, 2)), verbose=0)
    save(model, FIXTURES / "bundle")
    np.savez(FIXTURES / "bundle" / "expected.npz", **{v.name.removesuffix(":0"): v.numpy() for v in model.weights})


def main() -> None:
    bundle()
    for _ in range(2):  # so that numbered layers don't begin at 0, as in a session of several models
        model = network()
    randomize(model)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "categorical_crossentropy", metrics=["accuracy"])
    pictures = np.random.default_rng(1).integers(0, 256, (2, 15, 15, 3), np.uint8).repeat(5, 1).repeat(5, 2)
    standardized = tf.image.per_image_standardization(pictures)
    # One step, so that there is an optimizer's state to leave out.
    model.fit(standardized, np.eye(2, dtype=np.float32), epochs=1, verbose=0)
    outputs = [model.get_layer(name).output for name in ("post_convolution", "prelogits", "output")]
    features, logits, probabilities = (x.numpy() for x in keras.Model(model.input, outputs)(standardized))

    save(model, FOLDER)
    params = {
        "slideflow_version": "1.1.0",
        "model_type": "categorical",
        "tile_px": 299,
        "tile_um": 302,
        "outcome_labels": {"0": "Adenocarcinoma", "1": "Squamous"},
        "norm_fit": {
            "target_means": [63.71194, 20.716246, -12.290746],
            "target_stds": [14.52781, 8.344005, 8.300264],
        },
        "hp": {
            "model": "xception",
            "tile_px": 299,
            "tile_um": 302,
            "hidden_layers": 2,
            "hidden_layer_width": HIDDEN,
            "dropout": 0.1,
            "uq": True,
            "pooling": "avg",
            "normalizer": "reinhard_fast",
            "normalizer_source": "v1",
        },
    }
    (FOLDER / "params.json").write_text(json.dumps(params, indent=1))
    np.savez_compressed(
        FOLDER / "expected.npz",
        pictures=pictures,
        standardized=standardized,
        features=features,
        logits=logits,
        probabilities=probabilities,
    )
    print(probabilities)


if __name__ == "__main__":
    main()
