"""Conversion of trained weights to files that other frameworks load, with what surrounds them."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.errors import UserError
from xception_jax.filesystem import atomic
from xception_jax.formats import writing
from xception_jax.inputs.spec import Normalization
from xception_jax.pretrained import card
from xception_jax.pretrained.identify import OPTIONS
from xception_jax.pretrained.layouts import native
from xception_jax.pretrained.layouts.keras import keras_layers, keras_table, norm_entries
from xception_jax.pretrained.layouts.keras_config import groups, keras_config
from xception_jax.pretrained.layouts.table import Entry, Table, to_foreign
from xception_jax.pretrained.layouts.timm import timm_table
from xception_jax.pretrained.load import load
from xception_jax.pretrained.pretrained import Pretrained

SUFFIXES = {
    "timm": (".safetensors",),
    "torchvision": (".safetensors",),
    "keras": (".keras", ".h5"),
    "npz": (".npz",),
    "native": (".safetensors",),
}
# Our networks' defaults for options in which frameworks differ.
DEFAULTS = {"bn_epsilon": 1e-3, "pool_padding": "same", "flavour": "torchvision"}
# Options that no other framework's network has, with the values that theirs correspond to.
FIXED = {
    "stem": "imagenet",
    "segments": None,
    "between": "none",
    "residual": True,
    "middle_blocks": 8,
    "output_stride": 32,
    "head": "",
}
IN_A_GRAPH = ("middle_blocks",)  # of these, what a .keras file has a place for
KERAS_VERSION = "3.0.0"  # whose form of configuration is written


def files(pretrained: Pretrained, to: str, output: Path) -> dict[Path, bytes]:
    """The contents of the weight file for another framework, and of the card beside it, if there is one.

    Raises:
      UserError: the framework has no such network, or no place for a part of this one.
    """
    if to == "native":
        return {output: native.write(pretrained)}
    for name, value in FIXED.items():
        if pretrained.options.get(name, value) != value and not (output.suffix == ".keras" and name in IN_A_GRAPH):
            hint = "; --to=keras --output=NAME.keras has a place for it" if name in IN_A_GRAPH else ""
            raise UserError(
                f"{to} has no equivalent of this {pretrained.model}: {name} is {pretrained.options[name]!r}{hint}"
            )
    if to in ("timm", "torchvision"):
        return {output.with_name(card.CONFIG): _timm_card(pretrained), output: _torch(pretrained, to)}
    head = pretrained.num_classes > 0
    if output.suffix == ".keras":
        return {output: _keras_archive(pretrained)}
    tensors = foreign(pretrained, keras_table(pretrained.model, head=head), to)
    if to == "npz":
        return {output: writing.npz(tensors)}
    return {output: writing.keras_h5(tensors, keras_layers(pretrained.model, head=head))}


def _torch(pretrained: Pretrained, to: str) -> bytes:
    """A state dict for timm or torchvision."""
    if to == "torchvision" and pretrained.model != "inception_v3":
        raise UserError(f"torchvision has inception_v3, but not {pretrained.model}; use --to=timm")
    head, aux = pretrained.num_classes > 0, bool(pretrained.options.get("aux_head"))
    return writing.safetensors(foreign(pretrained, timm_table(pretrained.model, head=head, aux_head=aux), to))


def _timm_card(pretrained: Pretrained) -> bytes:
    """timm's config.json."""
    names = {entry.path: entry.name.removesuffix(".weight") for entry in timm_table(pretrained.model).entries}
    first = next(iter(names.values()))
    more: dict[str, Any] = {"first_conv": first, "classifier": names["head", "logits", "kernel"]}
    if pretrained.options.get("aux_head"):
        more["tag"] = "tv_in1k"  # by this timm knows that there is one: it loads the rest
    architecture = card.TIMM_ARCHITECTURES.get(pretrained.model, pretrained.model)
    return json.dumps(card.card_of(pretrained, architecture, _numerics(pretrained), **more), indent=2).encode()


def _numerics(pretrained: Pretrained) -> dict[str, Any]:
    """The options that change what is computed, and that frameworks' files have no place for."""
    names = ("bn_epsilon", "pool_padding") if pretrained.model == "xception" else ()
    return {name: pretrained.options.get(name, DEFAULTS[name]) for name in names}


def _keras_archive(pretrained: Pretrained) -> bytes:
    """A .keras file."""
    blocks = {name: pretrained.options[name] for name in IN_A_GRAPH if name in pretrained.options}
    table = keras_table(pretrained.model, head=pretrained.num_classes > 0, **blocks)
    table = Table((*table.entries, *_keras_hidden(pretrained)))
    tensors = foreign(pretrained, table, "keras")
    config = keras_config(
        pretrained.model, tensors, pretrained.input, options=pretrained.options, activation=pretrained.scores
    )
    about = card.card_of(pretrained, pretrained.model, _numerics(pretrained))
    return writing.keras_archive(config, {"keras_version": KERAS_VERSION, card.OURS: about}, tensors, groups(config))


def _keras_hidden(pretrained: Pretrained) -> Iterator[Entry]:
    """The hidden layers of the head, as `keras_config` names them."""
    for i in range(len(pretrained.options.get("hidden", ()))):
        for part in ("kernel", "bias"):
            yield Entry("params", ("head", "hidden", i, part), f"hidden_{i}/{part}")
        if pretrained.options.get("hidden_norm"):
            yield from norm_entries(("head", "hidden_norms", i), f"hidden_{i}_bn")


def foreign(pretrained: Pretrained, table: Table, to: str) -> dict[str, np.ndarray]:
    """The arrays under the framework's names."""
    try:
        return to_foreign(pretrained.weights, table)
    except (KeyError, ValueError) as e:
        options = ", ".join(f"{k}={v}" for k, v in pretrained.options.items())
        raise UserError(
            f"{to} has no equivalent of this {pretrained.model} ({options or 'default options'}): {e}"
        ) from None


def caveats(pretrained: Pretrained, to: str, output: Path) -> list[str]:
    """What the other framework has to be told in order to compute the same: a sentence each."""
    if to == "native":
        own = ":" in pretrained.model
        return [f"a file must not choose code: to read it, name the network, --model={pretrained.model}"] if own else []
    configured = output.suffix == ".keras"
    notes = []
    if differing := _differing(pretrained, "keras" if to in ("keras", "npz") else "timm", configured):
        where = "Keras has no such pooling" if configured else "set it there, too"
        notes.append(f"these weights were trained with {', '.join(differing)}; {where}")
    spec = pretrained.input
    if spec.normalization.standardize or spec.stain:
        what = "stain-normalized and standardized tiles" if spec.stain else "images standardized each by itself"
        notes.append(f"the network expects {what}, which only this project's reader learns from the file")
    elif output.suffix in (".h5", ".npz") and spec.normalization != Normalization():
        mean, std = spec.normalization.mean, spec.normalization.std
        notes.append(f"the file has arrays alone; the network expects (pixels / 255 - {mean}) / {std}; .keras has it")
    return notes


def _differing(pretrained: Pretrained, framework: str, configured: bool) -> list[str]:
    """Options in which the framework's network differs; with a configuration, the file itself has the epsilon."""
    usual = OPTIONS.get((framework, pretrained.model), {})
    asked = ("pool_padding",) if configured else ("bn_epsilon", "pool_padding", "flavour")
    names = [name for name in asked if name in usual or name in pretrained.options]
    return [
        f"{name} {pretrained.options.get(name, DEFAULTS[name])} (default there: {usual.get(name, DEFAULTS[name])})"
        for name in names
        if pretrained.options.get(name, DEFAULTS[name]) != usual.get(name, DEFAULTS[name])
    ]


def convert(
    weights: str,
    to: str,
    output: Path,
    ignore: Sequence[str] = (),
    head: str | None = None,
    change: Callable[[Pretrained], Pretrained] = lambda pretrained: pretrained,
    model: str | None = None,
) -> Pretrained:
    """Writes trained weights to a file for another framework; returns the weights.

    Args:
      weights, ignore, head, model: as for `pretrained.load`.
      change: what is done to the weights before they are written.
      to: "timm", "torchvision", "keras", "npz" (Keras' names) or "native" (ours: any network with any options).
      output: the file; its suffix must match the format. For timm and torchvision a config.json is written beside it.

    Raises:
      UserError: the format has no place for these weights, or there is a config.json of others.
    """
    suffixes = SUFFIXES[to]
    if output.suffix not in suffixes or output.name.endswith(".weights.h5"):
        wanted = " or ".join(suffixes)
        raise UserError(f"--to={to} writes a {wanted} file (in Keras, .weights.h5 is another format), not {output}")
    pretrained = change(load(weights, model, ignore, head))
    written = files(pretrained, to, output)
    for path, contents in written.items():
        if path != output:
            _check_overwriting(path, contents, output)
    for path, contents in written.items():
        atomic.write_atomically(path, contents)
    return pretrained


def _check_overwriting(path: Path, contents: bytes, output: Path) -> None:
    """Raises UserError if a card is there that is not about `output`."""
    found = path.read_bytes() if path.is_file() else contents
    ours = output.exists() and f'"{card.OURS}"'.encode() in found
    if found != contents and not ours:
        raise UserError(f"{path} is there and describes other weights; give --output in another folder")
