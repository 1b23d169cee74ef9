"""Numbers as networks are trained to predict them: with mean 0 and deviation 1 over the training split.

Shape legend: N images, K numbers.
"""

import dataclasses

import numpy as np

from xception_jax.data.labelled import Labelled
from xception_jax.models.variables import Weights


@dataclasses.dataclass(frozen=True)
class Scale:
    """The scale of the targets; classes are left as they are.

    Attributes:
      mean, std: float64 [K], of the training split; None: the targets are classes.
    """

    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    @classmethod
    def of(cls, labelled: Labelled) -> "Scale":
        """The scale of labelled images."""
        if labelled.task != "regression":
            return cls()
        targets = labelled.targets[labelled.rows("train")].astype(np.float64)  # sums of float32 lose small deviations
        std = targets.std(0)
        return cls(targets.mean(0), np.where(std > 0, std, 1))

    def values(self, targets: np.ndarray) -> np.ndarray:
        """Targets, or predictions of them, [N, K], on this scale."""
        return targets if self.mean is None else ((targets - self.mean) / self.std).astype(np.float32)

    def __call__(self, labelled: Labelled) -> Labelled:
        """Images with their targets on this scale."""
        return labelled if self.mean is None else dataclasses.replace(labelled, targets=self.values(labelled.targets))

    def on(self, head: Weights) -> Weights:
        """A head that predicts on this scale, of one for the targets as they are."""
        if self.mean is None:
            return head
        logits = head.params["logits"]
        return _with_logits(head, logits["kernel"] / self.std, (logits["bias"] - self.mean) / self.std)

    def undone(self, head: Weights) -> Weights:
        """A head for the targets as they are, of one that predicts on this scale."""
        if self.mean is None:
            return head
        logits = head.params["logits"]
        return _with_logits(head, logits["kernel"] * self.std, logits["bias"] * self.std + self.mean)


def _with_logits(head: Weights, kernel: np.ndarray, bias: np.ndarray) -> Weights:
    logits = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return Weights(head.params | {"logits": logits}, head.batch_stats)
