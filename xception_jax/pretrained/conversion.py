"""Conversion of trained weights to files that other frameworks load."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xception_jax.errors import UserError
from xception_jax.formats import writing
from xception_jax.pretrained.identify import OPTIONS
from xception_jax.pretrained.layouts.keras import keras_layers, keras_table
from xception_jax.pretrained.layouts.table import Table, to_foreign
from xception_jax.pretrained.layouts.timm import timm_table
from xception_jax.pretrained.load import load
from xception_jax.pretrained.pretrained import Pretrained
from xception_jax.workdir import atomic

SUFFIXES = {"timm": ".safetensors", "torchvision": ".safetensors", "keras": ".h5", "npz": ".npz"}
# Our networks' defaults for options in which frameworks differ.
DEFAULTS = {"bn_epsilon": 1e-3, "pool_padding": "same", "flavour": "torchvision"}


def encode(pretrained: Pretrained, to: str) -> bytes:
    """The contents of a weight file for another framework.

    Raises:
      UserError: the framework has no such network.
    """
    head = pretrained.num_classes > 0
    if to in ("timm", "torchvision"):
        if to == "torchvision" and pretrained.model != "inception_v3":
            raise UserError(f"torchvision has inception_v3, but not {pretrained.model}; use --to=timm")
        table = timm_table(pretrained.model, head=head, aux_head=bool(pretrained.options.get("aux_head")))
        return writing.safetensors(foreign(pretrained, table, to))
    tensors = foreign(pretrained, keras_table(pretrained.model, head=head), to)
    return writing.npz(tensors) if to == "npz" else writing.keras_h5(tensors, keras_layers(pretrained.model, head=head))


def foreign(pretrained: Pretrained, table: Table, to: str) -> dict[str, np.ndarray]:
    """The arrays under the framework's names."""
    try:
        return to_foreign(pretrained.weights, table)
    except (KeyError, ValueError) as e:
        options = ", ".join(f"{k}={v}" for k, v in pretrained.options.items())
        raise UserError(
            f"{to} has no equivalent of this {pretrained.model} ({options or 'default options'}): {e}"
        ) from None


def caveat(pretrained: Pretrained, to: str) -> str:
    """The settings that the other framework's network needs in order to compute the same; "" if none."""
    framework = "keras" if to in ("keras", "npz") else "timm"
    usual = OPTIONS.get((framework, pretrained.model), {})
    names = [name for name in ("bn_epsilon", "pool_padding", "flavour") if name in usual or name in pretrained.options]
    differing = [
        f"{name} {pretrained.options.get(name, DEFAULTS[name])} (default there: {usual.get(name, DEFAULTS[name])})"
        for name in names
        if pretrained.options.get(name, DEFAULTS[name]) != usual.get(name, DEFAULTS[name])
    ]
    return f"these weights were trained with {', '.join(differing)}; set it there, too" if differing else ""


def convert(weights: str, to: str, output: Path, ignore: Sequence[str] = ()) -> Pretrained:
    """Writes trained weights to a file for another framework; returns the weights.

    Args:
      weights, ignore: as for `pretrained.load`.
      to: "timm", "torchvision", "keras" or "npz" (Keras' names).
      output: the file; its suffix must match the format.
    """
    suffix = SUFFIXES[to]
    if output.suffix != suffix or output.name.endswith(".weights.h5"):
        raise UserError(f"--to={to} writes a {suffix} file (in Keras, .weights.h5 is another format), not {output}")
    pretrained = load(weights, ignore=ignore)
    atomic.write_atomically(output, encode(pretrained, to))
    return pretrained
