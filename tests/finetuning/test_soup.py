"""Averages of networks; `test_run` averages the checkpoints of one."""

import numpy as np

from xception_jax.finetuning.soup import averaged
from xception_jax.models.variables import Weights
from xception_jax.pretrained import Pretrained


def test_parameters_and_statistics_are_averaged():
    networks = [
        Pretrained(
            name,
            "xception",
            {},
            0,
            Weights({"conv": {"kernel": np.float32([x, 1.0])}}, {"norm": {"mean": np.float32([10 * x])}}),
        )
        for name, x in (("a", 1.0), ("b", 2.0), ("c", 6.0))
    ]
    found = averaged(networks)
    np.testing.assert_array_equal(found.weights.params["conv"]["kernel"], np.float32([3.0, 1.0]))
    np.testing.assert_array_equal(found.weights.batch_stats["norm"]["mean"], np.float32([30.0]))
    assert found.weights.params["conv"]["kernel"].dtype == np.float32
    assert found.source == "average of a, b, c"
