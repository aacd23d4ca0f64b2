"""What a compiled program executes, read from its scheduled HLO: kernels, loops with their lengths, bytes, collectives.

An accelerator's executable is a list of instructions in the order in which they run. On a GPU one instruction of an
executed computation is about one kernel launch, on a TPU one operation of the chip's program; a `while` runs its body
as often as its trip count says. XLA's own cost analysis counts a body once, so everything is counted here.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

PART = "part."
"""Prefix of the `jax.named_scope`s by which instructions are told apart."""
AROUND = "start and end of a chunk"
REST = "rest of an iteration"

FREE = frozenset(
    (
        *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "add-dependency", "domain"),
        *("opt-barrier", "partition-id", "replica-id", "copy-done", "async-done", "async-update", "all-reduce-done"),
        *("all-gather-done", "collective-permute-done", "send-done", "recv-done"),
    )
)
"""Opcodes that run nothing."""
COLLECTIVES = (
    *("all-reduce", "all-gather", "all-to-all", "ragged-all-to-all", "reduce-scatter"),
    *("collective-permute", "collective-broadcast", "send", "recv"),
)
ELEMENT_BYTES = {"pred": 1, "token": 0, "c64": 8, "c128": 16, "bf16": 2}

_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_PART = re.compile(re.escape(PART) + r"(\w+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str  # as it is written, layouts included
    opcode: str
    operands: tuple[str, ...]
    literal: str  # what stands where operands stand: of a constant its value
    attributes: str  # all that follows the operands
    root: bool


class Computation(NamedTuple):
    """A body, a branch, a fusion, or the program itself."""

    instructions: tuple[Instruction, ...]
    shapes: dict[str, str]  # of every instruction, by name


class Kernel(NamedTuple):
    """An instruction that runs: how often in one iteration, and what one run costs."""

    part: str
    times: int
    n_bytes: int  # read from and written to the device's main memory, without reuse
    flops: int  # of matrix products


class Loop(NamedTuple):
    """A loop inside an iteration: how often its body runs, and whether that is known to the program beforehand."""

    part: str
    iterations: int
    known: bool


class Reading(NamedTuple):
    """What one iteration of a chunk executes; `AROUND` holds what runs once a chunk."""

    kernels: tuple[Kernel, ...]
    loops: tuple[Loop, ...]
    branches: dict[str, int]  # conditionals that run, by part: the host looks at a predicate of the device
    collectives: int  # instructions, anywhere in the program, that talk to another device


def read_program(text: str) -> Reading:
    """Count what a scheduled HLO module executes in one iteration of its outermost loop of unknown length.

    Args:
      text: from `compiled.as_text()`.
    """
    computations, entry = parse(text)
    walker = _Walker(computations)
    main = _main_loop(computations, entry)
    walker.visit(entry, times=1, part=AROUND, main=main)
    n = sum(_is_collective(line.opcode) for body in computations.values() for line in body.instructions)
    return Reading(tuple(walker.kernels), tuple(walker.loops), dict(walker.branches), n)


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """All computations of a module by name, and the name of the one it starts with."""
    computations: dict[str, Computation] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            name, lines = header.group(2), []
            entry = name if header.group(1) else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(tuple(lines), {each.name: each.shape for each in lines})
            name = ""
        elif name and (match := _INSTRUCTION.match(line)):
            lines.append(_instruction(match.group(1), match.group(2), root=line.lstrip().startswith("ROOT")))
    return computations, entry


def _instruction(name: str, rest: str, *, root: bool) -> Instruction:
    shape_end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", shape_end)
    closing = _closing(rest, opening)
    return Instruction(
        name=name,
        shape=rest[:shape_end],
        opcode=rest[shape_end:opening].strip(),
        operands=tuple(_NAME.findall(rest[opening:closing])),
        literal=rest[opening + 1 : closing],
        attributes=rest[closing + 1 :],
        root=root,
    )


def _closing(text: str, start: int) -> int:
    """Where the bracket closes that opens at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


def shape_bytes(shape: str) -> int:
    """Bytes of all arrays of a shape in main memory, with the padding of tiled layouts; `S(1)` is on the chip."""
    return sum(_array_bytes(*found) for found in _ARRAY.findall(shape))


def _array_bytes(kind: str, sizes: str, layout: str) -> int:
    if re.search(r"S\([1-9]", layout):
        return 0
    dimensions = [int(size) for size in sizes.split(",") if size]
    tile = re.search(r":T\(([\d,]+)\)", layout)
    if tile and dimensions:
        order = [int(axis) for axis in layout.split(":")[0].split(",") if axis]  # minor to major
        sides = [int(side) for side in tile.group(1).split(",")][::-1]
        for axis, side in zip(order, sides):
            dimensions[axis] = -(-dimensions[axis] // side) * side
    return math.prod(dimensions) * _element_bytes(kind)


def _element_bytes(kind: str) -> int:
    if kind in ELEMENT_BYTES:
        return ELEMENT_BYTES[kind]
    bits = re.search(r"\d+", kind)
    return max(1, int(bits.group()) // 8) if bits else 1


def _dimensions(shape: str) -> list[int]:
    """Sizes of the first array of a shape."""
    found = _ARRAY.search(shape)
    return [int(size) for size in found.group(2).split(",") if size] if found else []


def _is_collective(opcode: str) -> bool:
    return opcode.removesuffix("-start") in COLLECTIVES


def _part(line: Instruction) -> str:
    """The outermost part that an instruction's name was given in."""
    found = _PART.search(line.attributes)
    return found.group(1) if found else ""


def _called(attributes: str, word: str) -> str:
    found = re.search(rf"\b{word}=%([\w.\-]+)", attributes)
    return found.group(1) if found else ""


def _branches(attributes: str) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", attributes)
    if listed:
        return _NAME.findall(listed.group(1))
    return [name for word in ("true_computation", "false_computation") if (name := _called(attributes, word))]


def _trips(computations: dict[str, Computation], line: Instruction) -> int | None:
    """How often a loop runs its body: by its own word, else by a condition that compares a counter with a constant."""
    told = _TRIPS.search(line.attributes)
    if told:
        return int(told.group(1))
    body = computations[_called(line.attributes, "condition")]
    constants = {each.name: each.literal for each in body.instructions if each.opcode == "constant"}
    root = next(each for each in body.instructions if each.root)
    bounds = [constants[name] for name in root.operands if name in constants]
    if root.opcode == "compare" and "direction=LT" in root.attributes and bounds and bounds[0].isdigit():
        return int(bounds[0])
    return None


def _main_loop(computations: dict[str, Computation], entry: str) -> str:
    """The loop over iterations: the only one of the program itself whose length is not known."""
    loops = [line for line in computations[entry].instructions if line.opcode == "while"]
    unknown = [line.name for line in loops if _trips(computations, line) is None]
    return unknown[0] if unknown else ""


class _Walker:
    """Follows what is executed from a computation inwards, and notes it."""

    def __init__(self, computations: dict[str, Computation]) -> None:
        self.computations = computations
        self.kernels: list[Kernel] = []
        self.loops: list[Loop] = []
        self.branches: Counter[str] = Counter()

    def visit(self, name: str, *, times: int, part: str, main: str = "") -> None:
        """Note every instruction of a computation that runs `times` times; `part` is that of nameless ones."""
        body = self.computations[name]
        for line in body.instructions:
            where = _part(line) or part
            if line.opcode == "while":
                self._loop(line, times, REST if line.name == main else where, line.name == main)
            elif line.opcode == "conditional":
                self.branches[where] += times
                self._costliest(_branches(line.attributes), times, where)
            elif line.opcode == "call":
                called = _called(line.attributes, "to_apply") or _called(line.attributes, "calls")
                self.visit(called, times=times, part=where)
            elif line.opcode not in FREE:
                self.kernels.append(self._kernel(body, line, times, where))

    def _loop(self, line: Instruction, times: int, part: str, is_main: bool) -> None:
        trips = _trips(self.computations, line)
        inside = times * (trips if trips is not None else 1)
        if not is_main:
            self.loops.append(Loop(part, inside, trips is not None))
        body = _called(line.attributes, "body")
        self.visit(body, times=inside, part=part if is_main else self._prevailing(body) or part)
        if trips is None:  # a loop of known length runs without looking at its condition
            self.visit(_called(line.attributes, "condition"), times=inside, part=part)

    def _costliest(self, names: list[str], times: int, part: str) -> None:
        """Of the branches the one that launches most: an iteration that learns."""
        tried = []
        for name in names:
            walker = _Walker(self.computations)
            walker.visit(name, times=times, part=self._prevailing(name) or part)
            tried.append(walker)
        chosen = max(tried, key=lambda walker: sum(kernel.times for kernel in walker.kernels))
        self.kernels += chosen.kernels
        self.loops += chosen.loops
        self.branches += chosen.branches

    def _prevailing(self, name: str) -> str:
        """The part that most of a computation's instructions are of, for copies and others that XLA gave no name."""
        named = Counter(part for line in self.computations[name].instructions if (part := _part(line)))
        return max(named, key=lambda part: named[part]) if named else ""

    def _kernel(self, body: Computation, line: Instruction, times: int, part: str) -> Kernel:
        inner = self.computations.get(_called(line.attributes, "calls"))
        if inner is None:
            return Kernel(part, times, _plain_bytes(body, line), _flops(body, line))
        return Kernel(part, times, _fusion_bytes(inner), self._fused_flops(inner))

    def _fused_flops(self, body: Computation) -> int:
        """Products of a fusion and of those inside it."""
        inner = [self.computations.get(_called(line.attributes, "calls")) for line in body.instructions]
        own = sum(_flops(body, line) for line in body.instructions)
        return own + sum(self._fused_flops(each) for each in inner if each is not None)


def _plain_bytes(body: Computation, line: Instruction) -> int:
    """Bytes that an instruction outside fusions reads and writes."""
    if line.opcode == "dynamic-update-slice":
        return 2 * shape_bytes(body.shapes.get(line.operands[1], ""))
    if line.opcode == "custom-call":  # of a product; room to work in follows its result
        first = _ARRAY.search(line.shape)
        written = _array_bytes(*first.groups(default="")) if first else 0
    else:
        written = shape_bytes(line.shape)
    if line.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * written
    if line.opcode == "copy-start":
        return written // 2  # its shape names source, destination and a flag
    return written + sum(shape_bytes(body.shapes.get(name, "")) for name in set(line.operands))


def _fusion_bytes(body: Computation) -> int:
    """Bytes that a fusion reads and writes: of an array that it only slices, or only updates in place, the slice."""
    uses: dict[str, list[Instruction]] = {}
    for line in body.instructions:
        for name in line.operands:
            uses.setdefault(name, []).append(line)
    total = 0
    for line in body.instructions:
        if line.opcode == "parameter":
            total += min(
                shape_bytes(line.shape), sum(_read_bytes(body, line, use, uses) for use in uses.get(line.name, []))
            )
    by_name = {line.name: line for line in body.instructions}
    root = next(line for line in body.instructions if line.root)
    outputs = [by_name[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return total + sum(_written_bytes(body, by_name, line) for line in outputs)


def _read_bytes(body: Computation, source: Instruction, use: Instruction, uses: dict[str, list[Instruction]]) -> int:
    if use.opcode in ("dynamic-slice", "slice", "gather") and use.operands[0] == source.name:
        return shape_bytes(use.shape)
    if use.opcode == "dynamic-update-slice" and use.operands[0] == source.name:
        return 0  # in place
    if use.opcode in ("bitcast", "copy", "reshape"):
        return sum(_read_bytes(body, use, later, uses) for later in uses.get(use.name, [])) or shape_bytes(source.shape)
    return shape_bytes(source.shape)


def _written_bytes(body: Computation, by_name: dict[str, Instruction], line: Instruction) -> int:
    while line.opcode in ("bitcast", "copy", "reshape") and line.operands[0] in by_name:
        line = by_name[line.operands[0]]
    if line.opcode == "dynamic-update-slice":
        return shape_bytes(body.shapes.get(line.operands[1], ""))
    return 0 if line.opcode == "parameter" else shape_bytes(line.shape)


def _flops(body: Computation, line: Instruction) -> int:
    """Operations of a matrix product, 0 of everything else."""
    if line.opcode == "convolution":
        return _convolution_flops(body, line)
    dims = r'lhs_contracting_dim(?:ension)?s"?[=:][\[{]([\d",]*)[\]}]'
    found = re.search(dims, line.attributes) if line.opcode in ("dot", "custom-call") else None
    if not found:
        return 0
    left = _dimensions(body.shapes.get(line.operands[0], ""))
    contracted = [left[int(axis)] for axis in re.findall(r"\d+", found.group(1))]
    return 2 * math.prod(_dimensions(line.shape)) * math.prod(contracted)


def _convolution_flops(body: Computation, line: Instruction) -> int:
    """Of a TPU's product: output × contracted features × the window's sides, a batch written as a window left out.

    XLA:TPU writes a batch axis as a window as long as the axis with a dilated left side, of which one position counts.
    """
    labels = re.search(r"dim_labels=\w+?_(\w+)->", line.attributes)
    if not labels:
        return 0
    kernel = dict(zip(labels.group(1), _dimensions(body.shapes.get(line.operands[1], ""))))
    window = re.search(r"window=\{([^}]*)\}", line.attributes)
    fields = dict(item.split("=") for item in window.group(1).split()) if window else {}
    sides = [int(side) for side in fields.get("size", "").split("x") if side]
    dilated = [int(side) for side in fields.get("lhs_dilate", "").split("x") if side] or [1] * len(sides)
    padded = [pad != "0_0" for pad in fields.get("pad", "").split("x") if pad] or [False] * len(sides)
    counted = [1 if dilate > 1 or pad else side for side, dilate, pad in zip(sides, dilated, padded)]
    return 2 * math.prod(_dimensions(line.shape)) * kernel.get("i", 1) * math.prod(counted)
