"""Trained weights from a file, a folder, a work directory or a name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from xception_jax.errors import UserError
from xception_jax.formats.detect import read_tensors
from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.models.cards import usual_input
from xception_jax.pretrained import hub
from xception_jax.pretrained.identify import FAMILIES, recognize
from xception_jax.pretrained.layouts import slideflow
from xception_jax.pretrained.pretrained import Pretrained, imagenet_classes

IMAGENET = 1000


def load(weights: str | Path, model: str | None = None) -> Pretrained:
    """Trained weights, with what they need to be used.

    Args:
      weights: a file (Keras' .h5, .weights.h5 or .keras, .safetensors, PyTorch's .pth, .npz in Keras' layout), a
        TensorFlow SavedModel folder or checkpoint, a work directory of ours, or a name: "imagenet" (Keras' file),
        "timm/..." or "jamesdolezal/..." on the Hugging Face hub. What a file is, its contents tell. Of a work
        directory the best checkpoint is taken, or the last if none was evaluated; "DIR@last", "DIR@best" and "DIR@STEP"
        choose.
      model: the network wanted; None: whichever the weights are of.

    Raises:
      UserError: there is no such file or name, it cannot be read, or it is another network's.
    """
    name, which = _checkpoint_of(str(weights))
    path = hub.find(name, model)
    pretrained = read(path, str(weights), which)
    if model is not None and pretrained.model != model:
        raise UserError(
            f"{weights} are the weights of {FAMILIES.get(pretrained.model, 'a network')} (--model={pretrained.model}), "
            f"not of {FAMILIES.get(model, model)} ({model})"
        )
    return pretrained


def _checkpoint_of(weights: str) -> tuple[str, str | None]:
    """ "DIR@best" as "DIR" and "best", if DIR is a folder and there is none of the whole name."""
    name, at, which = weights.rpartition("@")
    is_checkpoint = at and Path(name).expanduser().is_dir() and not Path(weights).expanduser().exists()
    return (name, which) if is_checkpoint else (weights, None)


def read(path: Path, source: str, which: str | None = None) -> Pretrained:
    """The weights in a file or folder.

    Args:
      path: the file or folder.
      source: what people call it.
      which: of a work directory, the checkpoint, as `read_workdir` takes it.
    """
    if (path / "checkpoints").is_dir():
        from xception_jax.pretrained.layouts.workdir import read_workdir  # Orbax is slow to import

        return read_workdir(path, source, which)
    if which is not None:
        raise UserError(f'{path} is not a work directory: it has no checkpoint "{which}"')
    if slideflow.find(path) is not None:
        return of_pathology(path, source)
    _, tensors, _ = read_tensors(path)
    found = recognize(tensors, source)
    pretrained = Pretrained(
        source,
        found.model,
        found.options,
        found.num_classes,
        found.weights,
        usual_input(found.framework, found.model),
        imagenet_classes() if found.num_classes == IMAGENET else (),
    )
    card = path.with_name("config.json")
    return with_card(pretrained, json.loads(card.read_text())) if card.exists() else pretrained


def of_pathology(path: Path, source: str) -> Pretrained:
    """A pathology model of Slideflow's."""
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
    """The weights with what timm's config.json says of them: input, crop, licence and class names."""
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
