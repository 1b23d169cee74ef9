"""Progressive resizing: training begins with small images, which are fast, and ends with large ones."""

from collections.abc import Callable

from xception_jax.errors import UserError
from xception_jax.experiment import Experiment
from xception_jax.training.durations import in_steps

STAGE = 32  # pixels; each size of images compiles its own step


def image_sizes(experiment: Experiment) -> Callable[[int], int]:
    """The image size of each step, counted from 0: stages of equal length from `first_image_size` to `image_size`.

    Raises:
      UserError: the duration is none.
    """
    c = experiment.config
    first, last = c.first_image_size, c.image_size
    if first is None or first == last:
        return lambda step: last
    examples = len(experiment.source)
    until = in_steps(c.grow_until, batch_size=c.batch_size, num_examples=examples, key="grow_until")
    if until == 0:
        raise UserError(
            f'config.first_image_size is {first}, but config.grow_until is "{c.grow_until}"; write when images are to '
            f'have {last} pixels, such as "30 epochs"'
        )
    stages = -(-(last - first) // STAGE)
    return lambda step: min(last, first + STAGE * int(step * stages / until))
