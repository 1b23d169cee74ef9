"""What a file of trained weights is, once it is read."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from xception_jax.inputs.spec import InputSpec
from xception_jax.models.variables import Weights

IMAGENET_CLASSES = Path(__file__).with_name("imagenet_classes.txt")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Trained weights, with all that is needed to use them.

    Attributes:
      source: where they are from, for people.
      model: the network, as `create_model` takes it.
      options: its options, as `create_model` takes them.
      num_classes: width of its logits; 0 where the weights have none.
      weights: its arrays, on the host.
      input: what it expects of its pictures.
      class_names: of its logits; () where they are not known.
      scores: what its logits are: "softmax" of classes, or "linear", a figure of its own each.
      uncertainty: whether dropout is to be on at inference, for scores with an uncertainty.
      licence: of the weights, "" where it is not known.
    """

    source: str
    model: str
    options: dict[str, Any]
    num_classes: int
    weights: Weights
    input: InputSpec = InputSpec()
    class_names: tuple[str, ...] = ()
    scores: Literal["softmax", "linear"] = "softmax"
    uncertainty: bool = False
    licence: str = ""


def imagenet_classes() -> tuple[str, ...]:
    """The names of ILSVRC 2012's 1000 classes, in the order of their WordNet ids, which all published weights share."""
    return tuple(IMAGENET_CLASSES.read_text().splitlines())
