"""Xception and Inception V3 in JAX: training, comparison, fine-tuning, inference and export."""

import importlib
from typing import TYPE_CHECKING, Any

from xception_jax.version import __version__

if TYPE_CHECKING:
    from xception_jax.data.augmentation import register_augmentation
    from xception_jax.data.sources.base import Source
    from xception_jax.data.sources.registry import register_data_set
    from xception_jax.errors import TrainingError, UserError
    from xception_jax.evaluation.run import evaluate_run
    from xception_jax.evaluation.step import make_eval_step
    from xception_jax.inference.predictor import Prediction, Predictor
    from xception_jax.inputs.spec import Decoding, InputSpec, Normalization
    from xception_jax.models import Backbone, list_models, register_model
    from xception_jax.pretrained import create_model
    from xception_jax.pretrained.load import load as load_pretrained
    from xception_jax.tasks.losses import register_loss
    from xception_jax.tasks.metrics import register_metric
    from xception_jax.training.loop import train
    from xception_jax.training.optimizers import register_optimizer
    from xception_jax.training.state import TrainState, create_state
    from xception_jax.training.step import TrainSettings, make_train_step

# The module of each public name. Names are imported on first use, so that --help is immediate and the networks do not
# need the libraries that read files.
_PLACES = {
    "Backbone": "models",
    "Decoding": "inputs.spec",
    "InputSpec": "inputs.spec",
    "Normalization": "inputs.spec",
    "Prediction": "inference.predictor",
    "Predictor": "inference.predictor",
    "Source": "data.sources.base",
    "TrainSettings": "training.step",
    "TrainState": "training.state",
    "TrainingError": "errors",
    "UserError": "errors",
    "create_model": "pretrained",
    "create_state": "training.state",
    "evaluate_run": "evaluation.run",
    "list_models": "models",
    "load_pretrained": "pretrained.load:load",
    "make_eval_step": "evaluation.step",
    "make_train_step": "training.step",
    "register_augmentation": "data.augmentation",
    "register_data_set": "data.sources.registry",
    "register_loss": "tasks.losses",
    "register_metric": "tasks.metrics",
    "register_model": "models",
    "register_optimizer": "training.optimizers",
    "train": "training.loop",
}

__all__ = [
    "Backbone",
    "Decoding",
    "InputSpec",
    "Normalization",
    "Prediction",
    "Predictor",
    "Source",
    "TrainSettings",
    "TrainState",
    "TrainingError",
    "UserError",
    "__version__",
    "create_model",
    "create_state",
    "evaluate_run",
    "list_models",
    "load_pretrained",
    "make_eval_step",
    "make_train_step",
    "register_augmentation",
    "register_data_set",
    "register_loss",
    "register_metric",
    "register_model",
    "register_optimizer",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(importlib.import_module(f"xception_jax.{module}"), attribute or name)


def __dir__() -> list[str]:
    return [*__all__]
