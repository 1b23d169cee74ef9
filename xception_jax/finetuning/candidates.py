"""Networks of which the validation split chooses one.

Shape legend: N images, K outputs.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from xception_jax.data.labelled import Labelled
from xception_jax.evaluation import conformal
from xception_jax.evaluation.outcome import Outcome
from xception_jax.finetuning import calibration, heads
from xception_jax.finetuning.fit import Features
from xception_jax.finetuning.fitting import loss_per_example
from xception_jax.finetuning.scale import Scale
from xception_jax.inference.outcomes import logits_of, of_rows
from xception_jax.models.variables import Weights
from xception_jax.pretrained import Pretrained
from xception_jax.pretrained.pretrained import Conformal
from xception_jax.tasks.task import SCORES


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A network, calibrated, and what it says of the images that chose and measure it.

    Attributes:
      name: for people.
      model: the network; the temperature is in its last layer.
      temperature: by which its logits were divided.
      outcomes: of the validation split, and of the test split if there is one.
      validation_loss: mean loss on the validation split, by the images' weights; of numbers, on the scale of `Scale`.
    """

    name: str
    model: Pretrained
    temperature: float
    outcomes: tuple[Outcome, ...]
    validation_loss: float


def candidate(
    config: ConfigDict,
    labelled: Labelled,
    name: str,
    backbone: Pretrained,
    weights: Weights,
    features: Features,
) -> Candidate:
    """A candidate from a backbone and a head.

    Args:
      config: the settings.
      labelled: the images.
      name: for people.
      backbone: the network without its head.
      weights: the head's arrays, not calibrated.
      features: of the backbone, for the images of the validation and the test split.
    """
    head = config.finetune.head
    found = {split: features.of(labelled.rows(split)) for split in ("validation", "test")}
    values = {split: (rows, x) for split, (rows, x) in found.items() if len(rows)}
    logits = {split: heads.logits(heads.after_pool(head), weights, x) for split, (_, x) in values.items()}
    rows = values["validation"][0]
    targets, image_weights = labelled.targets[rows], None if labelled.weight is None else labelled.weight[rows]
    degrees = 1.0
    if config.finetune.calibrate:
        degrees = calibration.temperature(labelled.task, logits["validation"], targets)
    cooled = calibration.cooled(weights, degrees)
    model = heads.with_head(
        backbone,
        head,
        cooled,
        class_names=labelled.class_names,
        scores=SCORES[labelled.task],
        uncertainty=config.finetune.uncertainty,
    )
    scale = Scale.of(labelled)  # of several numbers, none counts more for its unit
    pair = scale.values(logits["validation"] / np.float32(degrees)), scale.values(targets)
    loss = float(np.average(loss_per_example(labelled.task, *map(jnp.asarray, pair)), weights=image_weights))
    outcomes = []
    for split, (rows, x) in values.items():
        said: np.ndarray = logits[split]
        more: dict[str, Any] = {"temperature": degrees}
        if config.finetune.uncertainty:  # the scores are means over dropout masks, as `predict` has them
            means, deviations = heads.uncertain(heads.after_pool(head), cooled, x, model.scores)
            said, more = logits_of(means, model.scores), {"deviation": deviations}
        outcomes.append(of_rows(labelled, split, rows, said, **more))
    if (alpha := config.finetune.conformal_alpha) is not None:
        limit = conformal.threshold(outcomes[0].scores, outcomes[0].targets, alpha)
        model = dataclasses.replace(model, conformal=Conformal(limit, alpha))
    return Candidate(name, model, degrees, tuple(outcomes), loss)
