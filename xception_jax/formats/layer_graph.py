"""The configuration in Keras' files as a graph: layers and what they are applied to, nested networks taken apart.

Nothing is run, and no layer's class is looked up.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xception_jax.errors import WeightsFileError

MAX_LAYERS, MAX_DEPTH = 5000, 16
NETWORKS = ("Functional", "Model", "Sequential")


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer that is no network itself, applied once.

    Attributes:
      kind: its class, "Dense".
      name: as in the file.
      config: its settings.
      inputs: the layers that it is applied to.
      constants: numbers beside them, of operations: x - 1.0.
    """

    kind: str
    name: str
    config: Mapping[str, Any]
    inputs: tuple["Layer", ...]
    constants: tuple[Any, ...] = ()

    def before(self) -> Iterator["Layer"]:
        """All layers that it depends on, itself last."""
        seen: set[int] = set()
        order: list[Layer] = []
        stack: list[tuple[Layer, bool]] = [(self, False)]
        while stack:
            layer, done = stack.pop()
            if done:
                order.append(layer)
            elif id(layer) not in seen:
                seen.add(id(layer))
                stack.append((layer, True))
                stack += [(given, False) for given in layer.inputs]
        return iter(order)


def read(config: Mapping[str, Any], source: str) -> Layer:
    """The output of the network that a configuration describes.

    Raises:
      WeightsFileError: it is damaged, too large, nested too deeply, or has several inputs or outputs.
    """
    try:
        count = _count(config, 0)
        if count > MAX_LAYERS:
            raise WeightsFileError(
                f"{source} describes {count:,} layers; networks of more than {MAX_LAYERS:,} are not read"
            )
        return _network(config, None, source)
    except RecursionError:
        raise WeightsFileError(f"{source} is damaged: its layers are nested too deeply") from None
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as e:
        raise WeightsFileError(f"{source} is damaged: its configuration does not describe a network ({e!r})") from None


def _count(network: Mapping[str, Any], depth: int) -> int:
    if depth > MAX_DEPTH:
        raise RecursionError
    layers = _layers(network)
    return sum(1 + (_count(layer, depth + 1) if layer["class_name"] in NETWORKS else 0) for layer in layers)


def _layers(network: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """A network's layers; in Keras 1's and early Keras 2's Sequential, the configuration is the list itself."""
    config = network["config"]
    return config if isinstance(config, list) else config["layers"]


def _network(network: Mapping[str, Any], given: Layer | None, source: str) -> Layer:
    """The output of a network applied to a layer; None: of the network of the file, to its own input."""
    if network["class_name"] not in NETWORKS:
        raise WeightsFileError(
            f"{source} is a network of class {network['class_name']}: its graph is in code, not in the file"
        )
    if network["class_name"] == "Sequential":
        return _sequential(network, given, source)
    return _functional(network["config"], given, source)


def _sequential(network: Mapping[str, Any], given: Layer | None, source: str) -> Layer:
    layers = list(_layers(network))
    if given is None and layers[0]["class_name"] != "InputLayer":
        given = Layer("InputLayer", "input", _input_config(network, layers[0]), ())
    for layer in layers:
        given = _applied(layer, () if given is None else (given,), (), source)
    if given is None:
        raise KeyError("no layers")
    return given


def _input_config(network: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """The input of a Sequential without an InputLayer: its own shape, or its first layer's."""
    config = network["config"]
    shape = config.get("build_input_shape") if isinstance(config, dict) else None
    own = first["config"] if isinstance(first["config"], dict) else {}
    return {"batch_shape": shape or own.get("batch_input_shape") or own.get("batch_shape")}


def _functional(config: Mapping[str, Any], given: Layer | None, source: str) -> Layer:
    (input_name,), (output_name,) = (_names(config[key]) for key in ("input_layers", "output_layers"))
    described = {_name(layer): layer for layer in config["layers"]}
    made: dict[str, Layer] = {}

    def make(name: str) -> Layer:
        if name not in made:
            layer = described[name]
            if name == input_name and given is not None:
                made[name] = given
            else:
                calls = layer.get("inbound_nodes") or []
                if len(calls) > 1:
                    raise WeightsFileError(
                        f'{source} applies layer "{name}" {len(calls)} times, which is not supported'
                    )
                names, constants = _arguments(calls[0]) if calls else ([], [])
                made[name] = _applied(layer, tuple(map(make, names)), tuple(constants), source)
        return made[name]

    return make(output_name)


def _applied(layer: Mapping[str, Any], inputs: tuple[Layer, ...], constants: tuple, source: str) -> Layer:
    """A layer of a configuration, applied; a network is taken apart."""
    if layer["class_name"] in NETWORKS:
        (given,) = inputs
        return _network(layer, given, source)
    if layer["class_name"] == "InputLayer" and inputs:  # of a nested Sequential
        return inputs[0]
    return Layer(str(layer["class_name"]), _name(layer), layer["config"], inputs, constants)


def _name(layer: Mapping[str, Any]) -> str:
    return str(layer.get("name") or layer["config"]["name"])


def _names(references: Any) -> list[str]:
    """The layers of ["name", 0, 0] or a list of such."""
    if references and isinstance(references[0], str):
        return [references[0]]
    names = [str(reference[0]) for reference in references]
    if len(names) != 1:
        raise WeightsFileError(f"a network with several inputs or outputs ({', '.join(names)}) is not supported")
    return names


def _arguments(call: Any) -> tuple[list[str], list[Any]]:
    """The layers that a layer is applied to, and the numbers beside them.

    Keras 3: {"args": [tensor, 1.0], "kwargs": {...}}; Keras 2: [["name", 0, 0, {"y": 1.0}], ...], or one such of an
    operation.
    """
    names: list[str] = []
    constants: list[Any] = []
    if isinstance(call, Mapping):
        for value in [*call.get("args", []), *call.get("kwargs", {}).values()]:
            _collect(value, names, constants)
        return names, constants
    for reference in [call] if call and isinstance(call[0], str) else call:
        names.append(str(reference[0]))
        for value in (reference[3] if len(reference) > 3 else {}).values():
            _collect(value, names, constants)
    return names, constants


def _collect(value: Any, names: list[str], constants: list[Any]) -> None:
    """Sorts an argument: a tensor, a list of tensors, a number or numbers; what else there is does not matter."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            names.append(str(value["config"]["keras_history"][0]))
        elif value.get("class_name") == "__numpy__":
            constants.append(value["config"]["value"])
    elif isinstance(value, list) and value and isinstance(value[0], Mapping | list):
        for inner in value:
            _collect(inner, names, constants)
    elif (isinstance(value, int | float) and not isinstance(value, bool)) or (isinstance(value, list) and value):
        constants.append(value)
