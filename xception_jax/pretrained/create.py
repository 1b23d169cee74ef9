"""Networks by name, trained ones included."""

from typing import Any

from flax import nnx

from xception_jax import models
from xception_jax.models import variables
from xception_jax.models.backbone import Backbone
from xception_jax.pretrained.load import load
from xception_jax.pretrained.transplant import fill, transplant


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    rngs: nnx.Rngs | None = None,
    weights: str | None = None,
    **options: Any,
) -> Backbone:
    """Builds a network, trained if `weights` are given: then it has their `input_spec` and `class_names`, too.

        model = create_model("xception", weights="imagenet")
        probabilities = jax.nn.softmax(model(model.preprocess(images)))

    Args:
      name: one of `list_models()`, or "package.module:function".
      num_classes: width of the logits; 0 leaves the logits layer out. None: as many as the weights have, else 1000.
        Where it differs from theirs, the logits layer is a new one.
      rngs: initialises what is not trained; None: from seed 0.
      weights: trained weights, as `load` takes them.
      **options: the keyword arguments of the network's class, e.g. `dropout=0.5`; by default the weights' own.

    Raises:
      UserError: an unknown name or option, weights that cannot be read or are another network's.
    """
    rngs = nnx.Rngs(0) if rngs is None else rngs
    if weights is None:
        return models.create_model(name, num_classes=1000 if num_classes is None else num_classes, rngs=rngs, **options)
    pretrained = load(weights, name)
    if num_classes is None:
        num_classes = pretrained.num_classes
    model = models.create_model(name, num_classes=num_classes, rngs=rngs, **(pretrained.options | options))
    graphdef, fresh = variables.split(model)
    trained, _ = transplant(pretrained, fresh)
    model = variables.merge(graphdef, fill(fresh, trained))
    model.input_spec = pretrained.input
    if num_classes == pretrained.num_classes:
        model.class_names = pretrained.class_names
    return model
