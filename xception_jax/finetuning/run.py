"""The steps of fine-tuning, from labelled images to a model folder and a page of results."""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from xception_jax import config as config_lib
from xception_jax.data import UnreadableImages
from xception_jax.data.labelled import (
    SPLITS,
    Labelled,
    LabelledSource,
    changes,
    columns_from,
    open_labelled,
    split_source,
    to_csv,
)
from xception_jax.errors import UserError
from xception_jax.evaluation import conformal
from xception_jax.evaluation.report import Seen
from xception_jax.experiment import parts_before, resolve
from xception_jax.filesystem import atomic, paths
from xception_jax.finetuning import heads, results, soup
from xception_jax.finetuning.candidates import Candidate, candidate
from xception_jax.finetuning.feature_store import FeatureStore, features_of
from xception_jax.finetuning.fit import Features, Fitted, balanced, fit
from xception_jax.finetuning.fitting import Trial
from xception_jax.finetuning.scale import Scale
from xception_jax.inference.features import FeatureExtractor, backbone_of
from xception_jax.models import build_network, check_options
from xception_jax.models.variables import Weights
from xception_jax.pretrained import Pretrained, load
from xception_jax.pretrained.layouts import native
from xception_jax.terminal.console import progress
from xception_jax.terminal.words import significant
from xception_jax.training import loop
from xception_jax.workdir.status import Status

SHOWN = 3  # figures of a split
TIMED_SECONDS = 10  # after which the duration of the pass over all images is said


def finetune(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Fits a head on the features of a frozen network, and writes model and results.

    Writes, into the work directory: config.json, splits.csv, features/, model/, results.json, predictions-<split>.csv
    and index.html.

    Args:
      config: the settings; `data.path` and `model.weights` say what is fine-tuned on what.
      workdir: where results are written; features that are there are reused.

    Returns:
      The contents of results.json.

    Raises:
      UserError: the data or the settings are invalid, or another run is using `workdir`.
    """
    config_lib.validate(config)
    if config.finetune.uncertainty and "dropout" not in config.finetune.head:
        raise UserError(
            "config.finetune.uncertainty needs dropout in the head: "
            '--config.finetune.head="dropout 0.1, dense 512 relu, dropout 0.1", say'
        )
    if jax.process_count() > 1:
        raise UserError("fine-tuning runs as one process, on all devices of one host")
    if (workdir / "log.jsonl").exists():  # its config.json would be lost
        raise UserError(f"{workdir} belongs to a run that was trained; use another --workdir")
    labelled = _opened(config)  # first: data that cannot be read leave no work directory
    with Status(workdir) as status:
        _keep_splits(labelled, paths.expanded(config.data.path), workdir / results.TABLE)
        if config.finetune.balance:
            labelled = balanced(labelled)
        if config.finetune.conformal_alpha is not None and labelled.task != "single_label":
            raise UserError(f"config.finetune.conformal_alpha is for one class per image, but this is {labelled.task}")
        start = load(config.model.weights, own_network(config))
        if config.finetune.head:
            check_options(start.model, {*start.options, "head"})
        backbone = shown_as(backbone_of(start, heads.pool_of(config.finetune.head)), config)
        print(f"weights: {backbone.source}: {backbone.model}, {backbone.input.image_size} px, {backbone.input.resize}")
        check_unfreeze(config.finetune.unfreeze, backbone)
        atomic.write_atomically(workdir / "config.json", config_lib.to_json(config) + "\n")
        status.update(state="training")
        broken = UnreadableImages(config.data.max_unreadable)
        features = _features(config, labelled, backbone, workdir, broken, SPLITS)
        fitted = _fit(config, labelled, features)
        candidates = [candidate(config, labelled, "frozen", backbone, fitted.weights, features)]
        if config.finetune.unfreeze:
            candidates += _unfrozen(config, labelled, candidates[0].model, workdir, broken)
        chosen = min(candidates, key=lambda c: c.validation_loss)
        for c in candidates:
            calibrated = " after calibration" if c.temperature != 1 else ""
            kept = ", kept" if c is chosen else ""
            print(f"{c.name}: loss on validation{calibrated} {significant(c.validation_loss)}{kept}")
        atomic.write_atomically(workdir / results.MODEL, native.write(chosen.model))
        found = results.Results(config, labelled, fitted, candidates, chosen, broken.reasons)
        record = results.write(found, workdir)
    _show(record, broken, workdir, chosen.model)
    return record


def own_network(config: ConfigDict) -> str | None:
    """The network of one's own that the config names; None: weights say what they are of."""
    return config.model.name if ":" in config.model.name else None


def shown_as(pretrained: Pretrained, config: ConfigDict) -> Pretrained:
    """The weights with the input that the config sets, where it does: size, resize rule, normalization, stain.

    How files are decoded stays as it is with the weights.
    """
    spec = config_lib.input_spec(resolve(config, pretrained))
    return dataclasses.replace(pretrained, input=dataclasses.replace(spec, decoding=pretrained.input.decoding))


def check_unfreeze(first: str, backbone: Pretrained) -> None:
    """Raises UserError if the network has no such part to train from, before anything is computed."""
    if first:
        model = nnx.eval_shape(
            lambda: build_network(backbone.model, num_classes=0, rngs=nnx.Rngs(0), **backbone.options)
        )
        parts_before(model.parts, first, "finetune.unfreeze")


def _show(record: dict[str, Any], broken: UnreadableImages, workdir: Path, model: Pretrained) -> None:
    """Prints the figures, what could not be read, and how the model is used."""
    for split, found in record["splits"].items():
        figures = [
            f"{name.replace('_', ' ')} {results.said(figure)}" for name, figure in [*found["figures"].items()][:SHOWN]
        ]
        print(f"{split}, {found['count']:,} images: {', '.join(figures)}")
    if "conformal" in record:
        print(f"prediction sets: {conformal.said(record['conformal'])}")
    results.show_unreadable(broken)
    print(f"see {workdir / results.PAGE}")
    for title, lines in results.next_steps(workdir, model):
        print(f"\n# {title}\n{lines}")


def _opened(config: ConfigDict) -> Labelled:
    """The labelled images; says what they are.

    Raises:
      UserError: the data is invalid.
    """
    path, columns = paths.expanded(config.data.path), columns_from(config.data.columns)
    labelled = open_labelled(path, columns, task=config.task, seed=config.seed, data_dir=config.data.data_dir)
    for sentence in labelled.remarks:
        print(sentence)
    for split in SPLITS:
        print(f"{split}: {len(labelled.rows(split)):,} images")
    return labelled


def _keep_splits(labelled: Labelled, path: Path, saved: Path) -> None:
    """Writes the table of the splits, or checks that they are those of the first start.

    Raises:
      UserError: the data has changed since then.
    """
    if saved.exists() and (found := changes(saved, labelled)):
        raise UserError(
            f"{path} is not what {saved} says of it: {found}; use another --workdir, or delete that file, by which "
            "images may change sides"
        )
    atomic.write_atomically(saved, to_csv(labelled))


def _features(
    config: ConfigDict,
    labelled: Labelled,
    backbone: Pretrained,
    workdir: Path,
    broken: UnreadableImages,
    splits: Sequence[str],
) -> Features:
    """The features of some splits' images, computed or found; says how long it takes."""
    store = FeatureStore(workdir / "features", backbone)
    rows = np.concatenate([labelled.rows(split) for split in splits])
    source, treated = LabelledSource(labelled, rows), list[str]()
    began = time.monotonic()
    with progress("images") as bar:
        task = bar.add_task("", total=len(source))
        estimate = Estimate(len(source))

        def advance(count: int) -> None:
            bar.advance(task, count)
            if sentence := estimate(count):
                print(sentence, flush=True)

        kept, values = features_of(
            source, store, lambda: FeatureExtractor(backbone, batch_size=config.batch_size), broken, treated, advance
        )
    print(
        f"features: {len(kept):,} images in {time.monotonic() - began:.0f} s, {store.computed:,} of them computed now"
    )
    if treated:
        print(f"of those computed now: {Seen({}, Counter(treated))}")
    order = np.argsort(rows[kept])
    return Features(rows[kept][order], values[order])


class Estimate:
    """How long a pass over images will take, said once, when it is known.

    Args:
      total: number of images.
    """

    def __init__(self, total: int):
        self._total, self._done, self._said = total, 0, False
        self._starts: list[tuple[float, int]] = []

    def __call__(self, count: int) -> str:
        """Counts images; returns a sentence when enough of them were timed, and "" otherwise.

        The first two counts are not timed: of images that need no computing, and of those before which all is compiled.
        """
        self._done += count
        now = time.monotonic()
        if len(self._starts) < 2:
            self._starts.append((now, self._done))
        began, before = self._starts[-1]
        if self._said or now - began < TIMED_SECONDS or self._done == before:
            return ""
        self._said = True
        speed = (self._done - before) / (now - began)
        return f"features: {speed:.1f} images/s, about {(self._total - self._done) / speed / 60:.1f} minutes left"


def _fit(config: ConfigDict, labelled: Labelled, features: Features) -> Fitted:
    """The head; prints each regularization that is tried."""

    def report(trial: Trial) -> None:
        print(
            f"regularization {trial.strength:<9.3g} loss: training {significant(trial.train_loss)}, "
            f"validation {significant(trial.validation_loss)}",
            flush=True,
        )

    f = config.finetune
    fitted = fit(labelled, features, head=f.head, seed=config.seed, report=report)
    end = {fitted.trials[0].strength: ", the strongest tried", fitted.trials[-1].strength: ", the weakest tried"}
    chosen = fitted.chosen.strength
    print(f"regularization {chosen:.3g} has the least loss on validation{end.get(chosen, '')}")
    return fitted


def _unfrozen(
    config: ConfigDict, labelled: Labelled, start: Pretrained, workdir: Path, broken: UnreadableImages
) -> list[Candidate]:
    """The network trained further from a part on, by the training loop, which resumes in its own work directory; and,
    if asked for, the average of its best checkpoints. In that directory, numbers are on the scale of `Scale`."""
    folder, count, scale = workdir / "unfrozen", config.finetune.average_best, Scale.of(labelled)
    weights = folder / "start.safetensors"
    params = start.weights.params | {"head": scale.on(head_of(start)).params}
    atomic.write_atomically(
        weights, native.write(dataclasses.replace(start, weights=Weights(params, start.weights.batch_stats)))
    )
    settings = config.copy_and_resolve_references()
    settings.model.name, settings.model.weights = start.model, str(weights)
    settings.image_size = start.input.image_size
    settings.train_from = config.finetune.unfreeze
    settings.data.test_split = settings.data.validation_split = "validation"  # the test split is not looked at
    if scale.mean is not None:
        print("while training, numbers have mean 0 and deviation 1, and so have losses and errors")
    if count:  # whatever is evaluated is saved, so that the best are among it
        settings.checkpoint.every = settings.evaluation.every
        settings.checkpoint.keep_best = max(settings.checkpoint.keep_best, count)
    loop.train(settings, folder, source=functools.partial(split_source, scale(labelled)))
    name = f"unfrozen from {config.finetune.unfreeze}"
    trained = {name: load(folder)}
    if len(found := soup.best(folder, count)) > 1:
        trained[f"{name}, average of the {len(found)} best"] = soup.averaged(found)
    return [_trained(config, labelled, name, model, workdir, broken) for name, model in trained.items()]


def _trained(
    config: ConfigDict, labelled: Labelled, name: str, model: Pretrained, workdir: Path, broken: UnreadableImages
) -> Candidate:
    """The candidate of a network with its head."""
    backbone = backbone_of(model, heads.pool_of(config.finetune.head))
    features = _features(config, labelled, backbone, workdir, broken, ("validation", "test"))
    return candidate(config, labelled, name, backbone, Scale.of(labelled).undone(head_of(model)), features)


def head_of(model: Pretrained) -> Weights:
    """The arrays of a network's head."""
    return Weights(model.weights.params["head"], model.weights.batch_stats.get("head", {}))
