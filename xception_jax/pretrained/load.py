"""Trained weights from a file, a folder, a work directory or a name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.errors import UserError
from xception_jax.filesystem import paths
from xception_jax.formats.detect import read_tensors, weights_in
from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.models.cards import usual_input
from xception_jax.pretrained import card, hub, keras_files
from xception_jax.pretrained.identify import FAMILIES, recognize
from xception_jax.pretrained.layouts import native, slideflow
from xception_jax.pretrained.pretrained import Pretrained, imagenet_classes

IMAGENET = 1000
BACKBONE = "backbone"
FID_INPUT = InputSpec(resize="squash", crop_fraction=1.0)  # the whole image, as in pytorch-fid


def load(
    weights: str | Path, model: str | None = None, ignore: Sequence[str] = (), head: str | None = None
) -> Pretrained:
    """Loads trained weights, with everything needed to use them.

    Args:
      weights: a file (Keras' .h5, .weights.h5 or .keras, .safetensors, PyTorch's .pth, .npz in Keras' layout), a
        TensorFlow SavedModel folder or checkpoint, a folder with a file of weights (as on the Hugging Face hub, in
        several parts too), a work directory of ours, or a name: "imagenet" (Keras' file),
        "timm/..." or "jamesdolezal/..." on the Hugging Face hub. Files are recognised by their contents. A work
        directory gives its best checkpoint, or the last if none was evaluated; "DIR@last", "DIR@best" and "DIR@STEP"
        select one. "FILE@backbone": a Keras file's network without its head.
      model: the expected network; None: any of ours. A file of a network of one's own is read only if it is named here,
        see `native.read`.
      ignore: patterns (of `fnmatch`) of the names of arrays to leave out of a file, such as "fc.*".
      head: what is before the logits in a PyTorch file whose head has several layers, as the option `head` of networks,
        "dense 512 gelu, dropout 0.5": such a file has neither activations nor epsilons. A head of other layers is left
        out. None: ReLUs are assumed where the names leave no doubt.

    Raises:
      UserError: the file or name does not exist, cannot be read, or belongs to another network.
    """
    if isinstance(weights, Path):  # never a name
        weights = str(paths.expanded(weights).absolute())
    name, which = _checkpoint_of(weights)
    path = hub.find(name, model)
    pretrained = read(path, weights, which, ignore, head, model)
    if model is not None and pretrained.model != model:
        raise UserError(
            f"{weights} are the weights of {FAMILIES.get(pretrained.model, 'a network')} (--model={pretrained.model}), "
            f"not of {FAMILIES.get(model, model)} ({model})"
        )
    return pretrained


def _checkpoint_of(weights: str) -> tuple[str, str | None]:
    """Splits "DIR@best" into "DIR" and "best", or "FILE@backbone", if the whole name is not a path."""
    name, at, which = weights.rpartition("@")
    path = paths.expanded(name)
    is_part = at and (path.is_dir() or (path.is_file() and which == BACKBONE)) and not paths.expanded(weights).exists()
    return (name, which) if is_part else (weights, None)


def read(
    path: Path,
    source: str,
    which: str | None = None,
    ignore: Sequence[str] = (),
    head: str | None = None,
    model: str | None = None,
) -> Pretrained:
    """The weights in a file or folder.

    Args:
      path: the file or folder.
      source: its name in messages.
      which: the checkpoint of a work directory, as for `read_workdir`.
      ignore, head, model: as for `load`, which checks what other files are of.
    """
    if ignore and (_is_workdir(path) or slideflow.find(path) is not None):
        raise UserError(f"{path} has no arrays to leave out: --ignore is for files of other programs")
    if _is_workdir(path):
        from xception_jax.pretrained.layouts.workdir import read_workdir  # Orbax is slow to import

        return read_workdir(path, source, which)
    if (path / "model" / "model.safetensors").is_file():
        raise UserError(f"{path} is a work directory of finetune; its model is {path / 'model'}")
    if which not in (None, BACKBONE):
        raise UserError(f'{path} is not a work directory: it has no checkpoint "{which}"')
    if slideflow.find(path) is not None:
        return of_pathology(path, source)
    path = weights_in(path)
    form, tensors, facts = read_tensors(path)
    if form == "safetensors" and native.is_native(facts):  # says all of it itself
        return native.read(tensors, facts, source, model)
    pretrained = of_arrays(form, tensors, facts, source, with_head=which != BACKBONE, ignore=ignore, head=head)
    return card.with_cards(pretrained, path, card.inside(facts))


def _is_workdir(path: Path) -> bool:
    """Whether a folder is a run of ours: Lightning's have a folder "checkpoints", too, but no log beside it."""
    folder = path / "checkpoints"
    return folder.is_dir() and ((path / "log.jsonl").exists() or any(p.name.isdecimal() for p in folder.iterdir()))


def of_arrays(
    form: str,
    tensors: dict[str, np.ndarray],
    facts: dict[str, Any],
    source: str,
    *,
    with_head: bool,
    ignore: Sequence[str] = (),
    head: str | None = None,
) -> Pretrained:
    """The weights in a file's arrays, by its own graph if it has one; arguments as `read_tensors` returns them."""
    if config := keras_files.config_of(facts):
        return keras_files.of_graph(tensors, config, source, head=with_head)
    if form in ("hdf5", "keras", "npz") and with_head and (pretrained := keras_files.of_arrays(tensors, source)):
        return pretrained
    found = recognize(tensors, source, ignore, head or "")
    notes = list(found.notes)
    if form == "torch" and facts["averaged"]:
        notes.insert(0, f"the averaged weights, {facts['averaged']}")
    class_names = imagenet_classes() if found.num_classes == IMAGENET else ()
    if form == "torch" and len(facts["class_names"]) == found.num_classes:
        class_names = tuple(facts["class_names"])
    return Pretrained(
        f"{source} ({'; '.join(notes)})" if notes else source,
        found.model,
        found.options,
        found.num_classes,
        found.weights,
        FID_INPUT if found.options.get("flavour") == "fid" else usual_input(found.framework, found.model),
        class_names,
        assumed=found.assumed,
    )


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
