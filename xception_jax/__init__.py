"""Xception and Inception V3 in JAX: trained, compared, fine-tuned, run and exported."""

import importlib
from typing import TYPE_CHECKING, Any

from xception_jax.version import __version__

if TYPE_CHECKING:
    from xception_jax.models import list_models
    from xception_jax.pretrained import create_model
    from xception_jax.pretrained.load import load as load_pretrained

__all__ = ["__version__", "create_model", "list_models", "load_pretrained"]

# Imported when first asked for: commands say --help at once, and the networks need no library that reads files.
_LATER = {
    "create_model": ("xception_jax.pretrained", "create_model"),
    "list_models": ("xception_jax.models", "list_models"),
    "load_pretrained": ("xception_jax.pretrained", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LATER[name]
    return getattr(importlib.import_module(module), attribute)
