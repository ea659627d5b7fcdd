"""Repeated blocks as ONNX functions: one body for all blocks that compute the same, called once a block.

The nodes of a block are those whose path begins with the block's; the nodes of its gradient are counted apart. Two
blocks compute the same if their nodes agree one by one, in order, in all but names: operators, attributes, which value
goes where, dtypes, shapes, small constants, paths inside the block and source lines. The outermost such blocks become
functions of the values that come from outside, weights among them. A block stays as it is where a path leaves and
enters it again. ONNX Runtime puts the bodies back at load, and so does `export.graph.functions.function_inlining`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence

import onnx
from onnx import helper

from export.graph.functions.canonical_forms import Form, canonical_form
from export.graph.functions.function_bodies import Occurrence, call_of, fresh, function_of, reads
from export.graph.functions.function_calls import DOMAIN
from export.graph.node_notes import read_notes

__all__ = ["outline"]

MIN_FUNCTION_NODES = 4
"""A block of fewer nodes is not worth a function."""

CONSTANT_BYTES = 1024
"""A constant up to this size is part of the body; a larger one is given to it."""


@dataclasses.dataclass(eq=False)
class Unit:
    """A node of the graph in its present state, which may be the call of a block.

    Attributes:
        node: the node.
        reads: names of the values it uses, those used in its branches included.
        writes: names of the values it makes, those that stay inside a block included.
        path: its block's dotted path; empty for a call.
        order: "" for the function itself, "1" for its gradient, "2" for the gradient of that.
    """

    node: onnx.NodeProto
    reads: set[str]
    writes: set[str]
    path: str = ""
    order: str = ""


@dataclasses.dataclass
class _Block(Occurrence):
    """An occurrence with its place in the graph."""

    units: list[Unit] = dataclasses.field(default_factory=list)


def outline(model: onnx.ModelProto, leaves: Collection[str] = ()) -> None:
    """Replace repeated blocks of a model by calls of functions, in place.

    Args:
        model: a model whose nodes say in their metadata which block they belong to.
        leaves: names that stay visible from outside, and so are never put into a body: those of baked leaves.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('''<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) {
        ...     a = Sin (x) b = Cos (a) c = Tan (b) d = Abs (c) e = Sin (d) f = Cos (e) h = Tan (f) y = Abs (h) }''')
        >>> model = onnx.shape_inference.infer_shapes(model)
        >>> for i, node in enumerate(model.graph.node):
        ...     helper.set_metadata_props(node, {"path": f"blocks.{i // 4}"})
        >>> outline(model)
        >>> [(call.op_type, call.name) for call in model.graph.node]
        [('blocks_block', 'blocks.0'), ('blocks_block', 'blocks.1')]
    """
    outliner = _Outliner(model, leaves)
    depth = max((len(unit.path.split(".")) for unit in outliner.line), default=0)
    for level in range(1, depth + 1):
        for blocks in outliner.repeated(level):
            outliner.replace(blocks)
    if model.functions:
        outliner.finish()


class _Outliner:
    """A model whose nodes are merged one block at a time."""

    def __init__(self, model: onnx.ModelProto, leaves: Collection[str]) -> None:
        self.model, graph = model, model.graph
        self.line: list[Unit] = []
        for node in graph.node:
            about = read_notes(node)
            place = about.get("path", ""), about.get("derivative", "")
            self.line.append(Unit(node, set(reads(node)), set(node.output) - {""}, *place))
        self.outputs = {value.name for value in graph.output}
        self.types = {value.name: value.type for value in (*graph.input, *graph.output, *graph.value_info)}
        self.small: dict[str, onnx.TensorProto] = {}
        for tensor in graph.initializer:
            self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            shared = tensor.name.startswith("constant.") and tensor.name not in leaves
            if shared and not tensor.external_data and tensor.ByteSize() <= CONSTANT_BYTES:
                self.small[tensor.name] = onnx.TensorProto()
                self.small[tensor.name].CopyFrom(tensor)
                self.small[tensor.name].ClearField("name")
        sizes = {value.name for value in graph.input}
        self.fixed = {tensor.name for tensor in graph.initializer if tensor.name.startswith("constant.")}
        for unit in self.line:
            if unit.reads <= (sizes if unit.node.op_type == "Shape" else self.fixed):
                self.fixed |= unit.writes

    def repeated(self, level: int) -> list[list[_Block]]:
        """Return the blocks at a depth that are not in a function yet, those that compute the same together."""
        found: dict[tuple[str, str], _Block] = {}
        for unit in self.line:
            parts = unit.path.split(".")
            if unit.path and len(parts) >= level:
                path = ".".join(parts[:level])
                found.setdefault((path, unit.order), _Block(path, unit.order)).units.append(unit)
        users = Counter(name for unit in self.line for name in unit.reads)
        alike: dict[Form, list[_Block]] = {}
        for block in found.values():
            block.units = self.without_shared(block.units, users)
            block.nodes = [unit.node for unit in block.units]
            if len(block.units) >= MIN_FUNCTION_NODES:
                alike.setdefault(canonical_form(block, self.small, self.types), []).append(block)
        return [blocks for blocks in alike.values() if len(blocks) > 1]

    def without_shared(self, units: list[Unit], users: Counter[str]) -> list[Unit]:
        """Return a block's units without those that make a constant, such as a mask, for other blocks as well."""
        own = Counter(name for unit in units for name in unit.reads)
        shared: set[str] = set()
        kept = []
        for unit in reversed(units):
            if unit.writes <= self.fixed and any(users[name] > own[name] or name in shared for name in unit.writes):
                shared |= unit.reads
            else:
                kept.append(unit)
        return kept[::-1]

    def replace(self, blocks: Sequence[_Block]) -> None:
        """Put one function in the place of blocks that compute the same, if at least two of them allow it."""
        line = self.line
        calls: list[tuple[_Block, Unit]] = []
        for block in blocks:
            call = Unit(onnx.NodeProto(), set(block.given), set(block.made) - {""})
            merged = _merged(line, block, call)
            if merged is not None:
                line = merged
                calls.append((block, call))
        if len(calls) < 2:
            return
        users = Counter(name for unit in self.line for name in unit.reads)
        wanted: set[int] = set()
        for block, _ in calls:
            own = Counter(name for unit in block.units for name in unit.reads)
            outside = (name in self.outputs or users[name] > own[name] for name in block.made)
            wanted |= {i for i, used in enumerate(outside) if used}
        ports, names = sorted(wanted), {function.name for function in self.model.functions}
        function = function_of([block for block, _ in calls], ports, self.small, self.types, names)
        function.opset_import.extend(self.model.opset_import)
        self.model.functions.append(function)
        for block, call in calls:
            call.node.CopyFrom(call_of(block, function, ports))
            call.writes = set(call.node.output)
        self.line = line

    def finish(self) -> None:
        """Write the units back; types and constants that are only in bodies now go."""
        graph = self.model.graph
        names = {unit.node.name for unit in self.line if unit.path}
        for unit in self.line:
            if unit.node.domain == DOMAIN:
                unit.node.name = fresh(unit.node.name, names)
                names.add(unit.node.name)
        made = {name for unit in self.line for name in unit.writes}
        used = {name for unit in self.line for name in unit.reads} | self.outputs
        types = onnx.GraphProto(value_info=[value for value in graph.value_info if value.name in made])
        nodes = onnx.GraphProto(node=[unit.node for unit in self.line])
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes.node)
        graph.value_info.extend(types.value_info)
        for i in reversed(range(len(graph.initializer))):
            name = graph.initializer[i].name
            if name in self.small and name not in used:
                del graph.initializer[i]
        self.model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _merged(line: Sequence[Unit], block: _Block, call: Unit) -> list[Unit] | None:
    """Return the units with a block's made one, or None if a path leaves the block and enters it again."""
    members = set(block.units)
    first, last = (line.index(unit) for unit in (block.units[0], block.units[-1]))
    before: list[Unit] = []
    after: list[Unit] = []
    dependent: set[str] = set()
    for unit in line[first : last + 1]:
        if unit in members:
            if unit.reads & dependent:
                return None
        elif unit.reads & (call.writes | dependent):
            dependent |= unit.writes
            after.append(unit)
        else:
            before.append(unit)
    return [*line[:first], *before, call, *after, *line[last + 1 :]]
