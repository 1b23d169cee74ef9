"""This project's own file."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save

from xception_jax.errors import UserError, WeightsFileError
from xception_jax.inputs.spec import Decoding, InputSpec, Normalization
from xception_jax.models import build_network, variables
from xception_jax.pretrained import Pretrained, load
from xception_jax.pretrained.layouts import native
from xception_jax.pretrained.pretrained import Conformal

OPTIONS = {"stem": "small", "width": 0.01, "middle_blocks": 1, "head": "max_pool, dense 8 relu, batch_norm"}


@pytest.fixture(scope="module")
def pretrained():
    _, weights = variables.split(build_network("xception", num_classes=2, rngs=nnx.Rngs(0), **OPTIONS))
    spec = InputSpec(
        50, 1.0, "area", Normalization((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)), ((1.0, 2.0, 3.0),) * 2, "pad", Decoding(False)
    )
    facts = ("a b", "ü"), "sigmoid", True, "MIT"
    return Pretrained("own", "xception", OPTIONS, 2, weights, spec, *facts, conformal=Conformal(0.25, 0.1))


def test_everything_is_read_back(pretrained, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(native.write(pretrained))
    found = load(tmp_path)
    for field in dataclasses.fields(Pretrained):
        if field.name not in ("weights", "source"):
            assert getattr(found, field.name) == getattr(pretrained, field.name), field.name
    jax.tree.map(np.testing.assert_array_equal, found.weights, pretrained.weights)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda facts: facts | {"schema": 99}, WeightsFileError, "later version"),
        (lambda facts: facts | {"model": "os:system"}, UserError, "code a file must not choose"),
        (lambda facts: {k: v for k, v in facts.items() if k != "input"}, WeightsFileError, "damaged"),
        (lambda facts: facts | {"class_names": ["one"]}, WeightsFileError, "damaged"),
        (lambda facts: facts | {"conformal": {"threshold": 2.0, "alpha": 0.1}}, WeightsFileError, "damaged"),
        (lambda facts: facts | {"conformal": 0.1}, WeightsFileError, "damaged"),
        (lambda facts: [], WeightsFileError, "damaged"),
    ],
)
def test_what_cannot_be_is_refused(pretrained, tmp_path, change, error, message):
    contents = native.write(pretrained)
    facts = json.loads(json.dumps(change(native.describe(pretrained))))
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(read_safetensors(contents), {native.KEY: json.dumps(facts)}))
    with pytest.raises(error, match=message):
        load(path)
