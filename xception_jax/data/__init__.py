"""The input: data sets by name, decoding and augmentation, batches. It knows nothing of networks."""

from xception_jax.data.pipeline import Batch, BrokenPictures, evaluation_batches, train_batch, train_batches
from xception_jax.data.sources.base import Source
from xception_jax.data.sources.registry import open_source

__all__ = [
    "Batch",
    "BrokenPictures",
    "Source",
    "evaluation_batches",
    "open_source",
    "train_batch",
    "train_batches",
]
