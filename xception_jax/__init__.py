"""Xception and Inception V3 in JAX: trained, compared, fine-tuned, run and exported."""

from xception_jax.models import list_models
from xception_jax.pretrained import create_model
from xception_jax.pretrained import load as load_pretrained
from xception_jax.version import __version__

__all__ = ["__version__", "create_model", "list_models", "load_pretrained"]
