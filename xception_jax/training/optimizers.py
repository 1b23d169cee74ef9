"""Learning rate schedules and optimizers, by name, from the config."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import optax

from xception_jax.errors import UserError, suggest

if TYPE_CHECKING:
    from ml_collections import ConfigDict

SCHEDULES = ("constant", "cosine", "exponential")
OPTIMIZERS = ("adamw", "lamb", "rmsprop", "sgd")


def create_schedule(config: "ConfigDict", *, total_steps: int, in_steps: Callable[..., float]) -> optax.Schedule:
    """The learning rate at each step.

    Args:
      config: the run's.
      total_steps: length of training.
      in_steps: `durations.in_steps` of this run, as (duration, key=) -> steps.

    Raises:
      UserError: an unknown schedule, or one that cannot be.
    """
    s, peak = config.schedule, config.learning_rate
    if s.name not in SCHEDULES:
        raise UserError(f'unknown schedule.name "{s.name}"; {suggest(s.name, SCHEDULES)}')
    warmup = round(in_steps(s.warmup, key="schedule.warmup"))
    if warmup >= total_steps > 0 and warmup > 0:
        raise UserError(f"schedule.warmup is {warmup} steps, but training lasts {total_steps}; shorten the warm-up")
    if s.name == "constant":
        after = optax.constant_schedule(peak)
    elif s.name == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup), alpha=s.final_fraction)
    else:
        every = in_steps(s.decay_every, key="schedule.decay_every")
        after = optax.exponential_decay(peak, every, s.decay_rate, staircase=s.staircase)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def is_kernel(params: dict) -> dict:
    """A tree of booleans: True at the kernels, which are decayed; biases and normalization parameters are not."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def create_optimizer(config: "ConfigDict", schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer that `config.optimizer` names.

    L2 weight decay (sgd, rmsprop) adds `weight_decay * kernel` to the gradient, before momentum and after clipping:
    the gradient of `weight_decay / 2 * sum(kernel ** 2)`, as in TF-slim. adamw and lamb decay apart from the gradient.

    Raises:
      UserError: an unknown optimizer.
    """
    o = config.optimizer
    if o.name not in OPTIMIZERS:
        raise UserError(f'unknown optimizer.name "{o.name}"; {suggest(o.name, OPTIMIZERS)}')

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    if o.name == "adamw":
        optimizer = optax.adamw(
            schedule, o.momentum, given(o.decay, 0.999), given(o.epsilon, 1e-8),
            weight_decay=o.weight_decay, mask=is_kernel,
        )  # fmt: skip
    elif o.name == "lamb":
        optimizer = optax.lamb(
            schedule, o.momentum, given(o.decay, 0.999), given(o.epsilon, 1e-6),
            weight_decay=o.weight_decay, mask=is_kernel,
        )  # fmt: skip
    else:
        l2 = optax.add_decayed_weights(o.weight_decay, is_kernel)
        if o.name == "sgd":
            descent = optax.sgd(schedule, o.momentum or None, o.nesterov)
        else:
            # TensorFlow's RMSprop: epsilon inside the root, the accumulator starts at one (Inception V3, section 8).
            descent = optax.rmsprop(
                schedule, given(o.decay, 0.9), given(o.epsilon, 1.0), initial_scale=1.0, momentum=o.momentum or None
            )
        optimizer = optax.chain(l2, descent)
    if o.clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(o.clip_norm), optimizer)
    return optimizer
