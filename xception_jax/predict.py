"""What a network says of pictures: `python -m xception_jax.predict --weights=WEIGHTS PICTURES-OR-FOLDERS`.

Shape legend: B batch, V views of a picture (test-time crops), S image side, K classes, D features.
"""

import dataclasses
import io
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from xception_jax import config
from xception_jax.cli import common, tables
from xception_jax.data import BrokenPictures, evaluation_batches
from xception_jax.data.sources.images import Pictures, find_pictures
from xception_jax.data.views import central_crop, ten_crops
from xception_jax.errors import UserError
from xception_jax.inference.grad_cam import grad_cam, overlay
from xception_jax.inference.mc_dropout import monte_carlo_dropout
from xception_jax.models import create_model
from xception_jax.models.layers import global_average
from xception_jax.parallel import host_memory
from xception_jax.parallel.mesh import batch_sharded, data_mesh, put_batch, replicated
from xception_jax.pretrained import Pretrained, load, transplant
from xception_jax.training import state as train_state
from xception_jax.workdir import atomic

CROPS = {1: central_crop, 10: ten_crops}
SHOWN = 50  # pictures in the table that people read
USAGE = "usage: python -m xception_jax.predict --weights=WEIGHTS PICTURES-OR-FOLDERS [--model=NAME] [--output=FILE]"


@dataclasses.dataclass
class Prediction:
    """What a network says of one picture.

    Attributes:
      file: the picture.
      scores: float32 [K], probabilities, or figures where the weights' `scores` are "linear"; means over the views.
      uncertainty: float32 [K], deviations of the scores under dropout; zero where the weights do not want it.
      features: float32 [D], the pooled last map, a mean over the views.
      view: uint8 [S, S, 3], what was seen of the picture: the first view.
      evidence: float32 [h, w], 0..1, where in the view the first class is seen.
    """

    file: str
    scores: np.ndarray
    uncertainty: np.ndarray
    features: np.ndarray
    view: np.ndarray
    evidence: np.ndarray


class Predictor:
    """A trained network, compiled for all devices.

    Args:
      pretrained: the weights, with a logits layer.
      batch_size: pictures at a time, rounded up to a multiple of the number of devices.
      crops: views of a picture whose scores are averaged, 1 or 10.
      image_size: S; None: as the weights were trained.

    Raises:
      UserError: the weights have no logits layer, or S is too small.
    """

    def __init__(self, pretrained: Pretrained, *, batch_size: int = 16, crops: int = 1, image_size: int | None = None):
        if not pretrained.num_classes:
            raise UserError(f"{pretrained.source} has no logits layer: it cannot tell classes; fine-tune it first")
        self.pretrained = pretrained
        self._mesh = data_mesh()
        self.batch_size = -(-batch_size // self._mesh.size) * self._mesh.size
        self._crop = CROPS[crops]
        self._size = pretrained.input.image_size if image_size is None else image_size
        self._step = self._compile()

    def _compile(self) -> Any:
        given = self.pretrained

        def build() -> tuple:
            model = create_model(given.model, num_classes=given.num_classes, rngs=nnx.Rngs(0), **given.options)
            return train_state.split(model)

        graphdef, shapes = nnx.eval_shape(build)
        weights, _ = transplant(given, shapes)
        self._weights = jax.device_put(weights, replicated(self._mesh))

        def step(weights: train_state.Weights, views: jax.Array) -> dict[str, jax.Array]:
            model = train_state.merge(graphdef, weights)
            batch = views.shape[0]
            maps = model.features(given.input.normalization(views.reshape(-1, *views.shape[-3:])))
            pooled = global_average(maps)
            if given.uncertainty:  # always with the same masks: the same pictures have the same scores
                scores, deviations = monte_carlo_dropout(model, pooled, jax.random.key(0), scores=given.scores)
            else:
                logits = model.head.classify(pooled.astype(maps.dtype), train=False, drop=False, rngs=None)
                scores = jax.nn.softmax(logits) if given.scores == "softmax" else logits
                deviations = jnp.zeros_like(scores)
            means = {"scores": scores, "uncertainty": deviations, "features": pooled}
            outputs = {name: x.reshape(batch, -1, x.shape[-1]).mean(1) for name, x in means.items()}
            first = maps.reshape(batch, -1, *maps.shape[1:])[:, 0]
            return outputs | {"evidence": grad_cam(model, first, jnp.argmax(outputs["scores"], -1))}

        on_all = replicated(self._mesh)
        return jax.jit(step, in_shardings=(on_all, batch_sharded(self._mesh)), out_shardings=on_all)

    def __call__(self, pictures: Sequence[Path], broken: BrokenPictures) -> Iterator[Prediction]:
        """What the network says of each picture, in their order; those that cannot be read are left out.

        The next batch is dispatched before the last one's results are read.

        Args:
          broken: collects the names of those.
        """
        source = Pictures(pictures)
        data = config.default().data
        data.crop_fraction = self.pretrained.input.crop_fraction
        data.interpolation = self.pretrained.input.interpolation
        data.stain_means, data.stain_stds = self.pretrained.input.stain or ((), ())
        batches = evaluation_batches(
            source, data, image_size=self._size, batch_size=self.batch_size, broken=broken, crop=self._crop
        )
        pending: tuple[dict, dict] | None = None
        for batch in batches:
            outputs = self._step(self._weights, put_batch({"image": batch["image"]}, self._mesh)["image"])
            if pending is not None:
                yield from self._rows(source, *pending)
            pending = batch, outputs
        if pending is not None:
            yield from self._rows(source, *pending)

    def _rows(self, source: Pictures, batch: dict[str, np.ndarray], outputs: dict[str, jax.Array]) -> Iterator:
        host = jax.device_get(outputs)
        for row in np.flatnonzero(batch["mask"]):
            view = batch["image"][row].reshape(-1, *batch["image"].shape[-3:])[0]
            yield Prediction(
                source.example_id(int(batch["index"][row])),
                host["scores"][row],
                host["uncertainty"][row],
                host["features"][row],
                view,
                host["evidence"][row],
            )


def class_name(pretrained: Pretrained, index: int) -> str:
    """The name of a class, or its number where the weights do not tell names."""
    return pretrained.class_names[index] if pretrained.class_names else f"class {index}"


COLUMNS = ("file", "rank", "class_index", "class_name", "probability", "uncertainty")


def append_ranks(columns: dict[str, list], prediction: Prediction, pretrained: Pretrained, top: int) -> None:
    """Appends a picture's `top` highest scores to some of COLUMNS, a row each, ranks from 1.

    Where the weights' scores are "linear", the column probability holds those figures.
    """
    order = np.argsort(-prediction.scores, kind="stable")[:top]
    for rank, index in enumerate(order, 1):
        row = (prediction.file, rank, int(index), class_name(pretrained, index), float(prediction.scores[index]))
        values = dict(zip(COLUMNS, (*row, float(prediction.uncertainty[index])), strict=True))
        for name, column in columns.items():
            column.append(values[name])


def show(columns: dict[str, list], top: int, scores: str) -> None:
    """Prints the first pictures' classes, one line each."""
    table = Table("file", *[str(rank + 1) for rank in range(top)], box=None, pad_edge=False)
    names, values = columns["class_name"], columns["probability"]
    said = [
        f"{name} {100 * value:.1f} %" if scores == "softmax" else f"{name} {value:.4f}"
        for name, value in zip(names, values, strict=True)
    ]
    for start in range(0, min(len(said), SHOWN * top), top):
        table.add_row(columns["file"][start], *said[start : start + top])
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
    if len(said) > SHOWN * top:
        print(f"and {len(said) // top - SHOWN} more; --output=FILE.csv writes all")


def write_features(path: Path, names: Sequence[str], features: Sequence[np.ndarray]) -> None:
    """Writes file names and features: .npz has arrays `files` [N] and `features` [N, D], .parquet two columns."""
    if path.suffix == ".parquet":
        tables.write_table(path, {"file": names, "features": features})
        return
    buffer = io.BytesIO()
    np.savez(buffer, files=np.array(names), features=np.stack(features))
    atomic.write_atomically(path, buffer.getvalue())


def write_explanation(folder: Path, prediction: Prediction, name: str) -> None:
    """Writes a picture, and where in it its class is seen, as FOLDER/<picture's path>.<class>.png."""
    stem = prediction.file.replace(os.sep, "_").lstrip("._")
    picture = cv2.cvtColor(overlay(prediction.view, prediction.evidence), cv2.COLOR_RGB2BGR)
    folder.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    atomic.write_atomically(folder / f"{stem}.{name.replace(os.sep, '_')}.png", encoded)


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("weights", None, "A file, a folder, a work directory, or a name such as imagenet.")
    flags.DEFINE_string("model", None, "The network expected; by default whichever the weights are of.")
    flags.DEFINE_integer("top", 5, "Classes to tell of each picture.", lower_bound=1)
    flags.DEFINE_string("output", None, "A table to write: .csv, .jsonl or .parquet.")
    flags.DEFINE_string("features", None, "Features to write: .npz or .parquet.")
    flags.DEFINE_string("explain", None, "A folder for pictures of where the first class is seen (Grad-CAM).")
    flags.DEFINE_enum("crops", "1", [str(n) for n in CROPS], "Views of each picture to average over.")
    flags.DEFINE_integer("batch_size", 16, "Pictures at a time.", lower_bound=1)
    flags.DEFINE_integer("image_size", None, "Pixels; by default as the weights were trained.", lower_bound=1)


def main(arguments: Sequence[str]) -> int:
    """Predicts, prints and writes; 1 where pictures could not be read."""
    flag = flags.FLAGS
    if flag.weights is None or not arguments:
        raise UserError(USAGE)
    if flag.output:
        tables.check_table(Path(flag.output))
    if flag.features and Path(flag.features).suffix not in (".npz", ".parquet"):
        raise UserError(f"{flag.features} is no kind of features file: the name must end in .npz or .parquet")
    logging.set_verbosity(logging.ERROR)  # broken pictures are listed at the end
    host_memory.reuse_step_memory()
    pictures = find_pictures([Path(a) for a in arguments])
    pretrained = load(flag.weights, flag.model)
    predictor = Predictor(
        pretrained, batch_size=min(flag.batch_size, len(pictures)), crops=int(flag.crops), image_size=flag.image_size
    )
    top = min(flag.top, pretrained.num_classes)
    broken = BrokenPictures()
    columns: dict[str, list] = {name: [] for name in COLUMNS if name != "uncertainty" or pretrained.uncertainty}
    features: list[np.ndarray] = []
    count, timed = 0, None
    with _progress() as progress:
        task = progress.add_task("", total=len(pictures))
        for count, prediction in enumerate(predictor(pictures, broken), 1):
            if count == predictor.batch_size:  # compilation is no part of the speed
                timed = time.monotonic()
            append_ranks(columns, prediction, pretrained, top)
            if flag.features:
                features.append(prediction.features)
            if flag.explain:
                write_explanation(Path(flag.explain), prediction, columns["class_name"][-top])
            progress.advance(task)
    speed = ""
    if timed is not None and count > predictor.batch_size:
        speed = f", {(count - predictor.batch_size) / (time.monotonic() - timed):.1f} images/s after the first batch"
    if flag.output:
        tables.write_table(Path(flag.output), columns)
    elif columns["file"]:
        show(columns, top, pretrained.scores)
    if features:
        write_features(Path(flag.features), columns["file"][::top], features)
    print(f"{count} pictures{speed}")
    if broken.names:
        print(f"{len(broken.names)} of {len(pictures)} pictures could not be read:", *sorted(broken.names), sep="\n  ")
    return 1 if broken.names else 0


def _progress() -> Progress:
    """A bar where people look; nothing where programs read."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("pictures"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not Console(stderr=True).is_terminal)


if __name__ == "__main__":
    common.run(main, define_flags)
