"""Networks of timm and torchvision with random weights, for the tests to compare with, and ours with the same weights;
other parts of timm.

Both libraries need torchvision's Python part alone. Its compiled part is built for one PyTorch, which is not always
available; without it `import torchvision` fails at two operators that it expects, and that no network here uses.
"""

import functools
import importlib
import re

import jax
import numpy as np
import pytest
from flax import nnx

from xception_jax.models import build_network, variables
from xception_jax.pretrained.layouts.table import to_foreign, to_ours
from xception_jax.pretrained.layouts.timm import timm_table

INSTALL = (
    "pip install torch==2.13.0 safetensors huggingface_hub && pip install --no-deps torchvision==0.28.0 timm==1.0.31"
)
TIMM_NAMES = {"xception": "legacy_xception"}
# What differs from our defaults; PyTorch calls the momentum 0.1.
OPTIONS = {"xception": {"bn_epsilon": 1e-5, "pool_padding": "symmetric"}}
MOMENTUM = 0.9


@functools.cache
def libraries():
    """(torch, torchvision, timm); skips the test where they are missing."""
    try:
        import torch

        try:
            import torchvision
        except RuntimeError as e:
            if "torchvision::" not in str(e):
                raise
            for operator in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor"
                )
            import torchvision
        import timm
    except ImportError as e:
        pytest.skip(f"{e.name} is not installed: {INSTALL}")
    return torch, torchvision, timm


def timm_module(name):
    """The module timm.NAME."""
    libraries()
    return importlib.import_module(f"timm.{name}")


def timm_model(name, weights=None, **options):
    """timm's twin of our network `name` in inference mode, with the given or random weights and statistics."""
    torch, _, timm = libraries()
    with torch.device("meta"):  # Nothing is computed to initialise it.
        model = timm.create_model(TIMM_NAMES.get(name, name), **options)
    state = random_state(model) if weights is None else weights
    if options.get("features_only"):
        full_names = {n: re.sub("^(blocks|stem)_", r"\1.", n.removeprefix("body.")) for n in model.state_dict()}
        state = {n: state[full] for n, full in full_names.items()}
    return load(model.to_empty(device="cpu"), state)


def load(model, state):
    """A PyTorch network with the given arrays, in inference mode."""
    torch, *_ = libraries()
    model.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()}, strict=True)
    return model.eval()


def random_state(model):
    """Random numbers for all of a PyTorch network's weights and statistics, which their names and shapes decide."""
    return {name: random_array(name, tuple(old.shape)) for name, old in model.state_dict().items()}


def random_array(name, shape):
    """Random numbers for one of a PyTorch network's arrays.

    Kernels keep the scale of what they are applied to, so that all layers matter to the logits. What is added before a
    ReLU is positive, so that most units are active: on channels that are nearly dead, training magnifies rounding.
    """
    if not shape:
        return np.zeros((), np.int64)
    rng = np.random.default_rng(list(name.encode()))
    if len(shape) > 1:
        # A depthwise kernel's scale, without the 2 that makes up for a ReLU: none comes before the pointwise one.
        variance = (1 if shape[1] == 1 else 2) / np.prod(shape[1:])
        return rng.standard_normal(shape, np.float32) * np.float32(variance**0.5)
    ranges = {"weight": (0.5, 1.5), "bias": (0, 2), "running_mean": (-0.3, 0.3), "running_var": (0.5, 1.5)}
    return rng.uniform(*ranges[name.rsplit(".")[-1]], shape).astype(np.float32)


def arrays(model):
    """A PyTorch network's state dict, copied."""
    return {name: x.numpy().copy() for name, x in model.state_dict().items()}


def run_torch(model, images):
    """A PyTorch network's output, or its outputs, for pictures [B, H, W, 3]; maps as [B, h, w, C]."""
    torch, *_ = libraries()
    with torch.inference_mode():
        output = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    outputs = [x.numpy() for x in (output if isinstance(output, list | tuple) else [output])]
    outputs = [x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for x in outputs]
    return outputs if isinstance(output, list | tuple) else outputs[0]


@functools.cache
def structure(name, **options):
    """Our network as timm's is, without weights, and the shapes of the weights."""
    options = {"bn_momentum": MOMENTUM, **OPTIONS.get(name, {}), **options}
    return nnx.eval_shape(lambda: variables.split(build_network(name, rngs=nnx.Rngs(0), **options)))


@functools.cache
def tiny(name, **options):
    """Structure and random weights of a narrow network; the weights depend on the names of its arrays alone."""
    options = {"num_classes": 5, "width": 0.05, **options}
    graphdef, abstract = nnx.eval_shape(lambda: variables.split(build_network(name, rngs=nnx.Rngs(0), **options)))

    def random(path, x):
        rng = np.random.default_rng(list(jax.tree_util.keystr(path).encode()))
        if x.ndim > 1:
            return rng.standard_normal(x.shape, np.float32) * np.float32((2 / np.prod(x.shape[:-1])) ** 0.5)
        return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)

    return graphdef, jax.tree_util.tree_map_with_path(random, abstract)


def random_weights(name):
    """The weights that `timm_model` has at random, for our network, on the device; without timm."""
    table, (_, abstract) = timm_table(name), structure(name)
    names = to_foreign(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract), table)
    return jax.device_put(to_ours({key: random_array(key, x.shape) for key, x in names.items()}, table))


def same_weights(name, twin):
    """The weights of timm's network `twin`, for ours, on the device."""
    return jax.device_put(to_ours(arrays(twin), timm_table(name)))


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def run_ours(graphdef, weights, images, method="__call__", train=False):
    """What a method of our network returns, and its batch statistics afterwards."""
    model = variables.merge(graphdef, weights)
    output = getattr(model, method)(images, train=train)
    return output, variables.split(model)[1].batch_stats


def pictures(size, batch=2):
    """Pictures of coarse patches and fine noise; of noise alone, a network thinks the same whatever the picture."""
    rng = np.random.default_rng(size)
    patches = rng.uniform(-1, 1, (batch, 8, 8, 3)).repeat(size // 8 + 1, 1).repeat(size // 8 + 1, 2)[:, :size, :size]
    return (0.5 * (patches + rng.uniform(-1, 1, patches.shape))).astype(np.float32)


def error(ours, reference):
    """||ours - reference|| / ||reference||."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    return np.linalg.norm(ours - reference) / np.linalg.norm(reference)
