"""What can be measured: each subject yields rows of a table.

A row is a dictionary for JSON: `what`, `name`; `sides`, which maps a side's name to its figures: `ms` and
`images_per_second` (median, low, high), `memory`, the side's own facts, and for peers `ratio`; or `left_out`, the
reason; and `ratio`, which maps a peer's name to how many times faster we are.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xception_jax.benchmarking import startup
from xception_jax.benchmarking.sides.protocol import BATCHES
from xception_jax.benchmarking.turns import Measured, Side, measure, ratio, spread
from xception_jax.errors import UserError, suggest

Row = dict[str, Any]
OURS = "ours"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values of the command's flags; see `xception_jax.benchmark`."""

    model: str
    batch: int
    image_size: int
    dtype: str
    options: dict[str, Any]
    against: tuple[str, ...]
    peer_python: str
    rounds: int
    only: str
    data: str

    @property
    def task(self) -> dict[str, Any]:
        """The part of the task that all sides share."""
        names = ("model", "batch", "image_size", "dtype", "options", "data")
        return {name: getattr(self, name) for name in names}


class Variant(NamedTuple):
    """A program in `sides/`, and its additional task settings."""

    program: str
    task: dict[str, Any]
    is_peer: bool = True


# By the names that --against accepts: from a side's name to its program. The fastest of a peer's variants counts.
PEERS: dict[str, dict[str, Variant]] = {
    "timm": {
        "timm eager": Variant("torch_side", {"compiled": False}),
        "timm compiled": Variant("torch_side", {"compiled": True}),
    },
    "keras": {"keras": Variant("keras_side", {})},
    "tfdata": {"tfdata": Variant("tfdata_side", {})},
    "timm_loader": {"timm_loader": Variant("timm_input_side", {})},
    "plain": {"plain": Variant("input_side", {"recipe": "plain"}, is_peer=False)},
    "reference": {"reference": Variant("jax_side", {"lowering": "reference"}, is_peer=False)},
}


def variants_of(peer: str) -> dict[str, Variant]:
    """The sides of a peer ("timm"), or the one that its full name means ("timm compiled").

    Raises:
      UserError: unknown peer.
    """
    every = {side: variant for variants in PEERS.values() for side, variant in variants.items()}
    if peer in PEERS:
        return PEERS[peer]
    if peer in every:
        return {peer: every[peer]}
    raise UserError(f'unknown --against "{peer}"; {suggest(peer, {*PEERS, *every})}')


class Runner:
    """Starts the sides and lets them take turns.

    Attributes:
      machine: the device and its limits: `device`, `bytes_per_second` of a copy, `flops_per_second` of a matrix
        product.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.machine: dict[str, Any] = {}

    def measure_machine(self) -> None:
        """Sets `machine`.

        Raises:
          UserError: unknown network.
        """
        with Side("jax_side") as side:
            alone = {what: self._alone(side, what) for what in ("machine", "copy", "product")}
        if alone["machine"].left_out:
            raise UserError(alone["machine"].left_out)
        self.machine = alone["machine"].facts
        for what, unit in (("copy", "bytes"), ("product", "flops")):
            measured = alone[what]
            self.machine[f"{unit}_per_second"] = spread([measured.facts[unit] / s for s in measured.seconds])

    def _alone(self, side: Side, what: str) -> Measured:
        task = {**self.settings.task, "what": what}
        return measure({OURS: (side, task)}, self.settings.rounds)[OURS]

    def peers(self, *names: str) -> list[str]:
        """Those of `names` that the user asked for."""
        return [given for given in self.settings.against if given.split()[0] in names]

    def open(
        self, stack: contextlib.ExitStack, peers: list[str], *, ours: str = "jax_side", lowering: str = "auto"
    ) -> dict[str, Any]:
        """Starts our program and those of the peers; returns each side's process and task, by name."""
        variants = {OURS: Variant(ours, {"lowering": lowering}, is_peer=False)}
        for peer in peers:
            variants |= variants_of(peer)
        return {name: (stack.enter_context(self._side(v)), v.task) for name, v in variants.items()}

    def _side(self, variant: Variant) -> Side:
        return Side(variant.program, self.settings.peer_python if variant.is_peer else None)

    def row(self, sides: Mapping[str, Any], what: str, name: str, *, units: int = 0, **task: Any) -> Row:
        """Measures a task on all sides. `units` is the number of images per unit of work, if it processes images."""
        given = {**self.settings.task, "what": what, **task}
        measured = measure(
            {side: (process, {**given, **own}) for side, (process, own) in sides.items()}, self.settings.rounds
        )
        ours = measured[OURS]
        figures = {side: _figures(m, units, ours if side != OURS else None) for side, m in measured.items()}
        return {"what": what, "name": name, "sides": figures, "ratio": best_ratios(figures)}


def _figures(measured: Measured, units: int, ours: Measured | None) -> dict[str, Any]:
    """A side's figures for JSON, with the ratio to ours if ours was measured."""
    if measured.left_out is not None:
        return {"left_out": measured.left_out}
    figures: dict[str, Any] = {"ms": spread([1000 * s for s in measured.seconds]), "memory": measured.memory}
    if units:
        figures["images_per_second"] = spread([units / s for s in measured.seconds])
    if ours is not None and ours.left_out is None:
        figures["ratio"] = ratio(ours, measured)
    return figures | measured.facts


def best_ratios(figures: dict[str, Any]) -> dict[str, Any]:
    """Each peer's ratio; if it has variants ("timm eager", "timm compiled"), the one least favourable to us."""
    best = {}
    for peer, variants in PEERS.items():
        ratios = [figures[side]["ratio"] for side in variants if "ratio" in figures.get(side, {})]
        if ratios:
            best[peer] = min(ratios, key=lambda r: r["median"])
    return best


def steps(what: str) -> Callable[[Runner], Iterator[Row]]:
    """Training or inference with the network."""

    def rows(runner: Runner) -> Iterator[Row]:
        with contextlib.ExitStack() as stack:
            sides = runner.open(stack, runner.peers("timm", "keras", "reference"))
            yield runner.row(sides, what, runner.settings.model, units=runner.settings.batch)

    return rows


def operators(runner: Runner) -> Iterator[Row]:
    """Each operator that the network uses, in each direction: our lowering next to the reference."""
    with contextlib.ExitStack() as stack:
        sides = runner.open(stack, ["reference", *runner.peers("timm")], lowering="fast")
        sides.pop("timm compiled", None)  # a single operator leaves a compiler nothing to optimize
        process, _ = sides[OURS]
        listed = process.ask({"do": "prepare", "task": {**runner.settings.task, "what": "list_operators"}})
        for operator in listed["facts"]["operators"]:
            name, count, directions = (operator.pop(key) for key in ("name", "count", "directions"))
            if runner.settings.only not in name:
                continue
            for direction in directions:
                row = runner.row(sides, "operators", name, operator=operator, direction=direction)
                yield {**row, "kind": operator["kind"], "direction": direction, "count": count}


def compilation(runner: Runner) -> Iterator[Row]:
    """Tracing, lowering and compiling the training step, with our lowering and with the reference."""
    with contextlib.ExitStack() as stack:
        sides = runner.open(stack, ["reference"])
        yield runner.row(sides, "compile", runner.settings.model)


def nothing(what: str, why: Exception) -> Row:
    """The row for a measurement that failed."""
    return {"what": what, "name": "", "sides": {OURS: {"left_out": str(why)}}, "ratio": {}}


def starting(runner: Runner) -> Iterator[Row]:
    """The waiting time before the first step."""
    try:
        yield from startup.measure(runner.settings.task, runner.settings.rounds)
    except RuntimeError as e:
        yield nothing("startup", e)


def input_batches(runner: Runner) -> Iterator[Row]:
    """Training batches from JPEG files: the user's, or synthetic ones of ImageNet's mean size.

    Of the plain recipe, crops and mirroring, and of a modern one, which is also compared with the plain one.
    """
    with contextlib.ExitStack() as stack:
        folder = runner.settings.data
        if not folder:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            try:
                from xception_jax.benchmarking.photographs import write_photographs
            except ImportError as e:
                yield nothing("input", e)
                return
            write_photographs(Path(folder))
        name = Path(runner.settings.data).name or "500x375"
        peers, units = runner.peers("tfdata", "timm_loader"), BATCHES * runner.settings.batch
        for recipe, others in (("plain", peers), ("modern", [*peers, "plain"])):
            with contextlib.ExitStack() as open_sides:
                sides = runner.open(open_sides, others, ours="input_side")
                task = {"data": folder, "recipe": recipe}
                yield runner.row(sides, "input", f"{recipe} recipe, {name}", units=units, **task)


SUBJECTS: dict[str, Callable[[Runner], Iterator[Row]]] = {
    "train": steps("train"),
    "infer": steps("infer"),
    "input": input_batches,
    "operators": operators,
    "compile": compilation,
    "startup": starting,
}
