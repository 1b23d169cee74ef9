"""Converts weights between formats, and finds the first layer where two networks differ.

python -m xception_jax.convert --weights=X --to=timm|torchvision|keras|npz|native --output=Y
python -m xception_jax.convert --weights=X --to=native --output=Y --recalibrate=IMAGES
python -m xception_jax.convert --diff A B [--image=IMAGE]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from xception_jax.cli import called, common

if TYPE_CHECKING:
    from xception_jax.pretrained import Pretrained

USAGE = "--weights=X --to=timm|torchvision|keras|npz|native --output=Y, or --diff A B"
# Of a layer's largest activation: above what float32 rounding leaves after a hundred layers.
PARTED = 1e-3


def show_diff(layers: Sequence[tuple[str, float]]) -> None:
    """Prints the layers' differences, and the first layer at which the networks part."""
    from xception_jax.terminal import console

    table = console.plain_table("layer", "difference")
    first = next((i for i, (_, d) in enumerate(layers) if not d <= PARTED), None)
    around = range(len(layers)) if first is None else range(max(0, first - 2), min(len(layers), first + 3))
    for i in [*around][:5] if first is None else around:
        table.add_row(layers[i][0], f"{layers[i][1]:.1e}")
    console.console().print(table)
    if first is None:
        print(f"all {len(layers)} layers agree to {PARTED} (largest difference {max(d for _, d in layers):.1e})")
    else:
        print(f"the networks part at {layers[first][0]}, layer {first + 1} of {len(layers)}")


def recalibrate(pretrained: "Pretrained", images: Path) -> "Pretrained":
    """The weights with the statistics of images; says what could not be read."""
    from xception_jax.data import UnreadableImages
    from xception_jax.data.sources.image_files import find_images
    from xception_jax.inference.recalibration import recalibrated
    from xception_jax.terminal.console import progress

    files, remarks = find_images([images])
    logging.set_verbosity(logging.ERROR)  # unreadable images are listed at the end
    broken = UnreadableImages()
    with progress("images") as bar:
        task = bar.add_task("", total=len(files))
        found = recalibrated(pretrained, files, broken, lambda count: bar.advance(task, count))
    for line in [*remarks, *(f"not read: {name}: {reason}" for name, reason in sorted(broken.reasons.items()))]:
        print(line)
    return found


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string(
        "weights", None, "A file, a folder, a work directory (@best, @last or @STEP of it), or a name such as imagenet."
    )
    flags.DEFINE_enum("to", None, ["timm", "torchvision", "keras", "npz", "native"], "The format to write.")
    common.define_path("output", None, "The file to write: .safetensors, .keras, .h5 or .npz.")
    common.define_reading()
    common.define_path("recalibrate", None, "A folder of images: recompute batch normalization's statistics on them.")
    flags.DEFINE_bool("diff", False, "Compare the activations of the two networks given.")
    flags.DEFINE_string("image", None, "diff: the image that both are given; by default noise.")


def main(arguments: Sequence[str]) -> None:
    """Converts or compares."""
    flag = flags.FLAGS
    if flag.diff:
        if len(arguments) != 2:
            raise called.wrong_usage("convert", USAGE)
        from xception_jax.inference.activations import diff

        a, b = arguments
        show_diff(diff(a, b, Path(flag.image) if flag.image else None, flag.model))
        return
    if not (flag.weights and flag.to and flag.output) or arguments:
        raise called.wrong_usage("convert", USAGE)
    from xception_jax.cli.overrides import check_head
    from xception_jax.pretrained.conversion import caveats, convert
    from xception_jax.terminal.words import outputs

    def change(pretrained: "Pretrained") -> "Pretrained":
        if flag.head is not None:
            check_head(flag.head, pretrained)
        return recalibrate(pretrained, Path(flag.recalibrate)) if flag.recalibrate else pretrained

    pretrained = convert(flag.weights, flag.to, Path(flag.output), flag.ignore, flag.head, change, flag.model)
    scores = outputs(pretrained.num_classes, pretrained.scores)
    print(f"wrote {flag.output}: {pretrained.model}, {scores}, of {pretrained.source}")
    for line in pretrained.assumed:
        print(f"assumed: {line}")
    for note in caveats(pretrained, flag.to, Path(flag.output)):
        print(f"note: {note}")


if __name__ == "__main__":
    common.run(main, define_flags)
