"""Weights of classes, from a table."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from xception_jax.data.labelled.columns import read_table
from xception_jax.errors import UserError, some
from xception_jax.filesystem import paths

COLUMNS = ("class", "weight")


def read_class_weights(config: ConfigDict, key: str, class_names: Sequence[str]) -> tuple[float, ...] | None:
    """The weights [K] of classes, in the order of their names; None if the setting `key` is "".

    The table has the columns class and weight, 0 or more. A class that it lacks is an error; others are ignored.

    Raises:
      UserError: the table cannot be read, or lacks a class.
    """
    section, _, name = key.rpartition(".")
    if not (value := (config[section] if section else config)[name]):
        return None
    path = paths.local(value)
    if not path.is_file():
        raise UserError(f"config.{key}: there is no table {path}")
    table = read_table(path)
    if not set(COLUMNS) <= set(table):
        raise UserError(f"{path} has the columns {', '.join(table)}, but {' and '.join(COLUMNS)} are needed")
    weights = {}
    for name, text in zip(*(table[column] for column in COLUMNS), strict=True):
        try:
            weights[name] = float(text)
        except ValueError:
            weights[name] = -1.0
        if not 0 <= weights[name] < float("inf"):
            raise UserError(f'{path}: the weight of "{name}" is "{text}", not a number of 0 or more')
    if missing := [name for name in class_names if name not in weights]:
        raise UserError(f"{path} has no weight of {len(missing):,} of {len(class_names):,} classes: {some(missing)}")
    return tuple(weights[name] for name in class_names)
