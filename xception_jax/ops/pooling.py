"""Pooling. Shape legend: B batch, H height, W width, C channels."""

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float

Padding = str | Sequence[tuple[int, int]]


def max_pool(x: Float[Array, "B H W C"], window: int, stride: int, padding: Padding) -> Float[Array, "B h w C"]:
    """Maximum over `window` x `window`, every `stride` pixels.

    Args:
      x: float32 or bfloat16.
      padding: "SAME" (asymmetric where needed, as in TensorFlow), "VALID", or ((top, bottom), (left, right)).
    """
    return nnx.max_pool(x, (window, window), strides=(stride, stride), padding=padding)


def avg_pool(
    x: Float[Array, "B H W C"], window: int, stride: int, padding: Padding, *, count_padding: bool
) -> Float[Array, "B h w C"]:
    """Mean over `window` x `window`, every `stride` pixels.

    `count_padding` tells whether padded zeros count in the mean, as in PyTorch, or not, as in Keras.
    """
    return nnx.avg_pool(x, (window, window), strides=(stride, stride), padding=padding, count_include_pad=count_padding)
