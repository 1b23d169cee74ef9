"""Averages of a run's best checkpoints (model soups; M. Wortsman et al., arXiv 2203.05482, section 2: uniform)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from xception_jax import config as config_lib
from xception_jax.pretrained import Pretrained, load
from xception_jax.workdir.checkpoints import Checkpoints


def best(workdir: Path, count: int) -> list[Pretrained]:
    """The weights of a run's best checkpoints on the validation split, `count` or as many as there are."""
    settings = config_lib.read(workdir / "config.json").checkpoint
    checkpoints = Checkpoints(workdir, settings, read_only=True)
    steps = checkpoints.ranked()[:count]
    checkpoints.close()
    return [load(f"{workdir}@{step}") for step in steps]


def averaged(networks: Sequence[Pretrained]) -> Pretrained:
    """The means of the parameters, and of the statistics with them, as in Polyak averaging."""

    def mean(*arrays: np.ndarray) -> np.ndarray:
        return np.mean(arrays, axis=0, dtype=np.float64).astype(arrays[0].dtype)

    weights = jax.tree.map(mean, *(network.weights for network in networks))
    source = f"average of {', '.join(network.source for network in networks)}"
    return dataclasses.replace(networks[0], source=source, weights=weights)
