"""Sizes of the networks, and what their options do. The counts are those that were published or counted elsewhere."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import peers
from xception_jax.errors import UserError
from xception_jax.models import build_network, variables
from xception_jax.models.layers import SeparableConv
from xception_jax.ops.lowering import as_reference

KINDS = ("inception_v3", "xception", "xception41", "xception41p")  # the others have more blocks of the same kinds
SOME = [pytest.param(name, marks=[pytest.mark.slow] * (name != "xception")) for name in KINDS]


@functools.cache
def abstract(name, **options):
    """The network's shapes; nothing is computed."""
    return nnx.eval_shape(lambda: build_network(name, rngs=nnx.Rngs(0), **options))


def with_stem(name, stem):
    """The network's shapes. The default stem is left out, so that `abstract` remembers one network, not two."""
    return abstract(name, **({} if stem == "imagenet" else {"stem": stem}))


def tiny(name, **options):
    """A narrow network for small pictures, its weights random."""
    return variables.merge(*jax.tree.map(jnp.asarray, peers.tiny(name, stem="small", **options)))


def initialised(name, **options):
    """The same, its weights as training starts with them."""
    return build_network(name, rngs=nnx.Rngs(0), num_classes=5, stem="small", width=0.05, **options)


def count(model, kind=nnx.Param):
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, kind)))


def pictures(size=32, batch=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)


def feature_shape(model, size):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return nnx.eval_shape(lambda m, x: m.features(x), model, images).shape


@pytest.mark.parametrize(
    ("name", "options", "parameters", "statistics"),
    [
        ("xception", {}, 22_855_952, 54_528),
        ("xception", {"num_classes": 0}, 20_806_952, 54_528),
        ("xception", {"num_classes": 17_000}, 55_639_952, 54_528),
        ("xception", {"num_classes": 17_000, "hidden": (4096, 4096)}, 115_629_968, 54_528),
        ("inception_v3", {}, 23_834_568, 34_432),
        ("inception_v3", {"aux_head": True}, 27_161_264, 36_224),
        ("inception_v3", {"flavour": "keras"}, 23_817_352, 34_432),
        ("inception_v3", {"flavour": "paper"}, 23_626_728, 34_240),
        ("xception41", {}, 26_969_560, 115_312),
        pytest.param("xception65", {}, 39_916_312, 185_200, marks=pytest.mark.slow),
        pytest.param("xception71", {}, 42_338_736, 198_976, marks=pytest.mark.slow),
        ("xception41p", {}, 26_907_752, 53_504),
        pytest.param("xception65p", {}, 39_819_560, 88_448, marks=pytest.mark.slow),
    ],
)
def test_counts_are_the_published_ones(name, options, parameters, statistics):
    model = abstract(name, **options)
    assert count(model) == parameters
    assert count(model, nnx.BatchStat) == statistics


def test_fully_connected_layers_add_what_they_should():
    """Inception V3's JFT networks are counted nowhere: the difference to the plain network is worked out here."""
    plain = 23_626_728 - (2048 + 1) * 1000
    model = abstract("inception_v3", flavour="paper", num_classes=17_000, hidden=(4096, 4096))
    assert count(model) == plain + (2048 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 17_000


@pytest.mark.parametrize(
    ("name", "stem", "size", "expected"),
    [
        ("xception", "imagenet", 299, 10),
        ("xception", "imagenet", 71, 3),
        ("xception", "small", 32, 2),
        ("xception41", "imagenet", 299, 10),
        ("xception41", "imagenet", 32, 1),
        ("xception41p", "small", 16, 1),
        ("inception_v3", "imagenet", 299, 8),
        ("inception_v3", "imagenet", 75, 1),
        ("inception_v3", "small", 32, 3),
    ],
)
def test_size_of_the_last_feature_map(name, stem, size, expected):
    model = with_stem(name, stem)
    assert model.num_features == 2048
    assert feature_shape(model, size) == (2, expected, expected, 2048)


@pytest.mark.parametrize(
    ("name", "stem", "smallest"),
    [
        ("xception", "imagenet", 71),
        ("xception", "small", 32),
        ("xception41", "imagenet", 32),
        ("xception41p", "small", 16),
        ("inception_v3", "imagenet", 75),
        ("inception_v3", "small", 32),
    ],
)
def test_too_small_images_are_refused_with_the_reason(name, stem, smallest):
    model = with_stem(name, stem)
    assert model.min_image_size == smallest
    assert min(feature_shape(model, smallest)) > 0
    advice = 'stem="small", 32 are enough' if smallest > 32 else "larger image_size"
    with pytest.raises(
        UserError, match=f"{smallest - 1}x{smallest - 1} .* too small.*{smallest} pixels or more.*{advice}"
    ):
        feature_shape(model, smallest - 1)


@pytest.mark.parametrize(("stem", "smallest"), [pytest.param("imagenet", 299, marks=pytest.mark.slow), ("small", 71)])
def test_aux_head_trains_from_its_smallest_size_and_is_idle_in_evaluation(stem, smallest):
    model = abstract("inception_v3", aux_head=True, stem=stem, width=0.05, num_classes=5)

    def outputs(size, train):
        images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        return nnx.eval_shape(lambda m, x: m(x, train=train), model, images)

    assert [x.shape for x in outputs(smallest, True)] == [(2, 5), (2, 5)]
    assert outputs(smallest - 1, False).shape == (2, 5)
    with pytest.raises(UserError, match=r"auxiliary head needs training images of 299 .*71 or more.*aux_head=False"):
        outputs(smallest - 1, True)


def test_without_residual_connections_the_shortcuts_are_gone():
    kernels = 64 * 128 + 128 * 256 + 256 * 728 + 728 * 1024
    norms = 2 * (128 + 256 + 728 + 1024)
    model = abstract("xception", residual=False)
    assert count(model) == 22_855_952 - kernels - norms
    assert count(model, nnx.BatchStat) == 54_528 - norms


@pytest.mark.parametrize("middle_blocks", [0, 3])
def test_middle_flow_of_fewer_blocks(middle_blocks):
    block = 3 * (9 * 728 + 728 * 728 + 2 * 728)
    model = abstract("xception", middle_blocks=middle_blocks)
    assert count(model) == 22_855_952 - (8 - middle_blocks) * block
    assert count(model, nnx.BatchStat) == 54_528 - (8 - middle_blocks) * 3 * 2 * 728
    graphdef, state = nnx.split(model)
    maps = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s).feature_pyramid(x), state, jnp.zeros((1, 299, 299, 3)))
    assert {stride: x.shape[1:] for stride, x in maps.items()} == {
        2: (147, 147, 64), 4: (74, 74, 128), 8: (37, 37, 256), 16: (19, 19, 728), 32: (10, 10, 2048)
    }  # fmt: skip


@pytest.mark.parametrize("name", ["block4", "block5"])
def test_residual_connection_is_added_to_the_main_path(name):
    """Main path + shortcut, both of the raw input. block4's shortcut is a convolution, block5's the identity."""
    block = getattr(tiny("xception"), name)
    channels = block.sepconvs[0].depthwise.kernel.shape[-1]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 9, channels)), jnp.float32)
    both = block(x, train=False)
    block.residual = False
    main = block(x, train=False)
    shortcut = x if block.shortcut is None else block.shortcut_bn(block.shortcut(x), use_running_average=True)
    assert (block.shortcut is None) == (name == "block5")
    np.testing.assert_allclose(both, main + shortcut, rtol=1e-5, atol=1e-5)


def test_activation_between_acts_between_depthwise_and_pointwise():
    activations = {
        "none": lambda x: x,
        "relu": lambda x: np.maximum(x, 0),
        "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    }
    counts = set()
    for between, activation in activations.items():
        model = tiny("xception", between=between)
        counts.add(count(model))
        sepconv = model.block5.sepconvs[0]
        x = np.random.default_rng(0).normal(size=(2, 5, 5, sepconv.depthwise.kernel.shape[-1])).astype(np.float32)
        expected = activation(np.asarray(sepconv.depthwise(x))) @ np.asarray(sepconv.pointwise.kernel)[0, 0]
        np.testing.assert_allclose(sepconv(x), expected, rtol=1e-4, atol=1e-5)
        everywhere = [m.between for _, m in nnx.iter_modules(model) if isinstance(m, SeparableConv)]
        assert everywhere == [sepconv.between] * 34
    assert len(counts) == 1


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("width", [0.05, 1.25])
def test_width_multiplies_every_channel_count(name, width):
    full, scaled = (nnx.state(abstract(name, width=w, num_classes=0), nnx.Param) for w in (1.0, width))
    shapes = [[x.shape for x in jax.tree.leaves(s)] for s in (full, scaled)]
    for before, after in zip(*shapes, strict=True):
        for old, new in zip(before, after, strict=True):
            if old >= 32:
                assert new % 8 == 0
                # A concatenation's width is off by up to 4 a branch.
                assert abs(new - max(8, old * width)) <= 4 * 6
            else:  # kernel sizes, the three colours, one channel a group
                assert new == old


@pytest.mark.parametrize("name", SOME)
def test_dropout_acts_in_training_only(name):
    (graphdef, weights), (plain, _) = (peers.tiny(name, stem="small", **options) for options in ({"dropout": 0.5}, {}))
    x = pictures()

    def run(graphdef, weights, key=None):
        model = variables.merge(graphdef, weights)
        return model(x) if key is None else model(x, train=True, rngs=nnx.Rngs(dropout=key))

    assert str(jax.make_jaxpr(run, 0)(graphdef, weights)) == str(jax.make_jaxpr(run, 0)(plain, weights))
    trained = jax.jit(run, static_argnums=0)
    first, again, other = (np.asarray(trained(graphdef, weights, jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_is_what_layers_compute_in_and_nothing_else(name):
    graphdef, state = nnx.split(abstract(name, dtype="bfloat16", stem="small"))
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    with as_reference():  # as GPUs and TPUs run it, every convolution a convolution
        jaxpr = jax.make_jaxpr(lambda s, x: nnx.merge(graphdef, s)(x))(state, pictures())
    convolutions = re.findall(r":(\w+)\[[\d,]*\] = (?:conv_general_dilated|dot_general)\[", str(jaxpr))
    assert len(convolutions) == {"xception": 75, "inception_v3": 95, "xception41": 85, "xception41p": 85}[name]
    assert (set(convolutions[:-1]), convolutions[-1]) == ({"bf16"}, "f32")  # the last is that of the logits
    assert jaxpr.out_avals[0].dtype == jnp.float32


@pytest.mark.parametrize("name", SOME)
def test_logits_in_bfloat16_are_near_those_in_float32(name):
    logits, expected = (nnx.jit(initialised(name, dtype=dtype))(pictures()) for dtype in ("bfloat16", "float32"))
    assert np.mean(logits != logits.astype(jnp.bfloat16)) > 0.9  # and are not rounded to bfloat16
    assert np.linalg.norm(logits - expected) < 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("xceptoin", {}, 'unknown model "xceptoin"; did you mean "xception"'),
        ("resnet", {}, 'unknown model "resnet"; choose from: inception_v3, xception, xception41'),
        ("xception", {"dropuot": 0.5}, 'model "xception" has no option "dropuot"; did you mean "dropout"'),
        ("xception", {"flavour": "keras"}, 'model "xception" has no option "flavour"'),
        ("inception_v3", {"residual": False}, 'model "inception_v3" has no option "residual"'),
        ("xception", {"stem": "smal"}, 'unknown stem "smal"; did you mean "small"'),
        ("xception", {"between": "gelu"}, 'unknown between "gelu"; did you mean "elu"'),
        ("xception", {"middle_blocks": 9}, "middle_blocks is 9; it must be from 0 to 8"),
        ("xception", {"pool_padding": "symetric"}, 'unknown pool_padding "symetric"; did you mean "symmetric"'),
        ("xception65", {"pool_padding": "same"}, 'model "xception65" has no option "pool_padding"'),
        ("xception", {"dropout": 1.5}, "dropout is 1.5; it must be from 0 to below 1"),
        ("inception_v3", {"width": 0}, "width is 0; it must be positive"),
        ("xception41", {"num_classes": -1}, "num_classes is -1; it must be 0 or more"),
        ("xception41", {"output_stride": 12}, "output_stride is 12; it must be 32, 16 or 8"),
        ("xception41p", {"drop_path": 1.0}, "drop_path is 1.0; it must be from 0 to below 1"),
        ("xception", {"drop_path": 0.1, "residual": False}, "drop_path is 0.1 without residual connections"),
        ("xception41p", {"stem": "smal"}, 'unknown stem "smal"; did you mean "small"'),
        ("inception_v3", {"stem": "imagnet"}, 'unknown stem "imagnet"; did you mean "imagenet"'),
        ("inception_v3", {"flavour": "kears"}, 'unknown flavour "kears"; did you mean "keras"'),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(name, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        abstract(name, **options)
