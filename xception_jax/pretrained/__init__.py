"""Weights of other frameworks: their names and layouts, and ours."""

from xception_jax.pretrained.create import create_model
from xception_jax.pretrained.load import load
from xception_jax.pretrained.pretrained import Pretrained
from xception_jax.pretrained.transplant import fill, transplant

__all__ = ["Pretrained", "create_model", "fill", "load", "transplant"]
