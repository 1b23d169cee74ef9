"""A head of several layers on features, trained by AdamW, with early stopping on the validation split.

Shape legend: N examples, B batch, D features, K outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from xception_jax.finetuning import heads
from xception_jax.finetuning.fitting import Examples, Trial, ended, loss_per_example
from xception_jax.models import variables
from xception_jax.models.variables import Weights
from xception_jax.tasks.task import TaskName
from xception_jax.training.optimizers import is_kernel

STRENGTHS = (1.0, 0.1, 0.01, 0.001)  # of decoupled weight decay, strongest first
BATCH = 64
LEARNING_RATE = 1e-3
MOST_EPOCHS = 100
PATIENCE = 8  # epochs in a row without a lower loss on the validation split


def fit(
    task: TaskName,
    head: str,
    train: Examples,
    validation: Examples,
    report: Callable[[Trial], None],
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> list[Trial]:
    """Heads for falling strengths of weight decay, until weaker ones are worse.

    Args:
      task: what the head is for.
      head: its text, with hidden layers.
      train: the examples to fit.
      validation: the examples by whose loss the epoch and the strength are chosen.
      report: called after each trial.
      strengths: of the weight decay, falling.
      seed: of the first arrays, the order of the examples and dropout.

    Returns:
      The trials, in order.
    """
    trials: list[Trial] = []
    for strength in strengths:
        trials.append(_trial(task, head, train, validation, strength, seed))
        report(trials[-1])
        if ended(trials):
            break
    return trials


def _trial(task: TaskName, head: str, train: Examples, validation: Examples, strength: float, seed: int) -> Trial:
    """The best epoch with one strength."""
    graphdef, weights = heads.build(head, train.features.shape[1], train.num_outputs, seed)
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=strength, mask=is_kernel)
    epoch, evaluate = _epoch(task, graphdef, optimizer, train), _evaluation(task, graphdef, validation)
    state = weights, optimizer.init(weights.params)
    kept, since = Trial(strength, weights, np.inf, np.inf), 0
    for number in range(MOST_EPOCHS):
        order = np.random.default_rng((seed, number)).permutation(len(train.features))
        state, loss = epoch(state, jnp.asarray(_whole_batches(order)), jax.random.fold_in(jax.random.key(seed), number))
        shown = float(evaluate(state[0]))
        since += 1
        if shown < kept.validation_loss:
            kept, since = Trial(strength, jax.tree.map(np.asarray, state[0]), float(loss), shown), 0
        if since >= PATIENCE:
            break
    return kept


def _whole_batches(order: np.ndarray) -> np.ndarray:
    """The order as batches [n, B]; an epoch leaves out the rest of the division. Few examples are one batch."""
    size = min(BATCH, len(order))
    return order[: len(order) // size * size].reshape(-1, size)


def _epoch(
    task: TaskName, graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, train: Examples
) -> Callable:
    """Compiles (state, batches [n, B], key) -> (state, mean loss): an epoch in one program."""
    features, targets, weights = map(jnp.asarray, (train.features, train.targets, train.weights))

    def loss_fn(params: dict, statistics: dict, rows: jax.Array, key: jax.Array) -> tuple[jax.Array, dict]:
        model = variables.merge(graphdef, Weights(params, statistics))
        logits = model.classify(features[rows], train=True, drop=True, rngs=nnx.Rngs(dropout=key))
        loss = jnp.mean(weights[rows] * loss_per_example(task, logits, targets[rows]))
        return loss, variables.split(model)[1].batch_stats

    def step(state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        current, opt_state = state
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, statistics), grads = gradient(current.params, current.batch_stats, *inputs)
        updates, opt_state = optimizer.update(grads, opt_state, current.params)
        return (Weights(optax.apply_updates(current.params, updates), statistics), opt_state), loss

    @jax.jit
    def epoch(state: Any, batches: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        state, losses = jax.lax.scan(step, state, (batches, jax.random.split(key, len(batches))))
        return state, losses.mean()

    return epoch


def _evaluation(task: TaskName, graphdef: nnx.GraphDef, examples: Examples) -> Callable[[Weights], jax.Array]:
    """Compiles weights -> the weighted mean loss of examples, in inference mode."""
    features, targets, weights = map(jnp.asarray, (examples.features, examples.targets, examples.weights))

    @jax.jit
    def evaluate(arrays: Weights) -> jax.Array:
        logits = variables.merge(graphdef, arrays).classify(features, train=False, drop=False, rngs=None)
        return jnp.mean(weights * loss_per_example(task, logits, targets))

    return evaluate
