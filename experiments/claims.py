"""The claims of the paper (arXiv 1610.02357v3) that can be tested by training one network against another."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper: that one variant is more accurate than another.

    Attributes:
      text: the claim, in a line.
      where: its place in the paper.
      paper: the paper's own figures.
      better, worse: the variants of experiments/cifar10/config.py that it is about.
      full: the config files of the same comparison at the paper's scale, better first.
    """

    text: str
    where: str
    paper: str
    better: str
    worse: str
    full: tuple[str, str]


CLAIMS = (
    Claim(
        "Xception is more accurate than Inception V3 of the same size",
        "section 4.5.1, table 1",
        "79.0 % against 78.2 % on ImageNet",
        "xception",
        "inception_v3",
        ("configs/xception.py", "configs/inception_v3.py"),
    ),
    Claim(
        "Residual connections help",
        "section 4.6, figure 9",
        "a curve; clearly worse without them",
        "xception",
        "no_residual",
        ("configs/xception.py", "configs/paper.py:no_residual"),
    ),
    Claim(
        "No activation between depthwise and pointwise is better than ReLU",
        "section 4.7, figure 10",
        "a curve; none is best",
        "xception",
        "relu_between",
        ("configs/xception.py", "configs/paper.py:relu_between"),
    ),
    Claim(
        "No activation there is better than ELU",
        "section 4.7, figure 10",
        "a curve; ELU is worst",
        "xception",
        "elu_between",
        ("configs/xception.py", "configs/paper.py:elu_between"),
    ),
    Claim(
        "ReLU there is better than ELU",
        "section 4.7, figure 10",
        "a curve",
        "relu_between",
        "elu_between",
        ("configs/paper.py:relu_between", "configs/paper.py:elu_between"),
    ),
    Claim(
        "Fully connected layers before the logits help Xception",
        "section 4.5.1, table 2",
        "MAP@100 6.78 against 6.70 on JFT",
        "xception_fc",
        "xception",
        ("configs/paper.py:jft_xception_fc", "configs/paper.py:jft_xception"),
    ),
    Claim(
        "Fully connected layers before the logits help Inception V3",
        "section 4.5.1, table 2",
        "MAP@100 6.50 against 6.36 on JFT",
        "inception_v3_fc",
        "inception_v3",
        ("configs/paper.py:jft_inception_v3_fc", "configs/paper.py:jft_inception_v3"),
    ),
    Claim(
        "A modern recipe trains Xception better than the paper's (not a claim of the paper)",
        "section 4.3",
        "79.0 % with the paper's",
        "modern_recipe",
        "paper_recipe",
        ("configs/xception_rsb.py:a2", "configs/xception.py"),
    ),
)


def difference(better: Sequence[float], worse: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The difference of the means, and its 95 % interval by Welch's t-test: variants differ in their spread, too."""
    interval = stats.ttest_ind(better, worse, equal_var=False).confidence_interval(0.95)
    return statistics.mean(better) - statistics.mean(worse), (float(interval.low), float(interval.high))


FEWEST_SEEDS = 3  # a side, for a verdict


def verdict(better: Sequence[float], worse: Sequence[float]) -> str:
    """What the runs say of a claim, at their scale."""
    if min(len(better), len(worse)) < FEWEST_SEEDS:
        return "not measured" if not (better and worse) else "too few seeds"
    _, (low, high) = difference(better, worse)
    return "holds" if low > 0 else "does not hold" if high < 0 else "can't tell"
