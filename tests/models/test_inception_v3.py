"""Inception V3 as torchvision has it: what differs from Keras' network, whose numbers `test_keras_parity` compares."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import peers
from xception_jax.models import build_network
from xception_jax.models.inception_v3 import InceptionA, InceptionC, InceptionE
from xception_jax.pretrained.layouts.table import to_ours
from xception_jax.pretrained.layouts.timm import timm_table

POOLED = [f"mixed{i}" for i in (0, 1, 2, 4, 5, 6, 7, 9, 10)]


def tiny(**options):
    """The shapes of a narrow network; nothing is computed."""
    options = {"num_classes": 5, "stem": "small", "width": 0.05, **options}
    return nnx.eval_shape(lambda: build_network("inception_v3", rngs=nnx.Rngs(0), **options))


def randomised(model):
    """Random numbers for all parameters and statistics, the same ones for every network."""
    graphdef, state = nnx.split(model)

    def random(path, x):
        rng = np.random.default_rng(list(jax.tree_util.keystr(path).encode()))
        low, high = (-0.5, 0.5) if x.ndim > 1 else (0.5, 1.5)
        return jnp.asarray(rng.uniform(low, high, x.shape), x.dtype)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(random, state))


@functools.cache
def torchvision_s():
    """One network for those tests that leave it as it is."""
    return randomised(tiny())


def maps(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def unit(conv_unit, x):
    """1x1 convolution, batch normalization and ReLU, from their definitions."""
    bn = conv_unit.bn
    y = x @ np.asarray(conv_unit.conv.kernel)[0, 0] - np.asarray(bn.mean)
    return np.maximum(y / np.sqrt(np.asarray(bn.var) + 1e-3) * np.asarray(bn.scale) + np.asarray(bn.bias), 0)


@pytest.mark.parametrize("name", POOLED)
def test_pool_branches_count_the_padding(name):
    """PyTorch's `avg_pool2d(x, 3, stride=1, padding=1)`: the sum of nine, zeros beyond the border, over nine."""
    block = getattr(torchvision_s(), name)
    assert isinstance(block, InceptionA | InceptionC | InceptionE)
    (conv_unit,) = block.branch_pool.units
    x = maps(2, 4, 5, conv_unit.conv.kernel.shape[2])
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pooled = sum(padded[:, i : i + 4, j : j + 5] for i in range(3) for j in range(3)) / 9
    expected = unit(conv_unit, pooled)
    actual = block(x, train=False)[..., -expected.shape[-1] :]  # the pool branch is the last
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_keras_network_with_gammas_of_one_and_counted_padding_is_torchvision_s():
    """These two are all that differs, and the second shows."""
    torchvision, keras = randomised(tiny()), randomised(tiny(flavour="keras"))
    for _, module in nnx.iter_modules(torchvision):
        if isinstance(module, nnx.BatchNorm):
            module.scale[...] = jnp.ones_like(module.scale[...])
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 33, 33, 3)), jnp.float32)
    expected = np.asarray(torchvision(images))
    assert np.abs(keras(images) - expected).max() > 1e-2 * np.abs(expected).max()
    for name in POOLED:
        getattr(keras, name).count_padding = True
    np.testing.assert_allclose(keras(images), expected, rtol=1e-4)


def fid_s(torchvision):
    """torchvision's network with the pools of pytorch-fid's, which are read off its inception.py."""
    torch, *_ = peers.libraries()
    functional = torch.nn.functional
    average = functools.partial(functional.avg_pool2d, count_include_pad=False)

    def with_pool(block, pool):
        forward = block._forward

        def call(x):
            with mock.patch.object(functional, "avg_pool2d", pool):
                return forward(x)

        block._forward = call

    for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
        with_pool(getattr(torchvision, f"Mixed_{name}"), average)
    with_pool(torchvision.Mixed_7c, functional.max_pool2d)  # of the same arguments: kernel_size=3, stride=1, padding=1
    return torchvision


@pytest.mark.slow
def test_logits_are_those_of_fid_s_network():
    torch, torchvision, _ = peers.libraries()
    with torch.device("meta"):
        twin = torchvision.models.inception_v3(init_weights=False, num_classes=11, aux_logits=False)
    state = peers.random_state(twin)
    twin = fid_s(peers.load(twin.to_empty(device="cpu"), state))
    images = peers.pictures(91)
    expected = peers.run_torch(twin, images)
    weights = to_ours(state, timm_table("inception_v3"))
    graphdef, _ = peers.structure("inception_v3", num_classes=11, flavour="fid")
    assert peers.error(peers.run_ours(graphdef, weights, images)[0], expected) < 1e-4


def test_fid_s_pools():
    """Averages without the padding, and in the last block a maximum: of 3x3 pixels before the 1x1 unit."""
    model = randomised(tiny(flavour="fid"))
    for name in POOLED:
        block = getattr(model, name)
        assert (block.count_padding, getattr(block, "max_pool", False)) == (False, name == "mixed10")
    (conv_unit,) = model.mixed10.branch_pool.units
    x = maps(2, 4, 5, conv_unit.conv.kernel.shape[2])
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    pooled = np.max([padded[:, i : i + 4, j : j + 5] for i in range(3) for j in range(3)], 0)
    expected = unit(conv_unit, pooled)
    np.testing.assert_allclose(
        model.mixed10(x, train=False)[..., -expected.shape[-1] :], expected, rtol=1e-4, atol=1e-4
    )


def test_aux_head_is_torchvision_s():
    """5x5 average every 3 pixels, 1x1 and 5x5 units, global average, logits: on a 17x17 map and a larger one."""
    model = randomised(tiny(aux_head=True))
    first, second = model.aux.convs.units
    kernel, bn = np.asarray(second.conv.kernel), second.bn
    for size in (17, 21):
        x = maps(2, size, size, first.conv.kernel.shape[2])
        n = (size - 5) // 3 + 1
        pooled = np.stack(
            [x[:, 3 * i : 3 * i + 5, 3 * j : 3 * j + 5].mean((1, 2)) for i in range(n) for j in range(n)], axis=1
        ).reshape(2, n, n, -1)
        y = unit(first, pooled)
        m = n - 4
        y = np.stack(
            [np.einsum("bhwc,hwcd->bd", y[:, i : i + 5, j : j + 5], kernel) for i in range(m) for j in range(m)], axis=1
        )
        y = (y - np.asarray(bn.mean)) / np.sqrt(np.asarray(bn.var) + 1e-3) * np.asarray(bn.scale) + np.asarray(bn.bias)
        y = np.maximum(y, 0).mean(1)
        logits = model.aux.head.logits
        expected = y @ np.asarray(logits.kernel) + np.asarray(logits.bias)
        np.testing.assert_allclose(model.aux(x, train=False), expected, rtol=1e-3)


@pytest.mark.slow
def test_training_with_the_aux_head_returns_both_logits():
    """The auxiliary ones are of the map after mixed7, and leave the others as they are."""
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 71, 71, 3)), jnp.float32)
    model = randomised(tiny(aux_head=True))
    logits, aux_logits = model(images, train=True)
    seen = randomised(tiny(aux_head=True))
    *_, x = seen.stem(images, train=True)
    for name in [f"mixed{i}" for i in range(8)]:
        x = getattr(seen, name)(x, train=True)
    np.testing.assert_allclose(aux_logits, seen.aux(x, train=True), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(logits, randomised(tiny())(images, train=True), rtol=1e-3, atol=1e-4)
    assert not isinstance(model(images), tuple)
