"""The evaluation of a batch, on the accelerator.

Shape legend: B batch, S image side, K classes.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from xception_jax import ops
from xception_jax.inputs.spec import Normalization
from xception_jax.models import variables
from xception_jax.models.variables import Weights
from xception_jax.parallel.mesh import batch_sharded, in_use, replicated
from xception_jax.tasks.losses import Loss, cross_entropy
from xception_jax.tasks.metrics import Metric
from xception_jax.tasks.task import SINGLE_LABEL, Task

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_eval_step(
    graphdef: nnx.GraphDef,
    num_classes: int,
    mesh: Mesh,
    normalization: Normalization,
    shardings: Weights | NamedSharding | None = None,
    *,
    task: Task = SINGLE_LABEL,
    loss: Loss = cross_entropy,
    metrics: Mapping[str, Metric] | None = None,
    lowering: ops.Lowering | None = None,
    among: np.ndarray | None = None,
) -> Callable[[Weights, Batch], Metrics]:
    """Compiles (weights, batch) -> predictions for each example, replicated on every device.

    Args:
      graphdef: the network's structure.
      num_classes: K.
      mesh: the devices.
      normalization: of the pixels.
      shardings: of the weights (`mesh.state_shardings`); None: replicated on every device.
      task: what the network is to tell.
      loss, metrics: functions of logits and labels, see `tasks`.
      lowering: of operators; None: the one currently in scope.
      among: bool [K], the classes that are chosen among; None: all.

    Returns:
      A function that returns loss (float32 [B]), what the task keeps of the logits, each of the metrics (float32 [B]),
      and the batch's entries other than the images. Kept are, of one class of several, confidence (float32 [B], the
      highest softmax probability) and top5 (int32 [B, min(5, K)], most probable first); otherwise logits (float32
      [B, K]).
    """
    lowering = lowering or ops.current()

    def eval_step(weights: Weights, batch: Batch) -> Metrics:
        with ops.use(lowering), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            logits = variables.merge(graphdef, in_use(weights, mesh))(normalization(batch["image"]))
        assert logits.shape[-1] == num_classes, logits.shape
        if among is not None:
            logits = jnp.where(among, logits, jnp.finfo(logits.dtype).min)
        return {
            **{name: column for name, column in batch.items() if name != "image"},
            "loss": loss(logits, batch["label"]),
            **task.outputs(logits),
            **{name: metric(logits, batch["label"]) for name, metric in (metrics or {}).items()},
        }

    on_all = replicated(mesh)
    weights = on_all if shardings is None else shardings
    return jax.jit(eval_step, in_shardings=(weights, batch_sharded(mesh)), out_shardings=on_all)
