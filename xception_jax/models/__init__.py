"""The networks. They know nothing of data, configs or files."""

from xception_jax.models.registry import create_model, list_models

__all__ = ["create_model", "list_models"]
