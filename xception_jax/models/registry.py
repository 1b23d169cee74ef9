"""Networks by name."""

import inspect
from typing import Any

from flax import nnx

from xception_jax.errors import UserError, suggest
from xception_jax.models.inception_v3 import InceptionV3
from xception_jax.models.xception import Xception

MODELS: dict[str, type[InceptionV3] | type[Xception]] = {"inception_v3": InceptionV3, "xception": Xception}


def list_models() -> list[str]:
    """The names `create_model` takes."""
    return sorted(MODELS)


def create_model(name: str, *, num_classes: int = 1000, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
    """Builds a network.

    Args:
      name: one of `list_models()`.
      num_classes: width of the logits; 0 leaves the logits layer out.
      rngs: initialises the parameters.
      **options: the keyword arguments of the network's class, e.g. `dropout=0.5`.

    Raises:
      UserError: an unknown name or option (the nearest right one is named), or a value out of range.
    """
    if name not in MODELS:
        raise UserError(f'unknown model "{name}"; {suggest(name, MODELS)}')
    parameters = inspect.signature(MODELS[name].__init__).parameters
    for option in options:
        if option not in parameters:
            raise UserError(
                f'model "{name}" has no option "{option}"; {suggest(option, set(parameters) - {"self", "rngs"})}'
            )
    return MODELS[name](num_classes, rngs=rngs, **options)
