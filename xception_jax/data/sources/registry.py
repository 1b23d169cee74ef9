"""Data sets by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xception_jax.data.sources.base import Source
from xception_jax.data.sources.builtin import Digits, Synthetic
from xception_jax.data.sources.folder import Folder
from xception_jax.errors import UserError, suggest
from xception_jax.extension.names import Registry, parameters, wanted

# From a split's name to its examples. Further parameters are settings: those of `config.data`, and `image_size`.
Opener = Callable[..., Source]


def open_folder(split: str, *, path: str, train_split: str) -> Source:
    """A folder that holds split/class/picture."""
    return Folder(Path(path).expanduser(), split, train_split)


def open_digits(split: str) -> Source:
    """Handwritten digits."""
    return Digits(split)


def open_synthetic(split: str, *, num_examples: int, num_classes: int, image_size: int) -> Source:
    """Random pictures."""
    return Synthetic(split, num_examples, num_classes, image_size)


DATA_SETS: Registry[Opener] = Registry(
    "data set", {"folder": open_folder, "digits": open_digits, "synthetic": open_synthetic}
)


def register_data_set(name: str, function: Opener) -> Opener:
    """Adds a data set of your own, by a name that configs take.

    Args:
      name: any, without a colon.
      function: from a split's name to its examples; further parameters are settings of `config.data`, or `image_size`.

    Returns:
      `function`.
    """
    return DATA_SETS.register(name, function)


def open_source(name: str, split: str, settings: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Source:
    """One split of a data set.

    Args:
      name: registered, "package.module:function", or TFDS' name of a data set.
      split: the split's name.
      settings: those that a data set may have a parameter for: `config.data`'s and `image_size`.
      own: of these, the ones that the user has added: the data set must have a parameter for each.

    Raises:
      UserError: there is no such data set or split, or it is not prepared; the message says what to do.
    """
    opener = DATA_SETS.find(name) if name in DATA_SETS else _open_tfds
    for option in own or {}:
        if option not in parameters(opener):
            choices = {*parameters(opener), *settings} - {"split", *(own or {})}
            raise UserError(f'data set "{name}" has no option data.{option}; {suggest(option, choices)}')
    return opener(split, **wanted(opener, {**settings, "name": name}))


def _open_tfds(split: str, *, name: str, data_dir: str) -> Source:
    from xception_jax.data.sources.tfds import TfdsSource  # TFDS is slow to import

    return TfdsSource(name, data_dir, split)
