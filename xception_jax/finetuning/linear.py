"""A linear head on features: logistic regression, of one class or of each label, or linear regression, with L2.

Shape legend: N examples, D features, K outputs.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from xception_jax.finetuning.fitting import Examples, Trial, ended, loss_per_example
from xception_jax.models.variables import Weights
from xception_jax.tasks.task import TaskName

# Strengths of the regularization that are tried, strongest first.
STRENGTHS = tuple(float(10.0**exponent) for exponent in np.arange(1, -6.5, -0.5))
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
    inputs, shown = (jnp.asarray((examples.features - mean) / scale) for examples in (train, validation))
    losses = _losses(task, inputs, train), _losses(task, shown, validation)
    trials: list[Trial] = []
    for strength, parameters in _path(task, losses[0], inputs.shape[1], train, strengths):
        kernel, bias = parameters
        of_raw = {"kernel": kernel / scale, "bias": bias - (mean / scale) @ kernel}
        head = Weights({"logits": {name: x.astype(np.float32) for name, x in of_raw.items()}}, {})
        trials.append(Trial(strength, head, *(float(loss(parameters)) for loss in losses)))
        report(trials[-1])
        if ended(trials):
            break
    return trials


Parameters = tuple[np.ndarray, np.ndarray]  # kernel [D, K], bias [K]
Loss = Callable[[Parameters], jax.Array]


def _losses(task: TaskName, inputs: jax.Array, examples: Examples) -> Loss:
    """The weighted mean loss of examples, as a function of the head's parameters."""
    targets, weights = jnp.asarray(examples.targets), jnp.asarray(examples.weights)

    @jax.jit
    def loss(parameters: Parameters) -> jax.Array:
        kernel, bias = (jnp.asarray(x, jnp.float32) for x in parameters)
        return jnp.mean(weights * loss_per_example(task, inputs @ kernel + bias[None], targets))

    return loss


def _path(
    task: TaskName, loss: Loss, num_features: int, train: Examples, strengths: Sequence[float]
) -> Iterator[tuple[float, Parameters]]:
    """The minimum of the loss for each strength, by L-BFGS."""
    from scipy import optimize

    outputs = train.num_outputs
    size = num_features * outputs

    @jax.jit
    def value_and_gradient(flat: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
        def penalized(flat: jax.Array) -> jax.Array:
            kernel, bias = flat[:size].reshape(num_features, outputs), flat[size:]
            return loss((kernel, bias)) + 0.5 * strength * jnp.sum(kernel**2)  # type: ignore[arg-type]

        return jax.value_and_grad(penalized)(flat)

    def objective(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        value, gradient = value_and_gradient(flat.astype(np.float32), np.float32(strength))
        return float(value), np.asarray(gradient, np.float64)

    flat = np.zeros(size + outputs)
    for strength in strengths:
        found = optimize.minimize(
            objective, flat, (strength,), "L-BFGS-B", jac=True, options={"maxiter": MAX_ITERATIONS, "ftol": 1e-7}
        )
        flat = found.x
        yield strength, (flat[:size].reshape(num_features, outputs).copy(), flat[size:].copy())
