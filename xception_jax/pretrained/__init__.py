"""Trained weights: loading, conversion between frameworks, and transplantation into networks."""

from xception_jax.pretrained.create import create_model
from xception_jax.pretrained.load import load
from xception_jax.pretrained.pretrained import Pretrained
from xception_jax.pretrained.transplant import fill, transplant

__all__ = ["Pretrained", "create_model", "fill", "load", "transplant"]
