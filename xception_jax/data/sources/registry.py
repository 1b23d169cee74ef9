"""Data sets by name."""

from collections.abc import Callable, Mapping
from typing import Any

from xception_jax.data.labelled import columns_from, open_labelled, split_source
from xception_jax.data.sources.base import Source
from xception_jax.data.sources.builtin import Digits, Synthetic
from xception_jax.data.sources.folder import Folder
from xception_jax.errors import UserError
from xception_jax.extension.names import Registry, check_options, parameters, wanted
from xception_jax.filesystem import paths
from xception_jax.tasks.task import SINGLE_LABEL, TaskName

# From a split's name to its examples. Other parameters are settings of `config.data`, or `image_size`.
Opener = Callable[..., Source]


def open_folder(split: str, *, path: str, train_split: str) -> Source:
    """A folder laid out as split/class/image."""
    return Folder(paths.local(path), split, train_split)


def open_table(
    split: str, *, path: str, columns: Mapping[str, str | None], task: TaskName | None, seed: int, data_dir: str
) -> Source:
    """Whatever `open_labelled` reads; splits that are not given are made by the seed."""
    if not path:
        raise UserError("set the table of files and labels by --config.data.path=TABLE")
    labelled = open_labelled(paths.local(path), columns_from(columns), task=task, seed=seed, data_dir=data_dir)
    return split_source(labelled, split)


def open_digits(split: str) -> Source:
    """Handwritten digits."""
    return Digits(split)


def open_synthetic(
    split: str, *, num_examples: int, num_classes: int, image_size: int, task: TaskName | None = None
) -> Source:
    """Random images with labels of a task, or one class each."""
    return Synthetic(split, num_examples, num_classes, image_size, task or SINGLE_LABEL.name)


DATA_SETS: Registry[Opener] = Registry(
    "data set", {"folder": open_folder, "table": open_table, "digits": open_digits, "synthetic": open_synthetic}
)


def register_data_set(name: str, function: Opener) -> Opener:
    """Registers your own data set under a name for configs, in this process.

    Args:
      name: any name without a colon.
      function: from a split's name to its examples; other parameters are settings of `config.data`, or `image_size`.

    Returns:
      `function`.
    """
    return DATA_SETS.register(name, function)


def open_source(name: str, split: str, settings: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Source:
    """One split of a data set.

    Args:
      name: a registered name, "package.module:function", or a TFDS name.
      split: the split's name.
      settings: passed to the data set's parameters of the same name: those of `config.data`, and `image_size`.
      own: the settings added by the user: the data set must have a parameter for each.

    Raises:
      UserError: unknown data set or split, or the data set is not prepared; the message says what to do.
    """
    opener = DATA_SETS.find(name) if name in DATA_SETS else _open_tfds
    choices = {*parameters(opener), *(set(settings) - set(own or {}))} - {"split"}
    what = f'data set "{name}"'
    check_options(what, own or {}, choices, "data.")
    if settings.get("path") and "path" not in parameters(opener):
        raise UserError(
            f'{what} does not read config.data.path, which is "{settings["path"]}"; images in folders are '
            "config.data.name=folder, those of a table config.data.name=table"
        )
    return opener(split, **wanted(opener, {**settings, "name": name}, 1, what, "data"))


def as_published(name: str) -> bool:
    """Whether a data set's pictures are seen as they are stored: published figures of TFDS' ignore EXIF data."""
    return name not in DATA_SETS


def _open_tfds(split: str, *, name: str, data_dir: str, label: str, absent: str) -> Source:
    from xception_jax.data.sources.tfds import TfdsSource  # TFDS is slow to import

    return TfdsSource(name, data_dir, split, label, absent)
