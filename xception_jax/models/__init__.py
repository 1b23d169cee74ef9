"""The networks. They know nothing of data, configs or files."""

from xception_jax.models.registry import check_options, create_model, list_models

__all__ = ["check_options", "create_model", "list_models"]
