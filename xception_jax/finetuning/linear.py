"""A linear head on features: logistic regression, of one class or of each label, or linear regression, with L2.

Shape legend: N examples, D features, K outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xception_jax.finetuning.fitting import Examples, Trial, ended, loss_per_example
from xception_jax.models.variables import Weights
from xception_jax.tasks.task import TaskName

# Strengths of the regularization that are tried, strongest first.
STRENGTHS = tuple(float(10.0**exponent) for exponent in np.arange(3, -6.5, -0.5))
MAX_ITERATIONS = 200
TINY = 1e-12


def fit(
    task: TaskName,
    train: Examples,
    validation: Examples,
    report: Callable[[Trial], None],
    strengths: Sequence[float] = STRENGTHS,
) -> list[Trial]:
    """Heads for falling strengths of regularization, each fitted from the one before, until weaker ones are worse.

    While fitting, features have mean 0 and a mean deviation of 1 over the training split; the heads are of the
    features as they are.

    Args:
      task: what the head is for.
      train: the examples to fit.
      validation: the examples by whose loss a strength is chosen.
      report: called after each trial.
      strengths: of the L2 regularization, falling.

    Returns:
      The trials, in order.
    """
    # One scale for all: divided each by its own, features that hardly vary, often noise, would count as much as others.
    mean, scale = train.features.mean(0), max(float(train.features.std(0).mean()), TINY)
    inputs, shown = ((examples.features - mean) / scale for examples in (train, validation))
    variances, axes = np.linalg.eigh(inputs.T @ inputs / len(inputs))  # features along these are uncorrelated
    along = inputs @ axes, shown @ axes
    losses = tuple(_losses(task, x, examples) for x, examples in zip(along, (train, validation), strict=True))
    curvature = _curvature(task, along[0], np.maximum(variances, 0), train.weights)
    trials: list[Trial] = []
    for strength, parameters in _path(losses[0], curvature, _without_features(task, train), strengths):
        kernel, bias = axes @ parameters[0], parameters[1]
        of_raw = {"kernel": kernel / scale, "bias": bias - (mean / scale) @ kernel}
        head = Weights({"logits": {name: x.astype(np.float32) for name, x in of_raw.items()}}, {})
        trials.append(Trial(strength, head, *(float(loss(parameters)) for loss in losses)))
        report(trials[-1])
        if ended(trials):
            break
    return trials


Parameters = tuple[np.ndarray, np.ndarray]  # kernel [D, K], bias [K]
Loss = Callable[[Parameters], jax.Array]


def _losses(task: TaskName, inputs: np.ndarray, examples: Examples) -> Loss:
    """The weighted mean loss of examples, as a function of the head's parameters."""
    features, targets, weights = (jnp.asarray(x) for x in (inputs, examples.targets, examples.weights))

    @jax.jit
    def loss(parameters: Parameters) -> jax.Array:
        kernel, bias = (jnp.asarray(x, jnp.float32) for x in parameters)
        return jnp.mean(weights * loss_per_example(task, features @ kernel + bias[None], targets))

    return loss


def _without_features(task: TaskName, train: Examples) -> Parameters:
    """The best head whose kernel is 0."""
    if task == "regression":
        bias = np.average(train.targets, axis=0, weights=train.weights)
    else:
        labels = np.eye(train.num_outputs)[train.targets] if task == "single_label" else train.targets
        # Half an example more of each side: a label that all have, or none, has a finite bias, too.
        rate = (train.weights @ labels + 0.5) / (train.weights.sum() + 1)
        bias = np.log(rate) if task == "single_label" else np.log(rate / (1 - rate))
    return np.zeros((train.features.shape[1], train.num_outputs)), bias


def _curvature(
    task: TaskName, inputs: np.ndarray, variances: np.ndarray, weights: np.ndarray
) -> Callable[[Parameters], Parameters]:
    """The second derivative of the loss by each parameter, about: as if features and predictions were independent."""
    features = jnp.asarray(inputs)

    @jax.jit
    def by_output(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        logits = features @ kernel + bias[None]
        if task == "regression":
            return jnp.ones_like(bias) * jnp.mean(weights)
        rates = jax.nn.softmax(logits) if task == "single_label" else jax.nn.sigmoid(logits)
        return jnp.mean(weights[:, None] * rates * (1 - rates), 0)

    def curvature(parameters: Parameters) -> Parameters:
        outputs = np.maximum(by_output(*(x.astype(np.float32) for x in parameters)), TINY)
        return variances[:, None] * outputs, outputs

    return curvature


def _path(
    loss: Loss, curvature: Callable[[Parameters], Parameters], start: Parameters, strengths: Sequence[float]
) -> Iterator[tuple[float, Parameters]]:
    """The minimum of the loss for each strength, by L-BFGS.

    It works with parameters that are scaled by the root of the objective's second derivatives where it starts: these
    range over five decades, and without it several times as many steps are needed.
    """
    from scipy import optimize

    shape, size = start[0].shape, start[0].size

    def parameters(flat: np.ndarray | jax.Array) -> tuple[Any, Any]:
        return flat[:size].reshape(shape), flat[size:]

    @jax.jit
    def value_and_gradient(flat: jax.Array, scales: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
        def penalized(flat: jax.Array) -> jax.Array:
            kernel, bias = parameters(flat / scales)
            return loss((kernel, bias)) + 0.5 * strength * jnp.sum(kernel**2)

        return jax.value_and_grad(penalized)(flat)

    def objective(flat: np.ndarray, scales: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        value, gradient = value_and_gradient(flat.astype(np.float32), scales, np.float32(strength))
        return float(value), np.asarray(gradient, np.float64)

    found = np.concatenate([start[0].ravel(), start[1]])
    for strength in strengths:
        of_kernel, of_bias = curvature(parameters(found))
        scales = np.sqrt(np.concatenate([(of_kernel + strength).ravel(), of_bias]), dtype=np.float32)
        result = optimize.minimize(
            objective,
            found * scales,
            (scales, strength),
            "L-BFGS-B",
            jac=True,
            options={"maxiter": MAX_ITERATIONS, "ftol": 1e-7},
        )
        found = result.x / scales
        yield strength, parameters(found)
