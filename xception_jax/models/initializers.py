"""Random initialisation of parameters.

Shape legend: C channels in, D channels out.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def glorot_uniform(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Float[Array, "... C D"]:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (X. Glorot and Y. Bengio, 2010, equation 16).

    The default in Keras, with which the paper's networks were trained. A depthwise kernel of shape (3, 3, 1, C) has
    fan_in + fan_out = 9 + 9 C here, as in Keras.

    The numbers are drawn by NumPy, identically on every platform and under `jax.jit`. `jax.random` would compile a
    program for each shape in a network: Xception would start in seven seconds on a CPU instead of one. When traced,
    this is a callback to the host, which cannot be exported.
    """
    *window, fan_in, fan_out = shape
    limit = math.sqrt(6 / (math.prod(window) * (fan_in + fan_out)))

    def draw(seed: jax.Array) -> np.ndarray:
        uniform = np.random.default_rng(np.asarray(seed)).random(shape, np.float32)
        return (np.float32(2 * limit) * uniform - np.float32(limit)).astype(dtype)

    seed = jax.random.key_data(key)
    if isinstance(seed, jax.core.Tracer):
        result = jax.ShapeDtypeStruct(tuple(shape), dtype)
        return jax.pure_callback(draw, result, seed, vmap_method="sequential")
    return jax.device_put(draw(seed))  # `jnp.asarray` would compile a program for each shape
