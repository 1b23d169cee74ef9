"""This project's input pipeline: training batches from a folder of images, as in training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xception_jax.benchmarking.sides.protocol import Work, batches_of, serve
from xception_jax.data import Batch, UnreadableImages, train_batches
from xception_jax.data.augmentation import Augmentation, find_augmentations
from xception_jax.data.sources.image_files import ImageFiles, find_images
from xception_jax.inputs.spec import InputSpec
from xception_jax.parallel import host_memory

# What configs/xception.py and configs/xception_rsb.py:a2 do with an image; mixing is a part of the step.
RECIPES = {
    "plain": ("bilinear", Augmentation()),
    "modern": ("bicubic", Augmentation(augment=find_augmentations("randaugment", {"magnitude": 7.0}))),
}


def batches(task: dict[str, Any]) -> Iterator[Batch]:
    """The batches that `training` iterates over."""
    interpolation, augmentation = RECIPES[task["recipe"]]
    return train_batches(
        ImageFiles(find_images([Path(task["data"])])[0]),
        InputSpec(image_size=task["image_size"], interpolation=interpolation),
        augmentation,
        batch_size=task["batch"],
        seed=0,
        start_step=0,
        broken=UnreadableImages(),
    )


def prepare(task: dict[str, Any]) -> Work:
    """A stream of batches."""
    return batches_of(batches(task))


if __name__ == "__main__":
    host_memory.reuse_step_memory()  # as training does
    serve(prepare)
