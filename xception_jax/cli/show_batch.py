"""A step's batch as one image: what the network was given, labelled."""

from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np

from xception_jax.data import UnreadableImages, train_batch
from xception_jax.experiment import Experiment
from xception_jax.training.recipe import create_mixing
from xception_jax.training.resizing import image_sizes
from xception_jax.training.step import step_key

MOST_IMAGES = 64
CAPTION = 16  # pixels


def show_batch(experiment: Experiment, step: int, workdir: Path) -> Path:
    """Writes batch-<step>.png (its first images) and batch-<step>.txt (row, example id, class) of a training step.

    Of mixed images, the class is those of both, with their shares; the other image is that of the neighbouring row.

    The batch is a function of the seed and the step alone: these are the images that the step sees, saw or would see.

    Returns:
      The PNG's path.
    """
    config = experiment.config
    batch = train_batch(
        experiment.source,
        experiment.input,
        experiment.augmentation,
        batch_size=config.batch_size,
        seed=config.seed,
        step=step,
        broken=UnreadableImages(),
        image_sizes=image_sizes(experiment),
    )
    source = experiment.source
    names = [experiment.task.words(label, source.class_names) for label in batch["label"]]
    images = batch["image"]
    if (mixing := create_mixing(experiment)) is not None:
        mixed = mixing(step_key(config.seed, step), {name: jnp.asarray(batch[name]) for name in ("image", "label")})
        images, share = np.asarray(mixed["image"]), float(mixed["share"])
        names = [f"{share:.2f} {name} + {1 - share:.2f} {names[row ^ 1]}" for row, name in enumerate(names)]
    lines = [
        f"{row}\t{source.example_id(int(index))}\t{name}\n"
        for row, (index, name) in enumerate(zip(batch["index"], names, strict=True))
    ]
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / f"batch-{step}.txt").write_text("".join(lines))
    path = workdir / f"batch-{step}.png"
    cv2.imwrite(str(path), cv2.cvtColor(tile(images[:MOST_IMAGES], names), cv2.COLOR_RGB2BGR))
    return path


def tile(images: np.ndarray, names: list[str]) -> np.ndarray:
    """Images uint8 [B, S, S, 3], each above its class name, in a square grid."""
    side = max(images.shape[1], 96)
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = int(np.ceil(len(images) / columns))
    canvas = np.full((rows * (side + CAPTION), columns * side, 3), 255, np.uint8)
    for i, (image, name) in enumerate(zip(images, names, strict=False)):
        y, x = (i // columns) * (side + CAPTION), (i % columns) * side
        canvas[y : y + side, x : x + side] = cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST)
        corner = (x + 2, y + side + CAPTION - 4)
        cv2.putText(canvas, name[: side // 7], corner, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas
