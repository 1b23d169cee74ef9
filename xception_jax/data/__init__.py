"""The input: data sets by name, decoding and augmentation, batches. It knows nothing of networks."""

from xception_jax.data.opening import open_source
from xception_jax.data.pipeline import Batch, BrokenPictures, evaluation_batches, train_batch, train_batches
from xception_jax.data.preprocessing import preprocessing_fingerprint
from xception_jax.data.source import Source

__all__ = [
    "Batch",
    "BrokenPictures",
    "Source",
    "evaluation_batches",
    "open_source",
    "preprocessing_fingerprint",
    "train_batch",
    "train_batches",
]
