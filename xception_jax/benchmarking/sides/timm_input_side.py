"""timm's training loader: torchvision's crop and Pillow's operations in the worker processes of PyTorch's DataLoader.

Batches are compared as ours are delivered, in uint8; timm's normalization on the device is left out.
"""

import os
from typing import Any

import torch
from protocol import BATCHES, Work, batches_of, serve
from torch_side import import_timm

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"interpolation": "bilinear"},
    "modern": {"interpolation": "bicubic", "auto_augment": "rand-m7-mstd0.5-inc1"},
}


def prepare(task: dict[str, Any]) -> Work:
    """A stream of batches, from as many workers as this process may use cores."""
    timm = import_timm()
    from timm.data import create_dataset, create_loader

    dataset = create_dataset("", root=task["data"])
    # At an epoch's end the loader waits for its workers: there is one long epoch.
    dataset.reader.samples *= -(-1000 * task["batch"] * BATCHES // len(dataset.reader.samples))
    loader = create_loader(
        dataset,
        input_size=(3, task["image_size"], task["image_size"]),
        batch_size=task["batch"],
        is_training=True,
        color_jitter=0.0,
        num_workers=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        device=torch.device("cpu"),
        **RECIPES[task["recipe"]],
    )
    return batches_of(iter(loader.loader), {"versions": {"timm": timm.__version__}})


if __name__ == "__main__":
    serve(prepare)
