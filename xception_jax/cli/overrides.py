"""What a user knows better than a weight file: how images are shown to the network, its classes and scores."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from xception_jax.errors import UserError
from xception_jax.filesystem import paths
from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.models.head import parse
from xception_jax.pretrained import Pretrained
from xception_jax.terminal.words import outputs

INPUT = ("image_size", "resize", "interpolation")  # flags of the same name as the specification's
DECODING = ("orientation", "white", "max_pixels")  # as the fields of `Decoding`
NORMALIZATION = ("mean", "std", "input_range")


def override(pretrained: Pretrained, given: dict[str, Any]) -> Pretrained:
    """The weights with what the user gives in place of what came with them.

    Args:
      pretrained: as loaded.
      given: by the flags' names; what is missing stays. "image_size", "resize" and "interpolation" as in `InputSpec`;
        "mean" and "std", three numbers each, for pixels in 0..1; "input_range" instead of these, two numbers that
        black and white become; "classes", a text file with one name per line; "scores" as in `Pretrained`; "head", with
        which the weights were loaded; "orientation", "background", "white" and "max_pixels" as in `Decoding`.

    Raises:
      UserError: the flags contradict each other, or the file does not have as many names as the network has outputs.
    """
    if "head" in given:
        check_head(given["head"], pretrained)
    changes: dict[str, Any] = {name: given[name] for name in INPUT if name in given}
    if changes.get("resize", "crop") != "crop":
        changes["crop_fraction"] = 1.0
    decoding: dict[str, Any] = {name: given[name] for name in DECODING if name in given}
    if "background" in given:
        decoding["background"] = _colour(given["background"])
    changes["decoding"] = dataclasses.replace(pretrained.input.decoding, **decoding)
    if given.keys() & set(NORMALIZATION):
        changes["normalization"] = _normalization(pretrained.input.normalization, given)
    pretrained = dataclasses.replace(pretrained, input=dataclasses.replace(pretrained.input, **changes))
    if given.keys() - {"classes"}:  # prediction sets hold for the scores they were found with
        pretrained = dataclasses.replace(pretrained, conformal=None)
    if "classes" in given:
        names = class_names(Path(given["classes"]), pretrained)
        pretrained = dataclasses.replace(pretrained, class_names=names)
    return dataclasses.replace(pretrained, scores=given["scores"]) if "scores" in given else pretrained


def check_head(given: str, pretrained: Pretrained) -> None:
    """Raises UserError unless the weights were read with these steps: other files than PyTorch's say themselves."""
    steps = pretrained.options.get("head", "")
    if [step.kind for step in parse(given)] != [step.kind for step in parse(steps)]:
        has = f'"{steps}"' if steps else "no head of several layers"
        raise UserError(f'--head="{given}" is not the head of {pretrained.source}, which has {has}')


def _normalization(usual: Normalization, given: dict[str, Any]) -> Normalization:
    """The normalization by the flags --mean, --std and --input_range, some of which are given."""
    if "input_range" in given:
        if "mean" in given or "std" in given:
            raise UserError("--input_range says what --mean and --std say; give one or the other")
        black, white = _numbers("input_range", given["input_range"], 2)
        if white <= black:
            raise UserError(f"--input_range is {black:g},{white:g}; the second number must be the larger one")
        return Normalization((-black / (white - black),) * 3, (1 / (white - black),) * 3)
    if usual.standardize and not ("mean" in given and "std" in given):
        raise UserError("these weights standardize each image; to change that, give both --mean and --std")
    mean, std = (_numbers(name, given.get(name, getattr(usual, name)), 3) for name in ("mean", "std"))
    if min(std) <= 0:
        raise UserError(f"--std is {','.join(f'{value:g}' for value in std)}; all three must be positive")
    return Normalization((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def _colour(values: Any) -> tuple[int, int, int]:
    """The colour of the flag --background."""
    red, green, blue = _numbers("background", values, 3)
    if not all(0 <= c <= 255 and c == int(c) for c in (red, green, blue)):
        raise UserError(f"--background is {','.join(map(str, values))}; it must be whole numbers from 0 to 255")
    return int(red), int(green), int(blue)


def _numbers(name: str, values: Any, count: int) -> list[float]:
    """The numbers of a flag, which are as many as `count`."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise UserError(f"--{name}={','.join(map(str, values))} is not {count} numbers with commas between them")
    return numbers


def class_names(path: Path, pretrained: Pretrained) -> tuple[str, ...]:
    """The lines of a text file, as many as the network has outputs; blank ones at the end do not count."""
    try:
        names = paths.local(path).read_text("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8; --classes takes one with a class name per line") from None
    if len(names) != pretrained.num_classes:
        raise UserError(
            f"{path} has {len(names)} class names, one per line, but {pretrained.source} has {pretrained.num_classes} "
            "outputs; give a file with as many, in the order of the outputs"
        )
    return tuple(name.strip() for name in names)


def described(pretrained: Pretrained, given: dict[str, Any]) -> str:
    """What the network is shown and what its scores are, in one line; what the user gave is marked."""

    def said(text: str, *names: str) -> str:
        return f"{text} (given)" if given.keys() & set(names) else text

    spec = pretrained.input
    shown = [
        said(f"{spec.image_size} px", "image_size"),
        said(spec.resize if spec.resize != "crop" else f"crop {spec.crop_fraction:g}", "resize"),
        said(spec.interpolation, "interpolation"),
        said(_range(spec), *NORMALIZATION),
    ]
    if spec.decoding.white is not None:
        shown.append(said(f"white {spec.decoding.white}", "white"))
    scores = said(pretrained.scores, "scores")
    classes = f", {outputs(len(pretrained.class_names), pretrained.scores)} (given)" if "classes" in given else ""
    return f"weights: {pretrained.source}; input: {', '.join(shown)}; scores: {scores}{classes}"


def _range(spec: InputSpec) -> str:
    """What pixels become."""
    mean, std = spec.normalization.mean, spec.normalization.std
    if spec.normalization.standardize:
        text = "each image standardized"
    elif len(set(mean)) == len(set(std)) == 1:
        text = "pixels {:.4g} to {:.4g}".format(*((pixel - mean[0]) / std[0] + 0.0 for pixel in (0, 1)))
    else:
        text = f"mean {'/'.join(f'{m:g}' for m in mean)}, std {'/'.join(f'{s:g}' for s in std)}"
    return f"{text}, stain normalized" if spec.stain else text
