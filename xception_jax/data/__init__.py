"""The input pipeline: data sets by name, decoding, augmentation and batches. It does not depend on the networks."""

from xception_jax.data.pipeline import Batch, UnreadableImages, evaluation_batches, train_batch, train_batches
from xception_jax.data.sources.base import Source
from xception_jax.data.sources.registry import open_source

__all__ = [
    "Batch",
    "Source",
    "UnreadableImages",
    "evaluation_batches",
    "open_source",
    "train_batch",
    "train_batches",
]
