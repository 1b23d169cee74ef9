"""Trained weights from a file, a folder, a work directory or a name."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xception_jax.errors import UserError
from xception_jax.formats.detect import read_tensors, weights_in
from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.models.cards import usual_input
from xception_jax.pretrained import hub
from xception_jax.pretrained.identify import FAMILIES, recognize
from xception_jax.pretrained.layouts import slideflow
from xception_jax.pretrained.pretrained import Pretrained, imagenet_classes

IMAGENET = 1000
FID_INPUT = InputSpec(299, 1.0, "bilinear")  # the whole image, as in pytorch-fid


def load(weights: str | Path, model: str | None = None, ignore: Sequence[str] = ()) -> Pretrained:
    """Loads trained weights, with everything needed to use them.

    Args:
      weights: a file (Keras' .h5, .weights.h5 or .keras, .safetensors, PyTorch's .pth, .npz in Keras' layout), a
        TensorFlow SavedModel folder or checkpoint, a folder with a file of weights (as on the Hugging Face hub, in
        several parts too), a work directory of ours, or a name: "imagenet" (Keras' file),
        "timm/..." or "jamesdolezal/..." on the Hugging Face hub. Files are recognised by their contents. A work
        directory gives its best checkpoint, or the last if none was evaluated; "DIR@last", "DIR@best" and "DIR@STEP"
        select one.
      model: the expected network; None: any.
      ignore: patterns (of `fnmatch`) of the names of arrays to leave out of a file, such as "fc.*".

    Raises:
      UserError: the file or name does not exist, cannot be read, or belongs to another network.
    """
    name, which = _checkpoint_of(str(weights))
    path = hub.find(name, model)
    pretrained = read(path, str(weights), which, ignore)
    if model is not None and pretrained.model != model:
        raise UserError(
            f"{weights} are the weights of {FAMILIES.get(pretrained.model, 'a network')} (--model={pretrained.model}), "
            f"not of {FAMILIES.get(model, model)} ({model})"
        )
    return pretrained


def _checkpoint_of(weights: str) -> tuple[str, str | None]:
    """Splits "DIR@best" into "DIR" and "best", if DIR is a folder and the whole name is not a path."""
    name, at, which = weights.rpartition("@")
    is_checkpoint = at and Path(name).expanduser().is_dir() and not Path(weights).expanduser().exists()
    return (name, which) if is_checkpoint else (weights, None)


def read(path: Path, source: str, which: str | None = None, ignore: Sequence[str] = ()) -> Pretrained:
    """The weights in a file or folder.

    Args:
      path: the file or folder.
      source: its name in messages.
      which: the checkpoint of a work directory, as for `read_workdir`.
      ignore: as for `load`.
    """
    if ignore and ((path / "checkpoints").is_dir() or slideflow.find(path) is not None):
        raise UserError(f"{path} has no arrays to leave out: --ignore is for files of other programs")
    if (path / "checkpoints").is_dir():
        from xception_jax.pretrained.layouts.workdir import read_workdir  # Orbax is slow to import

        return read_workdir(path, source, which)
    if which is not None:
        raise UserError(f'{path} is not a work directory: it has no checkpoint "{which}"')
    if slideflow.find(path) is not None:
        return of_pathology(path, source)
    path = weights_in(path)
    kind, tensors, metadata = read_tensors(path)
    found = recognize(tensors, source, ignore)
    notes = list(found.notes)
    if kind == "torch" and metadata["averaged"]:
        notes.insert(0, f"the averaged weights, {metadata['averaged']}")
    class_names = imagenet_classes() if found.num_classes == IMAGENET else ()
    if kind == "torch" and len(metadata["class_names"]) == found.num_classes:
        class_names = tuple(metadata["class_names"])
    pretrained = Pretrained(
        f"{source} ({'; '.join(notes)})" if notes else source,
        found.model,
        found.options,
        found.num_classes,
        found.weights,
        FID_INPUT if found.options.get("flavour") == "fid" else usual_input(found.framework, found.model),
        class_names,
    )
    card = path.with_name("config.json")
    return with_card(pretrained, json.loads(card.read_text())) if card.exists() else pretrained


def of_pathology(path: Path, source: str) -> Pretrained:
    """The weights of a Slideflow pathology model."""
    found = slideflow.read(path)
    stain = (found.stain.means, found.stain.stds) if found.stain else None
    return Pretrained(
        source,
        "xception",
        found.options,
        found.num_classes,
        found.weights,
        InputSpec(found.tile_px, 1.0, "area", Normalization(standardize=True), stain),
        found.class_names,
        found.scores,
        found.uncertainty,
        found.licence,
    )


def with_card(pretrained: Pretrained, card: dict[str, Any]) -> Pretrained:
    """Adds the information in timm's config.json to the weights: input, crop, licence and class names."""
    cfg = card.get("pretrained_cfg", {})
    spec = pretrained.input
    normalization = Normalization(
        tuple(cfg.get("mean", spec.normalization.mean)), tuple(cfg.get("std", spec.normalization.std))
    )
    spec = InputSpec(
        cfg.get("input_size", (3, spec.image_size))[1],
        cfg.get("crop_pct", spec.crop_fraction),
        cfg.get("interpolation", spec.interpolation),
        normalization,
    )
    names = card.get("label_names") or cfg.get("label_names") or pretrained.class_names
    return dataclasses.replace(
        pretrained, input=spec, licence=cfg.get("license", pretrained.licence), class_names=tuple(names)
    )
