"""Analysis of a compiled program: its instructions, and the memory traffic they cause.

The text is that of `jax.stages.Compiled.as_text()`: optimized HLO, in which an instruction of the entry computation
runs as a unit (a fusion, a convolution, a copy), so that its operands and results are the memory traffic.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Instructions that do no work: they name, group or reinterpret buffers, or wait for another instruction.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "iota", "add-dependency", "copy-done", "slice-done", "async-done", "async-update"),
    *("all-reduce-done", "all-gather-done", "collective-permute-done", "send-done", "recv-done", "AllocateBuffer"),
}
CONTROL = ("while", "call", "conditional", "async-start")  # run other computations, but do no work themselves
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "token": 0, "opaque": 0}
NUMBER = r"^\((\d+)\)$"
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      type: of its result, with the layout: "bf16[8,16]{1,0}", or a tuple of such types.
      operands: names of the instructions it takes; for a parameter, its number.
      op_name: its origin in the Python program: "jit(train_step)/jvp(block2)/conv_general_dilated".
      called: the computations it consists of: a fusion's, a loop's body, the branches of a conditional.
      condition: of a loop.
      turns: number of iterations of a loop, if the compiler states it; otherwise 0.
      kind: the opcode; for a custom call, the library function.
      cycles: estimated by a TPU's compiler; 0 if unknown.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    op_name: str
    called: tuple[str, ...]
    condition: str
    turns: int
    kind: str
    cycles: int

    @functools.cached_property
    def size(self) -> int:
        """Bytes that it writes to the device's main memory."""
        return sum(_array_bytes(*array) for array in self.new_arrays)

    @property
    def new_arrays(self) -> list[tuple[str, str, str]]:
        """Its results, each as dtype, dimensions and layout."""
        arrays = ARRAY.findall(self.type)
        if self.opcode == "copy-start":  # (target, source, ...)
            return arrays[:1]
        if self.opcode == "slice-start":  # ((source), target, ...)
            return arrays[1:2]
        return arrays


def _array_bytes(dtype: str, dims: str, layout: str) -> int:
    """Bytes of an array in main memory; 0 for a TPU's on-chip memory, which is space 1."""
    if "S(1)" in layout:
        return 0
    width = re.search(r"\d+", dtype)
    bits = BITS.get(dtype, int(width[0]) if width else 0)
    return math.prod(int(d) for d in dims.split(",") if d) * bits // 8


class Program:
    """A compiled program's computations, by name; `entry` is the one that runs."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        instructions: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                instructions = self.computations.setdefault(header[2], {})
                self.entry = header[2] if header[1] else self.entry
            elif line.startswith(" ") and (instruction := _parse(line)):
                instructions[instruction.name] = instruction

    def steps(self, computation: str | None = None, times: int = 1) -> Iterator[tuple[Instruction, int, int]]:
        """The instructions that run, as (instruction, number of times, bytes that it reads and writes each time).

        Instructions that do no work are skipped; a loop is represented by the instructions of its body.
        """
        instructions = self.computations[computation or self.entry]
        for instruction in instructions.values():
            if instruction.opcode in CONTROL:
                for called in instruction.called:
                    yield from self.steps(called, times * self._turns(instruction))
            elif instruction.kind not in FREE:
                operands = [instructions[name] for name in instruction.operands]
                yield instruction, times, self._moved(instruction, operands)

    @functools.cached_property
    def traffic(self) -> int:
        """Bytes that all instructions read and write in the device's main memory."""
        return sum(times * size for _, times, size in self.steps())

    @functools.cached_property
    def cycles(self) -> int:
        """The TPU compiler's estimate, over the instructions that have one."""
        return sum(times * instruction.cycles for instruction, times, _ in self.steps())

    def kernels(self) -> collections.Counter[str]:
        """The number of instructions of each kind that the program launches; custom calls by library function."""
        counts: collections.Counter[str] = collections.Counter()
        for instruction, times, _ in self.steps():
            counts[instruction.kind] += times
        return counts

    def collectives(self) -> dict[str, tuple[int, int]]:
        """Communication between devices: kind -> (number, bytes of the results on each device)."""
        found: dict[str, tuple[int, int]] = {}
        for instruction, times, _ in self.steps():
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                count, size = found.get(kind, (0, 0))
                found[kind] = count + times, size + times * instruction.size
        return found

    def largest(self, count: int) -> list[Instruction]:
        """The instructions with the largest results."""
        instructions = {i.name: i for i, _, _ in self.steps()}
        return sorted(instructions.values(), key=lambda i: -i.size)[:count]

    def _turns(self, instruction: Instruction) -> int:
        """The number of iterations of a loop, by the bound in its condition; 1 for other instructions."""
        if instruction.turns:
            return instruction.turns
        condition = self.computations.get(instruction.condition, {})
        return max((int(i.operands[0]) for i in condition.values() if i.opcode == "constant" and i.operands), default=1)

    def _moved(self, instruction: Instruction, operands: list[Instruction]) -> int:
        """Bytes that an instruction reads and writes in main memory.

        If an operand is only sliced, only the slices are read; if a slice is updated in place, only the slice is
        written.
        """
        if instruction.opcode in ("copy-start", "slice-start", "dynamic-slice"):
            read = sum(_array_bytes(dtype, dims, "") for dtype, dims, _ in instruction.new_arrays if operands[0].size)
            return read + instruction.size
        if instruction.opcode == "dynamic-update-slice":
            return operands[1].size + _bytes_anywhere(operands[1])
        if instruction.opcode == "fusion":
            inside = instruction.called[0]
            return sum(self._read(inside, str(n), operand.size) for n, operand in enumerate(operands)) + sum(
                self._written(inside, n, _array_bytes(*array)) for n, array in enumerate(instruction.new_arrays)
            )
        return instruction.size + sum(operand.size for operand in operands)

    def _read(self, fused: str, number: str, whole: int) -> int:
        """Bytes that a fused computation reads of a parameter of `whole` bytes."""
        instructions = self.computations[fused].values()
        [parameter] = [i.name for i in instructions if i.opcode == "parameter" and i.operands[0] == number]
        names, total = {parameter}, 0
        for i in instructions:
            if i.opcode == "parameter" or not names.intersection(i.operands):
                continue
            if i.opcode == "bitcast":
                names.add(i.name)
            elif i.opcode in ("slice", "dynamic-slice"):
                total += _bytes_anywhere(i)
            elif i.opcode == "fusion":
                total += sum(self._read(i.called[0], str(n), whole) for n, o in enumerate(i.operands) if o in names)
            elif i.opcode != "dynamic-update-slice" or i.operands[0] not in names:
                return whole
        passed_on = i.name in names  # the last one is the result
        return whole if passed_on else min(total, whole)

    def _written(self, fused: str, number: int, whole: int) -> int:
        """Bytes that a fused computation writes of a result of `whole` bytes."""
        instructions = self.computations[fused]
        i = list(instructions.values())[-1]
        if i.opcode == "tuple":
            if number >= len(i.operands):  # a nested tuple, which only reductions have
                return whole
            i, number = instructions[i.operands[number]], 0
        while i.opcode == "bitcast":
            i = instructions[i.operands[0]]
        if i.opcode == "fusion":
            return self._written(i.called[0], number, whole)
        if i.opcode == "dynamic-update-slice":
            return min(_bytes_anywhere(instructions[i.operands[1]]), whole)
        return whole


def _bytes_anywhere(instruction: Instruction) -> int:
    """Bytes that an instruction writes to any memory."""
    return sum(_array_bytes(dtype, dims, "") for dtype, dims, _ in instruction.new_arrays)


def _parse(line: str) -> Instruction | None:
    """The instruction in a line such as `%name = type opcode(operands), attributes`."""
    assignment = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line)
    if not assignment:
        return None
    name, rest = assignment[1], re.sub(r"/\*.*?\*/", "", assignment[2])
    type_, rest = _split(rest)
    opcode, _, rest = rest.strip().partition("(")
    operands, attributes = _split("(" + rest)
    called = re.findall(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)", attributes)
    if branches := re.search(r"branch_computations=\{([^}]*)\}", attributes):
        called += re.findall(r"%?([\w.\-]+)", branches[1])
    return Instruction(
        name,
        type_,
        opcode,
        tuple(re.findall(NUMBER if opcode in ("parameter", "constant") else r"%([\w.\-]+)", operands)),
        _first(r'op_name="((?:[^"\\]|\\.)*)"', attributes),
        tuple(called),
        _first(r"condition=%?([\w.\-]+)", attributes),
        int(_first(r'"known_trip_count":\{"n":"(\d+)"', attributes) or 0),
        _first(r'custom_call_target="([^"]*)"', attributes) or opcode,
        int(_first(r'"estimated_cycles":"(\d+)"', attributes) or 0),
    )


def _split(text: str) -> tuple[str, str]:
    """Splits off the first item of a text, a parenthesized group or a word; returns it and the rest."""
    if not text.startswith("("):
        word, _, rest = text.partition(" ")
        return word, rest
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    return text, ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""
