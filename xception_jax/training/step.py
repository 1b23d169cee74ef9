"""A training step, on the accelerator.

It is pure, traced once, and sharded: the batch is split over the devices of a mesh; everything else is replicated, or
sharded by the rules of `parallel.mesh`. Under `jax.jit` a mean over the batch is a mean over all devices, so batch
statistics and gradients are those of the global batch.

Shape legend: B batch, A accumulation parts, S image side, K classes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from xception_jax import ops
from xception_jax.evaluation.step import Batch, Metrics
from xception_jax.inputs.spec import Normalization
from xception_jax.models import variables
from xception_jax.models.variables import Weights
from xception_jax.parallel.mesh import batch_sharded, in_use, replicated
from xception_jax.tasks.losses import Loss, cross_entropy
from xception_jax.tasks.metrics import Metric
from xception_jax.tasks.task import SINGLE_LABEL, Task
from xception_jax.training.mixing import Mixing
from xception_jax.training.state import TrainState, average

# What GPUs save in the forward pass for the backward pass, by the names that operators and blocks assign: results of
# convolutions, sums of residual blocks, statistics. Everything else, such as normalization and ReLU, is recomputed.
KEPT = ("convolution", "depthwise", "sum", "statistics", "maxima")

# Of parameters, batch statistics, images, labels, targets and a key: the gradient of the loss, and with it, in a pair,
# the new batch statistics and the metrics.
Gradient = Callable[..., tuple[Any, tuple[Any, Any]]]


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The settings of a training step, in addition to the network and its optimizer.

    Attributes:
      seed: determines the dropout masks and what is mixed, together with the step.
      task: what the network is to tell; it says which metrics are reported besides the loss.
      loss: of logits and labels, per example (`tasks.losses`).
      metrics: other functions of logits and labels, by the names they are reported under.
      aux_loss_weight: weight of the auxiliary head's loss.
      average_decay: of Polyak averaging.
      accumulate_steps: number of parts of a batch, computed one after another.
      normalization: of the pixels.
      mixing: of the images of a batch, or None; metrics are of the labels of the image of which there is more.
      lowering: of operators; None: the one in scope when the step is created.
    """

    seed: int = 0
    task: Task = SINGLE_LABEL
    loss: Loss = cross_entropy
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    aux_loss_weight: float = 0.4
    average_decay: float = 0.0
    accumulate_steps: int = 1
    normalization: Normalization = Normalization()
    mixing: Mixing | None = None
    lowering: ops.Lowering | None = None


def step_key(seed: int, step: int | jax.Array) -> jax.Array:
    """The key of all that a step draws. Nothing has to be saved, and a resumed run draws the same."""
    return jax.random.fold_in(jax.random.key(seed), step)


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    settings: TrainSettings,
    mesh: Mesh,
    shardings: TrainState | NamedSharding | None = None,
) -> jax.stages.Wrapped:
    """Compiles (state, batch) -> (state, metrics). The state's buffers are donated: use only the returned one.

    The batch holds image (uint8 [B, S, S, 3]) and label (int32 [B], or what the task says). Metrics are float32
    scalars: loss (auxiliary loss included, weight decay not), those of the task (top1), gradient_norm, learning_rate,
    and the metrics in the settings. `shardings` are those of the state (`mesh.state_shardings`); None: all of it is
    replicated.
    """
    lowering = settings.lowering or ops.current()

    def loss_fn(
        params: dict, batch_stats: dict, images: jax.Array, labels: jax.Array, targets: jax.Array, key: jax.Array
    ) -> tuple:
        params = in_use(params, mesh)
        model = variables.merge(graphdef, Weights(params, batch_stats))
        if frozen := getattr(model, "frozen", ()):  # without their gradients, the parts before them need none either
            params = {name: jax.lax.stop_gradient(x) if name in frozen else x for name, x in params.items()}
            model = variables.merge(graphdef, Weights(params, batch_stats))
        outputs = model(settings.normalization(images), train=True, rngs=nnx.Rngs(dropout=key))
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = settings.loss(logits, targets).mean()
        for aux_logits in auxiliary:
            loss += settings.aux_loss_weight * settings.loss(aux_logits, targets).mean()
        metrics = {"loss": loss, **settings.task.training_metrics(logits, labels)}
        metrics |= {name: metric(logits, labels).mean() for name, metric in settings.metrics.items()}
        batch_stats = variables.split(model)[1].batch_stats
        return loss, (batch_stats, metrics)

    def gradient(*args: Any) -> tuple:
        kept = jax.checkpoint_policies.save_only_these_names(*KEPT)
        # Kernels need to know how the batch is sharded.
        with ops.use(lowering), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            f = jax.checkpoint(loss_fn, policy=kept) if lowering.fast(on="gpu") else loss_fn
            return jax.grad(f, has_aux=True)(*args)

    if settings.accumulate_steps > 1:
        names = ("loss", *settings.task.of_batches, *settings.metrics)
        gradient = accumulated(gradient, names, settings.accumulate_steps)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = step_key(settings.seed, state.step)
        if settings.mixing is not None:
            batch = settings.mixing(key, batch)
        inputs = batch["image"], batch["label"], batch.get("target", batch["label"])
        grads, (batch_stats, metrics) = gradient(state.weights.params, state.weights.batch_stats, *inputs, key)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        metrics["learning_rate"] = jnp.asarray(schedule(state.step), jnp.float32)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.weights.params)
        weights = Weights(optax.apply_updates(state.weights.params, updates), batch_stats)
        averaged = state.averaged
        if averaged is not None:
            averaged = average(averaged, weights, state.step, settings.average_decay)
        return TrainState(state.step + 1, weights, averaged, opt_state), metrics

    on_all = replicated(mesh)
    state = on_all if shardings is None else shardings
    return jax.jit(
        train_step, donate_argnums=0, in_shardings=(state, batch_sharded(mesh)), out_shardings=(state, on_all)
    )


def accumulated(gradient: Gradient, metrics: Sequence[str], parts: int) -> Gradient:
    """The means of a gradient and its metrics over A parts of the batch, one after another.

    Batch statistics are updated after each.

    Args:
      gradient: of a part.
      metrics: the names of its metrics.
      parts: A.
    """

    def split_batch(x: jax.Array) -> jax.Array:
        # [B, ...] -> [A, B / A, ...], each part with examples from every device, so that none has to move.
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def zeros_like(x: jax.Array) -> jax.Array:
        return jnp.zeros_like(x, dtype=jnp.promote_types(x.dtype, jnp.float32))  # in bfloat16, 256 + 1 is 256

    def of_all(params: dict, batch_stats: dict, *batch_and_key: jax.Array) -> tuple:
        *batch, key = batch_and_key

        def body(carry: tuple, part: tuple) -> tuple:
            sums, batch_stats = carry
            grads, (batch_stats, found) = gradient(params, batch_stats, *part)
            return (jax.tree.map(jnp.add, sums, (grads, found)), batch_stats), None

        zeros = jax.tree.map(zeros_like, params), {name: jnp.zeros(()) for name in metrics}
        inputs = *map(split_batch, batch), jax.random.split(key, parts)
        (sums, batch_stats), _ = jax.lax.scan(body, (zeros, batch_stats), inputs)
        grads, found = jax.tree.map(lambda x: x / parts, sums)
        return jax.tree.map(lambda grad, x: grad.astype(x.dtype), grads, params), (batch_stats, found)

    return of_all
