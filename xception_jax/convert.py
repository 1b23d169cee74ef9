"""Weights from one format into another, and where two networks part.

python -m xception_jax.convert --weights=X --to=timm|torchvision|keras|npz --output=Y
python -m xception_jax.convert --diff A B [--image=PICTURE]
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from flax import nnx
from rich.console import Console
from rich.table import Table

from xception_jax import config
from xception_jax.cli import common
from xception_jax.data.views import BrokenPictureError, central_crop, decode
from xception_jax.errors import UserError
from xception_jax.formats import writing
from xception_jax.inference.activations import activations
from xception_jax.models import create_model
from xception_jax.models.backbone import Backbone
from xception_jax.pretrained import Pretrained, fill, load, transplant
from xception_jax.pretrained.identify import OPTIONS
from xception_jax.pretrained.layouts.keras import keras_layers, keras_table
from xception_jax.pretrained.layouts.table import Table as NameTable
from xception_jax.pretrained.layouts.table import to_foreign
from xception_jax.pretrained.layouts.timm import timm_table
from xception_jax.training import state as train_state
from xception_jax.workdir import atomic

USAGE = (
    "usage: python -m xception_jax.convert --weights=X --to=timm|torchvision|keras|npz --output=Y, "
    "or python -m xception_jax.convert --diff A B"
)
SUFFIXES = {"timm": ".safetensors", "torchvision": ".safetensors", "keras": ".h5", "npz": ".npz"}
# Of a layer's largest activation: above what float32 rounding leaves after a hundred layers.
PARTED = 1e-3
# Of our networks, where frameworks differ.
DEFAULTS = {"bn_epsilon": 1e-3, "pool_padding": "same", "flavour": "torchvision"}


def encode(pretrained: Pretrained, to: str) -> bytes:
    """The file of weights that another framework loads.

    Raises:
      UserError: the framework has no such network.
    """
    head = pretrained.num_classes > 0
    if to in ("timm", "torchvision"):
        if to == "torchvision" and pretrained.model != "inception_v3":
            raise UserError(f"torchvision has inception_v3, no {pretrained.model}; --to=timm has")
        table = timm_table(pretrained.model, head=head, aux_head=bool(pretrained.options.get("aux_head")))
        return writing.safetensors(foreign(pretrained, table, to))
    tensors = foreign(pretrained, keras_table(pretrained.model, head=head), to)
    return writing.npz(tensors) if to == "npz" else writing.keras_h5(tensors, keras_layers(pretrained.model, head=head))


def foreign(pretrained: Pretrained, table: NameTable, to: str) -> dict[str, np.ndarray]:
    """The arrays under the framework's names."""
    try:
        return to_foreign(pretrained.weights, table)
    except (KeyError, ValueError) as e:
        options = ", ".join(f"{k}={v}" for k, v in pretrained.options.items())
        raise UserError(
            f"{to} has no network like this {pretrained.model} ({options or 'default options'}): {e}"
        ) from None


def caveat(pretrained: Pretrained, to: str) -> str:
    """What must be set in the other framework's network for it to compute the same, or nothing."""
    framework = "keras" if to in ("keras", "npz") else "timm"
    usual = OPTIONS.get((framework, pretrained.model), {})
    names = [name for name in ("bn_epsilon", "pool_padding", "flavour") if name in usual or name in pretrained.options]
    differing = [
        f"{name} {pretrained.options.get(name, DEFAULTS[name])} (there {usual.get(name, DEFAULTS[name])})"
        for name in names
        if pretrained.options.get(name, DEFAULTS[name]) != usual.get(name, DEFAULTS[name])
    ]
    return f"these weights were trained with {', '.join(differing)}: set it there too" if differing else ""


def convert(weights: str, to: str, output: Path) -> Pretrained:
    """Writes trained weights into a file that another framework loads; returns them.

    Args:
      weights: as `pretrained.load` takes them.
      to: "timm", "torchvision", "keras" or "npz" (Keras' names).
      output: the file; its suffix must be the format's.
    """
    suffix = SUFFIXES[to]
    if output.suffix != suffix or output.name.endswith(".weights.h5"):
        raise UserError(f"--to={to} writes a {suffix} file (Keras takes .weights.h5 for another format), not {output}")
    pretrained = load(weights)
    atomic.write_atomically(output, encode(pretrained, to))
    return pretrained


def diff(a: str, b: str, picture: Path | None = None) -> list[tuple[str, float]]:
    """How far the activations of two networks are apart in each layer, in the order in which they are computed.

    Args:
      a, b: weights, as `pretrained.load` takes them. Each is computed with its own options (epsilon, padding), on the
        input that it expects of the same pixels.
      picture: what both see; None: noise.

    Returns:
      Layers and the largest difference in each, relative to its largest activation in `a`.
    """
    first, second = load(a), load(b)
    if first.model != second.model:
        raise UserError(f"{a} is {first.model}, {b} is {second.model}: networks of different layers cannot be compared")
    pixels = _pixels(first, picture)
    of_a, of_b = (activations(network(p), p.input.normalization(pixels)) for p in (first, second))
    shared = [layer for layer in of_a if layer in of_b and of_a[layer].shape == of_b[layer].shape]
    return [(k, float(np.abs(of_a[k] - of_b[k]).max() / max(np.abs(of_a[k]).max(), 1e-30))) for k in shared]


def network(pretrained: Pretrained) -> Backbone:
    """The network with its weights."""
    model = create_model(pretrained.model, num_classes=pretrained.num_classes, rngs=nnx.Rngs(0), **pretrained.options)
    graphdef, fresh = train_state.split(model)
    return train_state.merge(graphdef, fill(fresh, transplant(pretrained, fresh)[0]))


def _pixels(pretrained: Pretrained, picture: Path | None) -> np.ndarray:
    size = pretrained.input.image_size
    if picture is None:
        return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    data = config.default().data
    data.crop_fraction, data.interpolation = pretrained.input.crop_fraction, pretrained.input.interpolation
    try:
        return central_crop(decode(picture.read_bytes()), size, data)[None]
    except BrokenPictureError as e:
        raise UserError(f"{picture} cannot be read: {e}") from None


def show_diff(layers: Sequence[tuple[str, float]]) -> None:
    """Prints the layers' differences, and the first layer at which the networks part."""
    table = Table("layer", "difference", box=None, pad_edge=False)
    first = next((i for i, (_, d) in enumerate(layers) if not d <= PARTED), None)
    around = range(len(layers)) if first is None else range(max(0, first - 2), min(len(layers), first + 3))
    for i in [*around][:5] if first is None else around:
        table.add_row(layers[i][0], f"{layers[i][1]:.1e}")
    Console().print(table)
    if first is None:
        print(f"all {len(layers)} layers agree to {PARTED} (largest difference {max(d for _, d in layers):.1e})")
    else:
        print(f"the networks part at {layers[first][0]}, layer {first + 1} of {len(layers)}")


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("weights", None, "A file, a folder, a work directory, or a name such as imagenet.")
    flags.DEFINE_enum("to", None, list(SUFFIXES), "The format to write.")
    flags.DEFINE_string("output", None, "The file to write.")
    flags.DEFINE_bool("diff", False, "Compare the activations of the two networks given.")
    flags.DEFINE_string("image", None, "diff: the picture that both see; by default noise.")


def main(arguments: Sequence[str]) -> None:
    """Converts or compares."""
    flag = flags.FLAGS
    if flag.diff:
        if len(arguments) != 2:
            raise UserError(USAGE)
        a, b = arguments
        show_diff(diff(a, b, Path(flag.image) if flag.image else None))
        return
    if not (flag.weights and flag.to and flag.output) or arguments:
        raise UserError(USAGE)
    pretrained = convert(flag.weights, flag.to, Path(flag.output))
    print(f"wrote {flag.output}: {pretrained.model}, {pretrained.num_classes} classes, for {flag.to}")
    if note := caveat(pretrained, flag.to):
        print(f"note: {note}")


if __name__ == "__main__":
    common.run(main, define_flags)
