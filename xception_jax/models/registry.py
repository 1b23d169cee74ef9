"""Networks by name."""

from collections.abc import Callable, Collection
from typing import Any, cast

import jax
from flax import nnx

from xception_jax.errors import UserError
from xception_jax.extension import names
from xception_jax.extension.names import Registry, check_call, parameters
from xception_jax.extension.rules import check_ranges
from xception_jax.models import aligned_xception as aligned
from xception_jax.models.backbone import Backbone
from xception_jax.models.inception_v3 import InceptionV3
from xception_jax.models.ranges import RANGES
from xception_jax.models.xception import Xception

ALIGNED: dict[str, type[aligned.AlignedXception]] = {
    "xception41": aligned.Xception41,
    "xception65": aligned.Xception65,
    "xception71": aligned.Xception71,
    "xception41p": aligned.Xception41p,
    "xception65p": aligned.Xception65p,
}
OURS: dict[str, Callable[..., Backbone]] = {"inception_v3": InceptionV3, "xception": Xception, **ALIGNED}
MODELS = Registry("model", OURS)


def list_models() -> list[str]:
    """The names that `create_model` accepts, in addition to "package.module:function"."""
    return list(MODELS)


def register_model(name: str, make: Callable[..., Backbone]) -> Callable[..., Backbone]:
    """Registers your own network under a name for `create_model` and configs, in this process.

    Other programs do not know the name, and so cannot read a run that has it: see docs/extending.md.

    Args:
      name: any name without a colon.
      make: a subclass of `Backbone`, or a function that returns an instance, of `num_classes`, `rngs` and options.

    Returns:
      `make`.
    """
    return MODELS.register(name, make)


def build_network(name: str, *, num_classes: int = 1000, rngs: nnx.Rngs, **options: Any) -> Backbone:
    """Builds a network without trained weights; with them, see `pretrained.create_model`.

    Args:
      name: one of `list_models()`, or "package.module:function".
      num_classes: width of the logits; 0 omits the logits layer.
      rngs: initialises the parameters.
      **options: the keyword arguments of the network's class, e.g. `dropout=0.5`.

    Raises:
      UserError: an unknown name or option (the message suggests the closest one), or a value out of range.
    """
    check_options(name, options)
    if name in OURS:
        check_ranges({"num_classes": num_classes, **options}, RANGES)
        keys = _Keys(rngs)
        model = OURS[name](num_classes, rngs=cast(nnx.Rngs, keys), **options)
        keys.finish()
    else:
        model = _checked(MODELS.find(name)(num_classes, rngs=rngs, **options), name)
    model.note_parts()
    return model


def _checked(model: Any, name: str) -> Backbone:
    """Returns a user's network after checking its type."""
    if not isinstance(model, Backbone):
        raise UserError(
            f'model "{name}" returned a {type(model).__name__}; it must return an instance of xception_jax.Backbone'
        )
    return model


class _Keys:
    """The keys that `rngs.params()` would return, counted in Python.

    Flax's own counter is an array; when a network is traced, JAX looks up its origin each time, which takes three times
    as long as everything else.
    """

    def __init__(self, rngs: nnx.Rngs):
        self._stream = rngs.params
        self._key, self._first, self._given = self._stream.key[...], self._stream.count[...], 0

    def params(self) -> jax.Array:
        self._given += 1
        return jax.random.fold_in(self._key, self._first + (self._given - 1))

    def finish(self) -> None:
        """Advances the original stream past the keys used."""
        self._stream.count.set_value(self._first + self._given)


def option_names(name: str) -> set[str]:
    """The options of a network."""
    return {*parameters(MODELS.find(name))} - {"num_classes", "rngs"}


def check_options(name: str, options: Collection[str]) -> None:
    """Raises UserError if the network does not exist, does not have one of the options, or needs others."""
    names.check_options(f'model "{name}"', options, option_names(name))
    check_call(MODELS.find(name), 1, {"rngs", *options}, f'model "{name}"', "model")
