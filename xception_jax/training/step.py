"""The two functions that run on the accelerator: a step of training, and the evaluation of a batch.

Both are pure, traced once, and sharded: the batch over the devices of a mesh, the rest on each of them or as `sharding`
says. Under `jax.jit` a mean over the batch is one over all devices, so batch statistics and gradients are the global
batch's.

Shape legend: B batch, A accumulation parts, S image side, K classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from xception_jax import ops
from xception_jax.models.input_spec import Normalization
from xception_jax.parallel.mesh import batch_sharded, replicated, state_shardings
from xception_jax.training import state as train_state
from xception_jax.training.state import TrainState, Weights

# What GPUs keep of the forward pass for the backward pass, by the names that operators and blocks give: results
# of convolutions, sums of residual blocks, statistics. Normalization, ReLU and all else are computed again from these.
KEPT = ("convolution", "depthwise", "sum", "statistics", "maxima")

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def cross_entropy(logits: Float[Array, "B K"], labels: jax.Array, label_smoothing: float = 0.0) -> Float[Array, " B"]:
    """Softmax cross-entropy of each example, in nats, against labels smoothed as in Inception V3, section 7."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What a step of training depends on, besides the network and its optimizer."""

    seed: int = 0
    label_smoothing: float = 0.0
    aux_loss_weight: float = 0.4
    average_decay: float = 0.0
    accumulate_steps: int = 1
    normalization: Normalization = Normalization()


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    settings: TrainSettings,
    mesh: Mesh,
    shardings: TrainState | NamedSharding | None = None,
) -> jax.stages.Wrapped:
    """Compiles (state, batch) -> (state, metrics). The state's buffers are donated: use only the returned one.

    The batch holds image (uint8 [B, S, S, 3]) and label (int32 [B]). Metrics are float32 scalars: loss (label
    smoothing and auxiliary loss included, weight decay not), top1, gradient_norm, learning_rate. `shardings` are those
    of the state (`sharding.state_shardings`); None: all of it is on every device.
    """

    def loss_fn(params: dict, batch_stats: dict, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple:
        params = in_use(params, mesh)
        model = train_state.merge(graphdef, Weights(params, batch_stats))
        outputs = model(settings.normalization(images), train=True, rngs=nnx.Rngs(dropout=key))
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = cross_entropy(logits, labels, settings.label_smoothing).mean()
        for aux_logits in auxiliary:
            loss += settings.aux_loss_weight * cross_entropy(aux_logits, labels, settings.label_smoothing).mean()
        top1 = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
        batch_stats = train_state.split(model)[1].batch_stats
        return loss, (batch_stats, {"loss": loss, "top1": top1})

    def gradient(*args: Any) -> tuple:
        """The gradient of the loss and what else it returns."""
        kept = jax.checkpoint_policies.save_only_these_names(*KEPT)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # kernels ask how the batch is split
            f = jax.checkpoint(loss_fn, policy=kept) if ops.fast_on_gpu() else loss_fn
            return jax.grad(f, has_aux=True)(*args)

    def accumulated(weights: Weights, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple:
        """Means over A parts of the batch, one after the other; batch statistics are updated after each."""
        parts = settings.accumulate_steps

        def split_batch(x: jax.Array) -> jax.Array:
            # [B, ...] -> [A, B / A, ...], each part with examples of every device, so that none has to move.
            return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

        def body(carry: tuple, part: tuple) -> tuple:
            sums, batch_stats = carry
            grads, (batch_stats, metrics) = gradient(weights.params, batch_stats, *part)
            return (jax.tree.map(jnp.add, sums, (grads, metrics)), batch_stats), None

        zeros = jax.tree.map(jnp.zeros_like, weights.params), {"loss": jnp.zeros(()), "top1": jnp.zeros(())}
        inputs = split_batch(images), split_batch(labels), jax.random.split(key, parts)
        (sums, batch_stats), _ = jax.lax.scan(body, (zeros, weights.batch_stats), inputs)
        grads, metrics = jax.tree.map(lambda x: x / parts, sums)
        return grads, (batch_stats, metrics)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        # A key that follows from the step alone: nothing to save, and a resumed run draws the same masks.
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        if settings.accumulate_steps == 1:
            grads, (batch_stats, metrics) = gradient(
                state.weights.params, state.weights.batch_stats, batch["image"], batch["label"], key
            )
        else:
            grads, (batch_stats, metrics) = accumulated(state.weights, batch["image"], batch["label"], key)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        metrics["learning_rate"] = jnp.asarray(schedule(state.step), jnp.float32)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.weights.params)
        weights = Weights(optax.apply_updates(state.weights.params, updates), batch_stats)
        averaged = state.averaged
        if averaged is not None:
            averaged = train_state.average(averaged, weights, state.step, settings.average_decay)
        return TrainState(state.step + 1, weights, averaged, opt_state), metrics

    on_all = replicated(mesh)
    state = on_all if shardings is None else shardings
    return jax.jit(
        train_step, donate_argnums=0, in_shardings=(state, batch_sharded(mesh)), out_shardings=(state, on_all)
    )


def in_use(tree: Any, mesh: Mesh) -> Any:
    """Arrays as a step computes with them: gathered, where the data axis splits what is stored of them."""
    return jax.lax.with_sharding_constraint(tree, state_shardings(tree, mesh, fully_sharded=False))


def make_eval_step(
    graphdef: nnx.GraphDef,
    num_classes: int,
    mesh: Mesh,
    normalization: Normalization,
    shardings: Weights | NamedSharding | None = None,
) -> Callable[[Weights, Batch], Metrics]:
    """Compiles (weights, batch) -> what the network says of each example, on every device.

    Returns loss (float32 [B], cross-entropy without smoothing), confidence (float32 [B], the highest softmax
    probability), top5 (int32 [B, min(5, K)], most probable first), and what the batch holds besides the images.
    `shardings` are those of the weights, as in `make_train_step`.
    """

    def eval_step(weights: Weights, batch: Batch) -> Metrics:
        logits = train_state.merge(graphdef, in_use(weights, mesh))(normalization(batch["image"]))
        _, top5 = jax.lax.top_k(logits, min(5, num_classes))
        return {
            **{name: column for name, column in batch.items() if name != "image"},
            "loss": cross_entropy(logits, batch["label"]),
            "confidence": jax.nn.softmax(logits).max(-1),
            "top5": top5,
        }

    on_all = replicated(mesh)
    weights = on_all if shardings is None else shardings
    return jax.jit(eval_step, in_shardings=(weights, batch_sharded(mesh)), out_shardings=on_all)
