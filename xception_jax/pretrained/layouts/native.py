"""This project's own file: safetensors, with all that belongs to the weights in the file's metadata.

It holds any network of ours with any options, whatever other frameworks have a place for.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from xception_jax.errors import UserError, WeightsFileError
from xception_jax.formats import writing
from xception_jax.inputs.spec import Decoding, InputSpec, Normalization
from xception_jax.models.variables import Weights
from xception_jax.pretrained.pretrained import Conformal, Pretrained

KEY = "xception_jax"  # of the metadata
SCHEMA = 1


def write(pretrained: Pretrained) -> bytes:
    """The contents of a .safetensors file that `read` reads to equal weights; `source` and `assumed` are not kept."""
    trees = {"params": pretrained.weights.params, "batch_stats": pretrained.weights.batch_stats}
    tensors = {"/".join(map(str, path)): np.asarray(x) for path, x in flatten_dict(trees).items()}
    return writing.safetensors(tensors, {KEY: json.dumps(describe(pretrained))})


def describe(pretrained: Pretrained) -> dict[str, Any]:
    """Everything but the arrays, for JSON."""
    fields = ("model", "options", "num_classes", "class_names", "scores", "uncertainty", "licence")
    facts = {name: getattr(pretrained, name) for name in fields}
    if pretrained.conformal is not None:
        facts["conformal"] = dataclasses.asdict(pretrained.conformal)
    return {"schema": SCHEMA, **facts, "input": dataclasses.asdict(pretrained.input)}


def is_native(metadata: Mapping[str, Any]) -> bool:
    """Whether a safetensors file's metadata is that of `write`."""
    return KEY in metadata


def read(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any], source: str, model: str | None = None
) -> Pretrained:
    """The weights in a file's arrays and metadata.

    A network's name can be "package.module:function", which is imported and called. A weight file is passed on to
    others and must not choose what runs there: such a name is taken only from the user. A work directory is where the
    user's own code ran, from which it is resumed and evaluated with that code: its config.json may name it.

    Args:
      tensors, metadata: the file's.
      source: its name in messages.
      model: the network that the user named; None: none.

    Raises:
      WeightsFileError: the metadata is damaged, or of a later version.
      UserError: the network is one of a user's own, and not `model`.
    """
    try:
        facts = json.loads(metadata[KEY])
        if facts.pop("schema") > SCHEMA:
            raise WeightsFileError(f"{source} was written by a later version of xception_jax; update xception_jax")
        spec = _tuples(facts.pop("input"))
        spec["normalization"] = Normalization(**spec["normalization"])
        spec["decoding"] = Decoding(**spec["decoding"])
        sets = Conformal(**facts.pop("conformal")) if "conformal" in facts else None
        spec = InputSpec(**spec)
        found = Pretrained(source, weights=_weights(tensors), input=spec, conformal=sets, **_tuples(facts))
        name, count = found.model, found.num_classes
        if not isinstance(name, str) or not isinstance(count, int) or len(found.class_names) not in (0, count):
            raise ValueError("its network and classes do not fit each other")
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        if isinstance(e, UserError):
            raise
        raise WeightsFileError(f"{source} is damaged: its description cannot be read ({e!r})") from None
    if ":" in name and name != model:
        raise UserError(
            f'{source} is of the network "{name}", whose code a file must not choose. If it is yours, name it: '
            f'--model={name} (train and finetune: --config.model.name={name}), or create_model("{name}", weights=...)'
        )
    return found


def _weights(tensors: Mapping[str, np.ndarray]) -> Weights:
    """The arrays as trees; list indices are numbers."""
    paths = {tuple(int(part) if part.isdecimal() else part for part in name.split("/")): name for name in tensors}
    trees = unflatten_dict({path: tensors[name] for path, name in paths.items()})
    return Weights(trees["params"], trees.get("batch_stats", {}))


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, which settings are."""
    if isinstance(value, dict):
        return {name: _tuples(x) for name, x in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
