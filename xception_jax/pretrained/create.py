"""Networks by name, with or without trained weights."""

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
    """Builds a network. With `weights` it is trained, and has their `input_spec` and `class_names`, too.

        model = create_model("xception", weights="imagenet")
        probabilities = jax.nn.softmax(model(model.preprocess(images)))

    Args:
      name: one of `list_models()`, or "package.module:function".
      num_classes: width of the logits; 0 omits the logits layer. None: that of the weights, or 1000.
        If it differs from that of the weights, the logits layer is initialised anew.
      rngs: initialises parameters that are not loaded; None: seed 0.
      weights: trained weights, as for `load`.
      **options: the keyword arguments of the network's class, e.g. `dropout=0.5`; by default those of the weights.

    Raises:
      UserError: an unknown name or option, or weights that cannot be read or belong to another network.
    """
    rngs = nnx.Rngs(0) if rngs is None else rngs
    if weights is None:
        return models.build_network(
            name, num_classes=1000 if num_classes is None else num_classes, rngs=rngs, **options
        )
    pretrained = load(weights, name, head=options.get("head"))
    if num_classes is None:
        num_classes = pretrained.num_classes
    model = models.build_network(name, num_classes=num_classes, rngs=rngs, **(pretrained.options | options))
    graphdef, fresh = variables.split(model)
    trained, _ = transplant(pretrained, fresh)
    model = variables.merge(graphdef, fill(fresh, trained))
    model.input_spec = pretrained.input
    if num_classes == pretrained.num_classes:
        model.class_names = pretrained.class_names
    return model
