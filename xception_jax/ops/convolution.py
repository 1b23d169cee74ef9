"""Two-dimensional convolution, the operator nearly all of a network's time goes to."""

from jax import lax

conv_general_dilated = lax.conv_general_dilated
