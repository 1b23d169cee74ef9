"""Learning rate schedules and optimizers, by name, from the config."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import optax

from xception_jax.errors import UserError, suggest
from xception_jax.extension.names import Registry, check_options, parameters, wanted

if TYPE_CHECKING:  # `benchmark` does without it, as it runs beside any peer
    from ml_collections import ConfigDict

SCHEDULES = ("constant", "cosine", "exponential")


def create_schedule(config: "ConfigDict", *, total_steps: int, in_steps: Callable[..., float]) -> optax.Schedule:
    """The learning rate at each step.

    Args:
      config: the run's config.
      total_steps: length of training.
      in_steps: `durations.in_steps` for this run, as (duration, key=) -> steps.

    Raises:
      UserError: unknown or invalid schedule.
    """
    s, peak = config.schedule, config.learning_rate
    if s.name not in SCHEDULES:
        raise UserError(f'unknown schedule.name "{s.name}"; {suggest(s.name, SCHEDULES)}')
    warmup = warmup_steps(round(in_steps(s.warmup, key="schedule.warmup")), total_steps)
    if s.name == "constant":
        after = optax.constant_schedule(peak)
    elif s.name == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup), alpha=s.final_fraction)
    else:
        every = in_steps(s.decay_every, key="schedule.decay_every")
        if every == 0:
            raise UserError(
                f'config.schedule.decay_every is "{s.decay_every}"; write an interval above 0, or for a learning rate '
                'that does not decay, config.schedule.name = "constant"'
            )
        after = optax.exponential_decay(peak, every, s.decay_rate, staircase=s.staircase)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def warmup_steps(asked: int, total_steps: int) -> int:
    """The steps of a warm-up: half of a training that is not longer than the warm-up asked for."""
    return asked if asked < total_steps else total_steps // 2


def is_kernel(params: dict) -> dict:
    """A tree of booleans: True for kernels, which are decayed; False for biases and normalization parameters."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def sgd(
    schedule: optax.Schedule, *, momentum: float, nesterov: bool, weight_decay: float
) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum and L2 weight decay."""
    return optax.chain(l2(weight_decay), optax.sgd(schedule, momentum or None, nesterov))


def rmsprop(
    schedule: optax.Schedule, *, momentum: float, decay: float | None, epsilon: float | None, weight_decay: float
) -> optax.GradientTransformation:
    """TensorFlow's RMSprop: epsilon inside the root, accumulator initialised to one (Inception V3, section 8)."""
    descent = optax.rmsprop(
        schedule, given(decay, 0.9), given(epsilon, 1.0), initial_scale=1.0, momentum=momentum or None
    )
    return optax.chain(l2(weight_decay), descent)


def adamw(
    schedule: optax.Schedule, *, momentum: float, decay: float | None, epsilon: float | None, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW (I. Loshchilov and F. Hutter, arXiv 1711.05101)."""
    constants = momentum, given(decay, 0.999), given(epsilon, 1e-8)
    return optax.adamw(schedule, *constants, weight_decay=weight_decay, mask=is_kernel)


def lamb(
    schedule: optax.Schedule, *, momentum: float, decay: float | None, epsilon: float | None, weight_decay: float
) -> optax.GradientTransformation:
    """LAMB (Y. You et al., arXiv 1904.00962).

    As its authors and timm have it, what is not decayed is not scaled by its norm either.
    """
    return optax.chain(
        optax.scale_by_adam(momentum, given(decay, 0.999), given(epsilon, 1e-6)),
        optax.add_decayed_weights(weight_decay, is_kernel),
        trust_ratios_of_kernels(),
        optax.scale_by_learning_rate(schedule),
    )


def trust_ratios_of_kernels() -> optax.GradientTransformation:
    """`optax.scale_by_trust_ratio` for kernels alone, without `optax.masked`, which would change checkpoints."""
    scaling = optax.scale_by_trust_ratio()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scaled, state = scaling.update(updates, state, params)
        kernels = is_kernel(params)
        return jax.tree.map(lambda kernel, a, b: a if kernel else b, kernels, scaled, updates), state

    return optax.GradientTransformation(scaling.init, update)


def l2(weight_decay: float) -> optax.GradientTransformation:
    """Adds `weight_decay * kernel` to the gradient, before momentum and after clipping: the gradient of
    `weight_decay / 2 * sum(kernel ** 2)`, as in TF-slim."""
    return optax.add_decayed_weights(weight_decay, is_kernel)


def given(value: float | None, default: float) -> float:
    """A setting, or its default if it is None."""
    return default if value is None else value


# From a schedule to an optimizer. Other parameters are settings of `config.optimizer`.
OptimizerMaker = Callable[..., optax.GradientTransformation]
OPTIMIZERS: Registry[OptimizerMaker] = Registry(
    "optimizer.name", {"adamw": adamw, "lamb": lamb, "rmsprop": rmsprop, "sgd": sgd}
)


def register_optimizer(name: str, function: OptimizerMaker) -> OptimizerMaker:
    """Registers your own optimizer under a name for configs, in this process.

    Args:
      name: any name without a colon.
      function: from the schedule to an `optax.GradientTransformation`; other parameters are settings of
        `config.optimizer`.

    Returns:
      `function`.
    """
    return OPTIMIZERS.register(name, function)


def create_optimizer(
    settings: Mapping[str, Any], schedule: optax.Schedule, own: Mapping[str, Any] | None = None
) -> optax.GradientTransformation:
    """The optimizer named in the settings, preceded by clipping.

    Args:
      settings: `config.optimizer`.
      schedule: the learning rate by step.
      own: the settings added by the user: the optimizer must have a parameter for each.

    Raises:
      UserError: unknown optimizer, an option that it does not have, or one that it needs.
    """
    name, clip_norm = settings["name"], settings["clip_norm"]
    make = OPTIMIZERS.find(name)
    choices = {*parameters(make), *(set(settings) - set(own or {}))} - {"schedule"}
    check_options(f'optimizer "{name}"', own or {}, choices, "optimizer.")
    optimizer = make(schedule, **wanted(make, settings, 1, f'optimizer "{name}"', "optimizer"))
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    return optimizer


def by_part(
    optimizer: optax.GradientTransformation, parts: Sequence[str], frozen: Sequence[str], decay: float
) -> optax.GradientTransformation:
    """An optimizer that leaves the frozen parts of a network as they are, and trains earlier parts more slowly.

    Args:
      optimizer: of the rest.
      parts: the network's, from the image to the logits: the first levels of its parameters.
      frozen: those that are not trained; no state is kept for them.
      decay: factor of the updates from each part to the one before it.
    """

    factors = {name: decay ** (len(parts) - 1 - i) for i, name in enumerate(parts)}

    def slowed(updates: dict, params: dict | None = None) -> dict:
        return jax.tree_util.tree_map_with_path(lambda path, u: factors[path[0].key] * u, updates)

    def labels(params: dict) -> dict:
        return {name: "frozen" if name in frozen else "trained" for name in params}

    if decay != 1:
        optimizer = optax.chain(optimizer, optax.stateless(slowed))
    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels) if frozen else optimizer
