"""Heads on a backbone: their text, their arrays, and their logits of features.

Shape legend: N examples, D features, K outputs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xception_jax.inference.mc_dropout import monte_carlo_dropout
from xception_jax.models.head import POOLS, Head, Scores, as_text, parse, steps_of
from xception_jax.models.variables import Weights, merge, split
from xception_jax.pretrained import Pretrained

MOST_TOGETHER = 512  # examples


def pool_of(head: str) -> str:
    """The step by which a head makes features of the last map."""
    steps = parse(head)
    return str(steps[0]) if steps and steps[0].kind in POOLS else "avg_pool"


def after_pool(head: str) -> str:
    """A head without the step that makes features."""
    return as_text([step for step in parse(head) if step.kind not in POOLS])


def build(head: str, num_features: int, num_outputs: int, seed: int = 0) -> tuple[nnx.GraphDef, Weights]:
    """A head that takes features, with its first arrays."""
    return split(Head(num_features, num_outputs, steps=steps_of(head), rngs=nnx.Rngs(seed)))


def logits(head: str, weights: Weights, features: np.ndarray) -> np.ndarray:
    """A head's logits in inference mode, float32 [N, K].

    Args:
      head: its text.
      weights: its arrays.
      features: float32 [N, D].
    """
    (found,) = _in_parts(head, weights, features, lambda h, x: (h.classify(x, train=False, drop=False, rngs=None),))
    return found


def uncertain(head: str, weights: Weights, features: np.ndarray, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """A head's mean scores over dropout masks, those that `predict` uses, and their deviations: float32 [N, K].

    Arguments as for `logits`; `scores` is what the logits mean.
    """
    mean, std = _in_parts(
        head, weights, features, lambda h, x: monte_carlo_dropout(h, x, jax.random.key(0), scores=scores)
    )
    return mean, std


def _in_parts(
    head: str, weights: Weights, features: np.ndarray, function: Callable[[Head, jax.Array], tuple[jax.Array, ...]]
) -> list[np.ndarray]:
    """What a function of a head and of features returns, float32 [N, K] each, some examples at a time."""
    outputs = weights.params["logits"]["bias"].shape[0]
    graphdef, _ = nnx.eval_shape(lambda: build(head, features.shape[1], outputs))
    compiled = jax.jit(lambda weights, x: tuple(function(merge(graphdef, weights), x)))
    # Without an example, one part of none: the results have their shapes.
    parts = range(0, max(1, len(features)), MOST_TOGETHER)
    found = [compiled(weights, jnp.asarray(features[i : i + MOST_TOGETHER])) for i in parts]
    return [np.concatenate(results) for results in zip(*found, strict=True)]


def with_head(backbone: Pretrained, head: str, weights: Weights, **facts: Any) -> Pretrained:
    """A backbone with a head.

    Args:
      backbone: the weights, without a head.
      head: its text.
      weights: its arrays.
      **facts: what of the backbone's description changes, `class_names` and `scores` for example.
    """
    statistics = {"head": weights.batch_stats} if weights.batch_stats else {}
    whole = Weights(backbone.weights.params | {"head": weights.params}, backbone.weights.batch_stats | statistics)
    options = {name: value for name, value in backbone.options.items() if name != "head"}
    if head:
        options["head"] = head
    outputs = int(weights.params["logits"]["bias"].shape[0])
    return dataclasses.replace(backbone, options=options, num_classes=outputs, weights=whole, **facts)
