"""The network in a PyTorch state dict as training programs save it: wrapped, renamed, and with other arrays beside it.

| in the file | becomes |
|---|---|
| names after any prefix, "module.", "model.backbone." | the network's |
| "0.", "1.", .. of `nn.Sequential(*children)` | the network's children in order, if that is the only reading |
| "_orig_mod." of torch.compile, and FSDP's names | nothing, wherever they are |
| a linear layer under any name, before or after the prefix | the logits layer |
| a chain of linear layers and normalizations | the head, with ReLUs where the numbers of a Sequential leave room |
| arrays of losses and metrics, an auxiliary head that does not fit | left out, with a note |
| two copies, one of them averaged over training ("ema.") | the averaged one, with a note |
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from xception_jax.errors import some
from xception_jax.models.head import Step, as_text, parse
from xception_jax.pretrained.layouts import torch_head
from xception_jax.pretrained.layouts.table import Table
from xception_jax.pretrained.layouts.timm import timm_table
from xception_jax.pretrained.layouts.torch_head import head_of

Names = dict[str, str]  # from one name of an array to another
WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
BESIDE = re.compile(
    r"(.*_)?(criterion|criteria|loss(es)?(_?(fn|func|function))?|metrics?|acc|accuracy|auroc|auc|f1(_?score)?"
    r"|precision|recall|confmat)\d*",
    re.IGNORECASE,
)
AVERAGED = {"ema", "averaged", "swa"}
COUNTERS = ("num_batches_tracked", "n_averaged")
FEATURES, AUX_FEATURES, AUX = 2048, 768, "AuxLogits"
MOST_PARTS = 8  # of a name that are looked at: no file can make the search long


@dataclasses.dataclass(frozen=True)
class Reading:
    """A state dict, read as that of one network.

    Attributes:
      table: of the arrays that the network has with the file's heads.
      arrays: by the table's names; those that the file lacks are missing.
      unexpected: arrays without a place, by the file's names.
      notes: what was left out or chosen, for people.
      assumed: what the file does not say, for people.
      refusal: why the file cannot be read although its backbone is there; "" if it can.
      head: the network's option of this name; "" for a single layer.
    """

    table: Table
    arrays: dict[str, np.ndarray]
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    refusal: str = ""
    head: str = ""


@dataclasses.dataclass(frozen=True)
class Located:
    """Where a network's arrays without its heads are.

    Attributes:
      names: of the arrays, from the table's to those in the file.
      prefix: of the latter.
      copies: prefixes of other such backbones, which are left out.
      refusal: as of `Reading`.
    """

    names: Names
    prefix: str = ""
    copies: tuple[str, ...] = ()
    refusal: str = ""


def read(tensors: Mapping[str, np.ndarray], model: str, head: str = "") -> Reading:
    """Reads a state dict as a network's.

    Args:
      tensors: by the file's names.
      model: our name of the network, one of `timm.LAYERS`.
      head: the steps of a head of several layers, see `models.head`; "": as the file's names suggest.
    """
    files_names = _without_wrappers(tensors)
    table = timm_table(model, head=False)
    backbone = _backbone(files_names, [entry.name for entry in table.entries])
    if len(backbone.names) <= len(table.entries) / 2:  # of another network: whatever else it has is not looked at
        return Reading(table, {}, tuple(files_names.values()))
    taken = set(backbone.names.values())
    rest = {
        name: tensors[files_names[name]]
        for name in files_names
        if name not in taken and (name.startswith(backbone.prefix) or not name.startswith(backbone.copies))
    }
    notes = [f"the averaged weights, {backbone.prefix}*"] if backbone.copies else []
    beside = {name for name in rest if any(map(BESIDE.fullmatch, name.split(".", MOST_PARTS)[:MOST_PARTS]))}
    if beside:
        notes.append(f"left out what losses and metrics have: {some(sorted(beside))}")
    rest = {name: x for name, x in rest.items() if name not in beside}
    arrays = {name: _kernel(name, tensors[files_names[there]]) for name, there in backbone.names.items()}
    aux = {name: rest.pop(name) for name in list(rest) if name.startswith(f"{backbone.prefix}{AUX}.")}
    reading = _with_head(model, arrays, rest, backbone, files_names, parse(head))
    if aux:
        reading = _with_aux_head(reading, {name.removeprefix(backbone.prefix): x for name, x in aux.items()})
    return dataclasses.replace(reading, notes=(*notes, *reading.notes))


def _without_wrappers(names: Iterable[str]) -> Names:
    """The file's names by those without what `torch.compile` and the like put into them; counters are left out."""
    names = [name for name in names if not name.endswith(COUNTERS)]
    short = {WRAPPERS.sub("", name): name for name in names}
    return short if len(short) == len(names) else dict(zip(names, names, strict=True))


def _kernel(name: str, x: np.ndarray) -> np.ndarray:
    """Cadene's first file has pointwise kernels [D, C], without 1x1."""
    return x[:, :, None, None] if name.endswith("pointwise.weight") and x.ndim == 2 else x


def _backbone(names: Iterable[str], wanted: list[str]) -> Located:
    """Finds the arrays with the names `wanted` behind some prefix, or those of numbered children."""
    names = set(names)
    ends = set(wanted)
    prefixes: collections.Counter[str] = collections.Counter()
    for name in sorted(names):
        *before, end = name.rsplit(".", MOST_PARTS)
        while before and end not in ends:
            end = f"{before.pop()}.{end}"
        if end in ends:
            prefixes[name.removesuffix(end)] += 1
    found = sorted(prefix for prefix, count in prefixes.items() if count > len(wanted) / 2)
    if not found and (numbered := _numbered(names, wanted)):
        every = [prefix for _, prefix in numbered]
        return Located(*numbered[0], tuple(every[1:]), _several(every) if len(every) > 1 else "")
    averaged = [prefix for prefix in found if AVERAGED & set(re.split(r"[._]", prefix))]
    chosen = averaged if len(averaged) == 1 else found or [""]
    copies = tuple(prefix for prefix in found if prefix != chosen[0])
    refusal = _several(found) if len(chosen) > 1 else ""
    return Located({x: chosen[0] + x for x in wanted if chosen[0] + x in names}, chosen[0], copies, refusal)


def _several(prefixes: list[str]) -> str:
    one = prefixes[-1]
    return f"it has several of them, {', '.join(f'{p}*' for p in prefixes)}: leave one out, --ignore='{one}*'"


def _numbered(names: Iterable[str], wanted: list[str]) -> list[tuple[Names, str]]:
    """Names from the table's to those of `nn.Sequential(*children)`, and their prefix, for each reading that fits.

    The n-th of the network's children that have arrays is the n-th of the numbered ones: what is in them has to agree.
    """
    sequences: dict[str, dict[int, Names]] = {}
    for name in names:
        for number in itertools.islice(re.finditer(r"(?:^|(?<=\.))(\d{1,4})\.", name), MOST_PARTS):
            children = sequences.setdefault(name[: number.start()], {})
            children.setdefault(int(number[1]), {})[name[number.end() :]] = name
    needed: dict[str, list[str]] = {}
    for name in wanted:
        child, _, own = name.partition(".")
        needed.setdefault(child, []).append(own)
    readings = []
    for prefix, children in sorted(sequences.items()):
        first = [children[number] for number in sorted(children)][: len(needed)]
        if [*map(set, first)] == [*map(set, needed.values())]:
            pairs = zip(needed.items(), first, strict=True)
            readings.append(({f"{c}.{own}": there[own] for (c, owns), there in pairs for own in owns}, prefix))
    return readings


def _with_head(
    model: str,
    arrays: dict[str, np.ndarray],
    rest: dict[str, np.ndarray],
    backbone: Located,
    files_names: Names,
    given: Sequence[Step],
) -> Reading:
    """Adds the head, if there is one among the remaining arrays; the others have no place."""
    kernel, bias = (entry.name for entry in timm_table(model).entries if entry.path[:2] == ("head", "logits"))
    last = arrays.get("bn4.weight") if model == "xception" else None  # narrow networks: fewer features
    features = FEATURES if last is None else last.shape[0]
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, x in rest.items():
        layers.setdefault(name.rpartition(".")[0], {})[name] = x
    steps = head_of(rest, features)
    if steps is None:  # a single layer beside arrays that have no place
        single = [layer for layer, own in layers.items() if head_of(own, features)]
        usual = [layer for layer in single if f"{layer}.weight" in (backbone.prefix + kernel, kernel)]
        chosen = usual or single
        steps = head_of(layers[chosen[0]], features) if len(chosen) == 1 else None
    steps = steps or []
    used = {name for step in steps for name in layers[step.name]}
    hidden = torch_head.before_logits(steps, rest, given)
    if hidden.left_out:
        steps = []
    table = timm_table(model, head=bool(steps))
    if steps:
        entries = torch_head.entries(steps, rest)
        table = Table((*table.entries, *entries), table.constants)
        arrays |= {entry.name: rest[entry.name.removeprefix(torch_head.HIDDEN)] for entry in entries}
        arrays |= _dense(layers[steps[-1].name], kernel, bias)
    return Reading(
        table,
        arrays,
        tuple(sorted(files_names[name] for name in rest if name not in used)),
        hidden.left_out,
        hidden.assumed,
        backbone.refusal or hidden.refusal,
        as_text(hidden.steps),
    )


def _dense(layer: Mapping[str, np.ndarray], kernel: str, bias: str) -> dict[str, np.ndarray]:
    """A dense layer under the table's names. Without a bias it is one with zeros."""
    own = {name.rpartition(".")[2]: x for name, x in layer.items()}
    return {kernel: own["weight"], bias: own.get("bias", np.zeros_like(own["weight"][:, 0]))}


def _with_aux_head(reading: Reading, aux: dict[str, np.ndarray]) -> Reading:
    """Adds Inception V3's auxiliary head if it is whole and has the head's classes; it only matters to training."""
    entries = [e for e in timm_table("inception_v3", aux_head=True).entries if e.path[0] == "aux"]
    convs = {e.name for e in entries} - {f"{AUX}.fc.weight", f"{AUX}.fc.bias"}
    rest = {name: x for name, x in aux.items() if name not in convs}
    steps = head_of(rest, AUX_FEATURES) or []
    classes = reading.arrays["fc.weight"].shape[0] if "fc.weight" in reading.arrays else 0
    if len(steps) != 1 or not convs <= aux.keys() or steps[0].width != classes:
        what = f" for {steps[-1].width} classes" if steps else ""
        return dataclasses.replace(reading, notes=(*reading.notes, f"left out the auxiliary head{what}"))
    logits = _dense(rest, f"{AUX}.fc.weight", f"{AUX}.fc.bias")
    table = Table((*reading.table.entries, *entries), reading.table.constants)
    return dataclasses.replace(
        reading, table=table, arrays=reading.arrays | {name: aux[name] for name in convs} | logits
    )
