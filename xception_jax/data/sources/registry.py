"""Data sets by name."""

from pathlib import Path

from ml_collections import ConfigDict

from xception_jax.data.sources.base import Source
from xception_jax.data.sources.builtin import Digits, Synthetic
from xception_jax.data.sources.folder import Folder


def open_source(data: ConfigDict, split: str, image_size: int) -> Source:
    """One split of the data set that `config.data` names.

    Args:
      data: `config.data`.
      split: the split's name.
      image_size: side of synthetic pictures; others keep their own.

    Raises:
      UserError: there is no such data set or split, or it is not prepared; the message says what to do.
    """
    match data.name:
        case "folder":
            return Folder(Path(data.path).expanduser(), split, data.train_split)
        case "digits":
            return Digits(split)
        case "synthetic":
            return Synthetic(split, data.num_examples, data.num_classes, image_size)
        case name:
            from xception_jax.data.sources.tfds import TfdsSource  # TFDS is slow to import

            return TfdsSource(name, data.data_dir, split)
