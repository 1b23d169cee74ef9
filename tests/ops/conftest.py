"""Operators are tested as users compile them."""

import os

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def all_optimizations():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")
