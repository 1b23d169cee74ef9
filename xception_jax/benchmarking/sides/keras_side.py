"""Keras' networks on its JAX backend: SGD with momentum, bfloat16 through mixed precision."""

import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from protocol import LeftOut, Work, serve

Task = dict[str, Any]
NAMES = {"xception": "Xception", "inception_v3": "InceptionV3"}
NUM_CLASSES = 1000


def network(task: Task) -> Any:
    """Keras' network for the task, returning logits without softmax."""
    if task["model"] not in NAMES:
        raise LeftOut(f"Keras has no {task['model']}")
    if task["options"]:
        raise LeftOut(f"Keras' networks do not have the options {', '.join(task['options'])}")
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if task["dtype"] == "bfloat16" else "float32")
    size = task["image_size"]
    return getattr(keras.applications, NAMES[task["model"]])(
        weights=None, input_shape=(size, size, 3), classes=NUM_CLASSES, classifier_activation=None
    )


def batch(task: Task) -> tuple[jax.Array, jax.Array]:
    """Normalized images and labels, on the device."""
    rng, size = np.random.default_rng(0), task["image_size"]
    images = rng.uniform(-1, 1, (task["batch"], size, size, 3)).astype(np.float32)
    return jax.device_put(images), jax.device_put(rng.integers(0, NUM_CLASSES, task["batch"]))


def train(task: Task) -> Work:
    """Training steps."""
    model = network(task)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.045, 0.9), loss)
    images, labels = batch(task)
    return Work(lambda: model.train_on_batch(images, labels), facts=facts())


def infer(task: Task) -> Work:
    """Inference."""
    model = network(task)
    images, _ = batch(task)
    return Work(lambda: model.predict_on_batch(images), facts=facts())


def facts() -> dict[str, Any]:
    """Versions."""
    return {"versions": {"keras": keras.__version__, "jax": jax.__version__}}


TASKS: dict[str, Callable[[Task], Work]] = {"train": train, "infer": infer}

if __name__ == "__main__":
    serve(lambda task: TASKS[task["what"]](task))
