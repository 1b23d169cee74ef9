"""The shapes and dtypes that annotations give arrays, checked at every call that a test makes, or traces.

jaxtyping's import hook decorates the package's functions with `check`. A letter of a function's shapes is one number in
all of a call's arrays. Annotations that name no array are mypy's.
"""

import functools
import operator
import re
import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
from beartype import beartype


def install() -> None:
    """Before the package is imported."""
    jaxtyping.install_import_hook("xception_jax", f"{__name__}.check")


def check(function: Callable) -> Callable:
    """The function, which raises at arguments and results that its annotations of arrays do not allow."""
    if function.__name__ == "__init__":  # the fields of a state hold shapes too, or shardings
        return function
    function.__annotations__ = {name: _checked(hint) or Any for name, hint in function.__annotations__.items()}
    return beartype(function)


def _checked(hint: Any) -> Any:
    """What is checked of an annotation; None: nothing."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        # JAX takes NumPy's arrays for its own, and of "C/G" a call does not tell the groups.
        known = re.sub(r"\S+/\S+", "_", hint.dim_str)
        return hint.dtype[hint.array_type | np.ndarray, known]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) not in (tuple, types.UnionType, typing.Union) or not any(map(_checked, arguments)):
        return None
    arguments = tuple(_checked(argument) or argument for argument in arguments)
    return tuple[arguments] if typing.get_origin(hint) is tuple else functools.reduce(operator.or_, arguments)
