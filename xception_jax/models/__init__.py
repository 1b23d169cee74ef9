"""The networks. They do not depend on data, configs or files."""

from xception_jax.models.backbone import Backbone
from xception_jax.models.registry import check_options, create_model, list_models, register_model

__all__ = ["Backbone", "check_options", "create_model", "list_models", "register_model"]
