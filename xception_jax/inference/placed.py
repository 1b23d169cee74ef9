"""A trained network on all devices, as prediction and features have it."""

import jax
from flax import nnx
from jax.sharding import Mesh

from xception_jax import ops
from xception_jax.models import build_network, variables
from xception_jax.models.variables import Weights
from xception_jax.parallel.mesh import replicated
from xception_jax.pretrained import Pretrained, transplant


def placed(pretrained: Pretrained, mesh: Mesh) -> tuple[nnx.GraphDef, Weights, ops.Lowering]:
    """A network's structure, its arrays on every device of the mesh, and the lowering of its operators.

    Raises:
      UserError: the weights do not fit their network.
    """

    def build() -> tuple[nnx.GraphDef, Weights]:
        options = pretrained.options
        return variables.split(
            build_network(pretrained.model, num_classes=pretrained.num_classes, rngs=nnx.Rngs(0), **options)
        )

    lowering = ops.trusted(ops.current(), pretrained.options.get("dtype", "float32"))
    graphdef, shapes = nnx.eval_shape(build)
    weights, _ = transplant(pretrained, shapes)
    return graphdef, jax.device_put(weights, replicated(mesh)), lowering
