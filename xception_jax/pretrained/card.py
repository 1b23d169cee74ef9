"""What surrounds weights: class names, input and licence, from files beside them, and written for others to read.

The vocabulary is that of timm's `config.json` (its `pretrained_cfg`). Class names are also read from the lists that
other programs write. A file that is damaged, says something impossible or is about another network is not used, and one
line says so: the weights themselves are complete.
"""

import dataclasses
import json
import math
import os
import re
import reprlib
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xception_jax.formats.limits import MAX_NAME
from xception_jax.inputs.choices import INTERPOLATIONS, Resize
from xception_jax.inputs.spec import Colour, InputSpec
from xception_jax.pretrained.pretrained import Pretrained

CONFIG = "config.json"
# Files with class names alone: one a line, a JSON list, {index: name} or {name: index}. The first that fits is used.
NAMES = (
    "labels.txt", "class_indices.json", "labels.json", "class_names.txt", "class_names.json", "classes.txt",
    "classes.json", "imagenet_classes.txt", "imagenet_classes.json", "imagenet_class_index.json",
)  # fmt: skip
MAX_BYTES = 16 << 20
MAX_SIDE = 4096  # pixels
OURS = "xception_jax"  # the key of what only this project's files say
# timm's names for ours, where they differ.
TIMM_INTERPOLATIONS = {"area": "box"}
CROP_MODES: dict[Resize, str] = {"crop": "center", "squash": "squash", "pad": "border"}
TIMM_ARCHITECTURES = {"xception": "legacy_xception"}
# What others put before and after a network's name: legacy_xception, tf_inception_v3.in1k.
ADDITIONS = re.compile(r"^(legacy|tf|tv|adv|gluon)_|\..*$")
INPUT_KEYS = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
KNOWN_KEYS = (*INPUT_KEYS, "architecture", "num_classes", "pretrained_cfg", "label_names", "id2label", "license", OURS)

Read = tuple[Pretrained, list[str]]  # the weights with what was read, and remarks on what was left out


def with_cards(pretrained: Pretrained, path: Path, own: Any = None) -> Pretrained:
    """Adds what the files beside the weights say, or the weight file itself.

    Args:
      pretrained: the weights, with their usual input.
      path: their file, or the folder that they are.
      own: the card inside the file; None if it has none. With it, files beside it are not read.
    """
    if own is not None:
        return _added(pretrained, f"the description inside {path}", described, own)
    folder = path if path.is_dir() else path.parent
    found = pretrained
    if os.path.lexists(file := folder / CONFIG):
        found = _added(found, str(file), _with_config, file)
    for name in NAMES:
        if found.class_names is pretrained.class_names and os.path.lexists(file := folder / name):
            found = _added(found, str(file), _with_list, file)
    return found


def inside(facts: Mapping[str, Any]) -> Any:
    """The card in a .keras file's metadata, as `card_of` makes it; None if there is none.

    Args:
      facts: the file's metadata, as from `read_tensors`.
    """
    metadata = facts.get("metadata")
    return metadata.get(OURS) if isinstance(metadata, dict) else None


def _added(pretrained: Pretrained, name: str, read: Callable[[Pretrained, Any], Read], source: Any) -> Pretrained:
    """What `read` makes of the weights and a source; the weights as they are, and one line, if it cannot.

    Args:
      name: of the source, for people.
    """
    try:
        found, remarks = read(pretrained, source)
    except OSError as e:
        found, remarks = pretrained, [f"it cannot be read ({e.strerror or e})"]
    except RecursionError:
        found, remarks = pretrained, ["it is nested too deeply"]
    except json.JSONDecodeError as e:
        found, remarks = pretrained, [f"it is damaged ({e})"]
    except UnicodeDecodeError:
        found, remarks = pretrained, ["it is not text"]
    except (ValueError, OverflowError) as e:
        found, remarks = pretrained, [str(e)]
    if remarks:
        what = "is not used" if found is pretrained else "is used in part"
        print(f"warning: {name} {what}: {'; '.join(remarks)}", file=sys.stderr)
    return found


def _with_config(pretrained: Pretrained, file: Path) -> Read:
    return described(pretrained, json.loads(_text(file)))


def _with_list(pretrained: Pretrained, file: Path) -> Read:
    return _with_names(pretrained, _listed(file))


def described(pretrained: Pretrained, card: Any) -> Read:
    """The weights with what a card says of them, and remarks on what is left out.

    Args:
      card: as in timm's config.json: the facts at its first level or in its `pretrained_cfg`, null if unknown; class
        names as `label_names` or transformers' `id2label`.

    Raises:
      ValueError: the card is about another network, or one of its facts is impossible.
    """
    facts = _facts(card)
    architecture = facts.get("architecture", pretrained.model)
    if not isinstance(architecture, str) or ADDITIONS.sub("", architecture.lower()) != pretrained.model:
        raise ValueError(f"it describes {_short(architecture)}, but the weights are of {pretrained.model}")
    spec, remarks = _input(pretrained.input, facts)
    licence = facts.get("license", pretrained.licence)
    found = dataclasses.replace(pretrained, input=spec, licence=_line("license", licence) if licence else "")
    found = _with_our_facts(found, facts.get(OURS, {}))
    names = facts.get("label_names", facts.get("id2label"))
    if names is not None:
        found, more = _with_names(found, _names(names))
        remarks += more
    return found, remarks


def _facts(card: Any) -> dict[str, Any]:
    """The card's facts at one level, without those that are null."""
    if not isinstance(card, dict):
        raise ValueError(f"it is {_short(card)}, not an object")
    if not any(key in card for key in KNOWN_KEYS):
        raise ValueError("it says nothing of classes or input; another program's?")
    nested = card.get("pretrained_cfg")
    if not isinstance(nested, dict | None):
        raise ValueError(f"its pretrained_cfg is {_short(nested)}, not an object")
    return {key: value for level in (nested or {}, card) for key, value in level.items() if value is not None}


def _with_names(pretrained: Pretrained, names: tuple[str, ...]) -> Read:
    """The weights with class names, if there are as many as outputs."""
    if names == tuple(f"LABEL_{i}" for i in range(len(names))):  # transformers' where nobody gave any
        return pretrained, []
    if len(names) != pretrained.num_classes:
        return pretrained, [f"it names {len(names)} classes, but the network has {pretrained.num_classes} outputs"]
    return dataclasses.replace(pretrained, class_names=names), []


def _input(spec: InputSpec, facts: Mapping[str, Any]) -> tuple[InputSpec, list[str]]:
    """The input specification with the facts of a card, and remarks on what is left out."""
    changes: dict[str, Any] = {}
    if "input_size" in facts:
        changes["image_size"] = _side(facts["input_size"])
    if "crop_pct" in facts:
        changes["crop_fraction"] = _number("crop_pct", facts["crop_pct"], above=0, most=1)
        changes["resize"] = "crop"  # timm's unless it says otherwise
    if "crop_mode" in facts:
        rules = {mode: rule for rule, mode in CROP_MODES.items()}
        changes["resize"] = rules[_choice("crop_mode", facts["crop_mode"], [*rules])]
    colours: dict[str, Any] = {}
    if "mean" in facts:
        colours["mean"] = _colour("mean", facts["mean"], above=-2, most=2)
    if "std" in facts:
        colours["std"] = _colour("std", facts["std"], above=0, most=10)
    if colours:
        changes["normalization"] = dataclasses.replace(spec.normalization, **colours)
    remarks = []
    if "interpolation" in facts:
        given = facts["interpolation"]
        if not isinstance(given, str):
            raise ValueError(f"its interpolation is {_short(given)}")
        names = {name: name for name in INTERPOLATIONS} | {name: ours for ours, name in TIMM_INTERPOLATIONS.items()}
        changes["interpolation"] = names.get(given, spec.interpolation)
        if given not in names:
            remarks = [f"its interpolation is {_short(given)}; {spec.interpolation} is used"]
    return dataclasses.replace(spec, **changes), remarks


def _with_our_facts(pretrained: Pretrained, facts: Any) -> Pretrained:
    """What `card_of` writes for this project alone."""
    if not isinstance(facts, dict):
        raise ValueError(f"its {OURS} is {_short(facts)}, not an object")
    options, spec = dict(pretrained.options), pretrained.input
    changes: dict[str, Any] = {}
    if "bn_epsilon" in facts:
        options["bn_epsilon"] = _number("bn_epsilon", facts["bn_epsilon"], above=0, most=1)
    if "pool_padding" in facts and pretrained.model == "xception":
        options["pool_padding"] = _choice("pool_padding", facts["pool_padding"], ("same", "symmetric"))
    if "scores" in facts:
        changes["scores"] = _choice("scores", facts["scores"], ("softmax", "sigmoid", "linear"))
    if facts.get("standardize") is True:
        spec = dataclasses.replace(spec, normalization=dataclasses.replace(spec.normalization, standardize=True))
    if (stain := facts.get("stain")) is not None:
        if not isinstance(stain, list) or len(stain) != 2:
            raise ValueError(f"its stain is {_short(stain)}")
        means, stds = (_colour("stain", colours, above=-1000, most=1000) for colours in stain)
        spec = dataclasses.replace(spec, stain=(means, stds))
    return dataclasses.replace(pretrained, options=options, input=spec, **changes)


def card_of(pretrained: Pretrained, architecture: str, options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The description of weights that `described` reads, in the form of timm's config.json.

    Args:
      architecture: the network's name there.
      options: those of ours that the format has no place for, "bn_epsilon" and "pool_padding".
      **more: further entries of timm's `pretrained_cfg`.
    """
    spec = pretrained.input
    cfg = {
        "input_size": [3, spec.image_size, spec.image_size],
        "mean": list(spec.normalization.mean),
        "std": list(spec.normalization.std),
        "crop_pct": spec.crop_fraction,
        "crop_mode": CROP_MODES[spec.resize],
        "interpolation": TIMM_INTERPOLATIONS.get(spec.interpolation, spec.interpolation),
        "license": pretrained.licence or None,
        "num_classes": pretrained.num_classes,
    }
    ours: dict[str, Any] = dict(options) | {"scores": pretrained.scores}
    if spec.normalization.standardize:
        ours["standardize"] = True
    if spec.stain:
        ours["stain"] = [list(colours) for colours in spec.stain]
    card = {"architecture": architecture, "num_classes": pretrained.num_classes, "pretrained_cfg": cfg | more}
    if pretrained.class_names:
        card["label_names"] = list(pretrained.class_names)
    return card | {OURS: ours}


def _text(file: Path) -> str:
    """A small text file's contents.

    Raises:
      OSError, ValueError: it is not a file, is not text, or is too large.
    """
    if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for its writer
        raise ValueError("it is not a file")
    with file.open("rb") as f:
        data = f.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    return data.decode("utf-8-sig")


def _listed(file: Path) -> tuple[str, ...]:
    """The class names in one of the files `NAMES`."""
    text = _text(file)
    if file.suffix == ".json":
        return _names(json.loads(text))
    lines = text.rstrip().splitlines()
    numbered = [re.match(rf"{i}[\s:,]\s*(?=\S)", line) for i, line in enumerate(lines)]  # as Teachable Machine writes
    if len(lines) > 1 and all(numbered):
        lines = [line[match.end() :] for line, match in zip(lines, numbered, strict=True) if match]
    return _names(lines)


def _names(value: Any) -> tuple[str, ...]:
    """Class names from a list, {index: name} or {name: index}."""
    if isinstance(value, dict):
        value = _in_order(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"its class names are {_short(value)}, not a list of texts")
    return tuple(map(_name, value))


def _in_order(names: Mapping[str, Any]) -> list[Any]:
    """The names of {index: name} or {name: index}, by index."""
    if all(type(i) is int for i in names.values()):
        by_index = {i: name for name, i in names.items()}
    else:
        by_index = {int(i): name for i, name in names.items() if re.fullmatch(r"[0-9]{1,9}", i)}
    if len(by_index) != len(names) or any(i not in by_index for i in range(len(names))):
        raise ValueError(f"its classes are not numbered from 0 to {len(names) - 1}: {_short(names)}")
    return [by_index[i] for i in range(len(names))]


def _name(value: Any) -> str:
    """A class name; of Keras' [WordNet id, name], the name."""
    value = value[1] if isinstance(value, list) and len(value) == 2 else value
    return _line("class name", str(value) if type(value) is int else value)


def _line(key: str, value: Any) -> str:
    """A text of one line."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not text or len(text) > MAX_NAME or not text.isprintable():
        raise ValueError(f"a {key} is {_short(value)}")
    return text


def _side(value: Any) -> int:
    """The side of timm's input size, [3, side, side]."""
    ints = isinstance(value, list) and [x for x in value if type(x) is int]
    if not ints or ints != value or len(ints) != 3 or ints[0] != 3 or ints[1] != ints[2]:
        raise ValueError(f"its input_size is {_short(value)}, not [3, side, side]")
    if not 1 <= ints[1] <= MAX_SIDE:
        raise ValueError(f"its input_size is {_short(value)}; a side has 1 to {MAX_SIDE} pixels")
    return ints[1]


def _colour(key: str, value: Any, *, above: float, most: float) -> Colour:
    """Three numbers."""
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"its {key} is {_short(value)}, not three numbers")
    red, green, blue = (_number(key, x, above=above, most=most) for x in value)
    return red, green, blue


def _number(key: str, value: Any, *, above: float, most: float) -> float:
    """A finite number in a range; `above` itself is not in it."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"its {key} is {_short(value)}, not a number")
    if not above < value <= most:
        raise ValueError(f"its {key} is {_short(value)}; it must be above {above} and at most {most}")
    return float(value)


def _choice(key: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"its {key} is {_short(value)}, not one of {', '.join(choices)}")
    return str(value)


def _short(value: Any) -> str:
    """A value for a message: one line, not long."""
    return reprlib.repr(value)
