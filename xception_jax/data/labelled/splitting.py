"""Splits of labelled images: random by a seed, in the proportions of the classes, groups undivided.

Shape legend: N images, K classes.
"""

import warnings

import numpy as np

from xception_jax.errors import UserError, needs
from xception_jax.tasks.task import TaskName

QUANTILES = 10  # of a number to predict, by which images are stratified
ENOUGH = 3  # units of a class, for one in each split


def strata_of(task: TaskName, targets: np.ndarray) -> np.ndarray:
    """What splits have in equal proportions: classes; the rarest of an image's labels; tenths, by the first number.

    Args:
      task: of the labels.
      targets: as in `Labelled`.

    Returns:
      int [N]
    """
    if task == "single_label":
        return targets
    if task == "multi_label":
        rarest = np.where(targets > 0, targets.sum(axis=0), np.inf).argmin(axis=1)
        return np.where(targets.any(axis=1), rarest, targets.shape[1])
    edges = np.quantile(targets[:, 0], np.arange(1, QUANTILES) / QUANTILES)
    return np.searchsorted(np.unique(edges), targets[:, 0])


def make_split(
    strata: np.ndarray,
    labels: np.ndarray,
    units: np.ndarray,
    *,
    uneven: bool,
    fractions: tuple[float, float, float],
    seed: int,
) -> np.ndarray:
    """Which split each image belongs to, str [N].

    A stratum with less than three units is left in train. Every other class has an image in each split, as far as
    undivided units allow.

    Args:
      strata: int [N], whose proportions are kept.
      labels: bool [N, K], the classes of each image.
      units: int [N], equal for images that must not be divided.
      uneven: whether units have many images, of several strata.
      fractions: of train, validation and test; their sum is 1.
      seed: determines the split, together with the images' order.
    """
    if not 0.999 < sum(fractions) < 1.001 or min(fractions) < 0:
        raise UserError(f"the fractions of train, validation and test are {fractions}, but their sum has to be 1")
    names = ("train", "validation", "test")
    if max(fractions) == 1:
        return np.full(len(units), names[int(np.argmax(fractions))], "<U10")
    split = np.full(len(units), "train", "<U10")
    free = ~np.isin(units, units[few(strata, units)])
    left = 1.0
    for name, fraction in (("test", fractions[2]), ("validation", fractions[1])):
        rows = np.flatnonzero(free & (split == "train"))
        if fraction and rows.size:
            draw = _draw_uneven if uneven else _draw
            split[rows[draw(strata[rows], units[rows], fraction / left, seed)]] = name
        left -= fraction
    _complete(split, labels, units, [name for name, fraction in zip(names, fractions, strict=True) if fraction])
    return split


def few(strata: np.ndarray, units: np.ndarray) -> np.ndarray:
    """bool [N], images of strata with too few units for one in each split."""
    pairs = np.unique(np.column_stack([strata, units]), axis=0)
    values, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.isin(strata, values[counts < ENOUGH])


def _draw(strata: np.ndarray, units: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """bool [N], about this fraction of each stratum; images of a unit together."""
    with needs("train", "making a split"):
        from sklearn.model_selection import StratifiedShuffleSplit

    _, rows = np.unique(units, return_index=True)  # one image of each unit
    _, stratum, counts = np.unique(strata[rows], return_inverse=True, return_counts=True)
    rows, stratum = rows[counts[stratum] > 1], stratum[counts[stratum] > 1]
    if not rows.size:
        return np.zeros(len(units), bool)
    least = int((counts > 1).sum())  # the splitter wants as many as there are strata, on both sides
    size = int(np.clip(round(fraction * len(rows)), least, len(rows) - least))
    _, drawn = next(StratifiedShuffleSplit(1, test_size=size, random_state=seed).split(rows, stratum))
    return np.isin(units, units[rows[drawn]])


def _draw_uneven(strata: np.ndarray, units: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """bool [N], about this fraction of each stratum, in whole units."""
    with needs("train", "making a split"):
        from sklearn.model_selection import StratifiedGroupKFold

    _, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
    folds = min(max(2, round(1 / min(fraction, 1 - fraction))), len(np.unique(units)), int(counts.max()))
    if folds < 2:
        return np.zeros(len(units), bool)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a stratum of fewer images than folds
        sides = [side for _, side in splitter.split(stratum, stratum, units)]
    if fraction > 0.5:
        sides = [np.setdiff1d(np.arange(len(units)), side) for side in sides]

    def distance(side: np.ndarray) -> float:
        return float(np.abs(np.bincount(stratum[side], minlength=len(counts)) / counts - fraction).sum())

    return np.isin(np.arange(len(units)), min(sides, key=distance))


def _complete(split: np.ndarray, labels: np.ndarray, units: np.ndarray, names: list[str]) -> None:
    """Moves single units between splits, in place, until each split has each class of at least three units."""
    for name in names:  # train is first, and takes; the others get what train can spare
        for k in np.flatnonzero(~labels[split == name].any(axis=0) & labels.any(axis=0)):
            having = np.unique(units[labels[:, k] & ((split == "train") | (name == "train"))])
            if name != "train" and len(np.unique(units[labels[:, k]])) < ENOUGH:
                continue
            for unit in sorted(having, key=lambda unit: (units == unit).sum()):
                rows = units == unit
                rest = labels[(split == "train") & ~rows].any(axis=0)
                if name == "train" or (rest | ~labels[rows].any(axis=0)).all():
                    split[rows] = name
                    break
