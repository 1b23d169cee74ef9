"""The networks. They do not depend on data, configs or files."""

from xception_jax.models.backbone import Backbone
from xception_jax.models.registry import build_network, check_options, list_models, register_model

__all__ = ["Backbone", "build_network", "check_options", "list_models", "register_model"]
