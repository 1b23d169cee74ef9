"""The most confident mistakes of a network, as pictures with heat maps."""

from pathlib import Path

import cv2
import numpy as np

from xception_jax.data.files import printable
from xception_jax.evaluation.outcome import Outcome
from xception_jax.evaluation.page import Mistake
from xception_jax.inference.grad_cam import overlay
from xception_jax.inference.predictor import Prediction, Predictor
from xception_jax.pretrained import Pretrained

MOST = 24
BATCH = 8


def mistakes(model: Pretrained, root: Path, outcome: Outcome) -> list[Mistake]:
    """The most confident wrong answers, with where the network sees the class that it predicts.

    Args:
      model: the network.
      root: the folder that the outcome's files are relative to.
      outcome: of one class of several; of other tasks there are none.
    """
    if outcome.task != "single_label":
        return []
    confidence, wrong = outcome.scores.max(1), outcome.predicted != outcome.targets
    rows = [i for i in np.argsort(-confidence, kind="stable") if wrong[i]][:MOST]
    if not rows:
        return []
    files = [root / outcome.files[i] for i in rows]
    seen = {prediction.file: prediction for prediction in Predictor(model, batch_size=min(BATCH, len(files)))(files)}
    names = outcome.class_names
    return [
        Mistake(
            outcome.files[i],
            names[outcome.targets[i]],
            names[outcome.predicted[i]],
            float(confidence[i]),
            *_pictures(seen[printable(file)]),
        )
        for i, file in zip(rows, files, strict=True)
        if printable(file) in seen
    ]


def _pictures(prediction: Prediction) -> tuple[bytes, bytes]:
    """The network's view of an image, and its heat map: two JPEG files."""
    both = overlay(prediction.view, prediction.evidence)
    side = both.shape[0]
    return _jpeg(both[:, :side]), _jpeg(both[:, side:])


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
