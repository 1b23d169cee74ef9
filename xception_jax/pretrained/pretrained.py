"""Trained weights in memory."""

import dataclasses
from pathlib import Path
from typing import Any

from xception_jax.inputs.spec import InputSpec
from xception_jax.models.head import Scores
from xception_jax.models.variables import Weights

IMAGENET_CLASSES = Path(__file__).with_name("imagenet_classes.txt")


@dataclasses.dataclass(frozen=True)
class Conformal:
    """How scores become sets of classes, see `evaluation.conformal`.

    Attributes:
      threshold: the score from which a class belongs to the set, 0..1.
      alpha: the share of sets that may lack the true class, above 0 and below 1.
    """

    threshold: float
    alpha: float

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 1 and 0 < self.alpha < 1):
            raise ValueError(f"prediction sets with threshold {self.threshold} and alpha {self.alpha}")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Trained weights, with everything needed to use them.

    Attributes:
      source: where they come from, for people.
      model: the network, as for `create_model`.
      options: its options, as for `create_model`.
      num_classes: width of its logits; 0 if the weights have no logits layer.
      weights: its arrays, on the host.
      input: the input it expects.
      class_names: of its logits; () if unknown.
      scores: the meaning of its logits: "softmax" over classes that exclude each other, "sigmoid" of each class by
        itself, or "linear", values as they are.
      uncertainty: whether to use dropout at inference to estimate the uncertainty of scores.
      licence: of the weights; "" if unknown.
      assumed: what the file does not say and is assumed, a line each.
      conformal: of sets of classes with a guaranteed coverage; None: there are none.
    """

    source: str
    model: str
    options: dict[str, Any]
    num_classes: int
    weights: Weights
    input: InputSpec = InputSpec()
    class_names: tuple[str, ...] = ()
    scores: Scores = "softmax"
    uncertainty: bool = False
    licence: str = ""
    assumed: tuple[str, ...] = ()
    conformal: Conformal | None = None


def imagenet_classes() -> tuple[str, ...]:
    """The names of ILSVRC 2012's 1000 classes, in the order of their WordNet ids, which all published weights share."""
    return tuple(IMAGENET_CLASSES.read_text().splitlines())
