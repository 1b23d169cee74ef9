"""Experiments; installed as `xception_jax.configs`."""
