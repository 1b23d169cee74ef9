"""What a network is to tell of an image."""

from typing import Literal, get_args

from xception_jax.models.head import Scores

# One class of several, any number of them, or numbers.
Task = Literal["single_label", "multi_label", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)
# The meaning of the logits of a network for a task.
SCORES: dict[Task, Scores] = {"single_label": "softmax", "multi_label": "sigmoid", "regression": "linear"}
