"""The ONNX function of a repeated block, and the nodes that call it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import onnx
from onnx import helper

from export.graph.functions.function_calls import DOMAIN
from export.graph.node_notes import read_notes

__all__ = ["Occurrence", "branches", "call_of", "fresh", "function_of", "inside", "reads", "relative", "renamed"]

BACKWARD = "backward"
"""What is added to a block's path in the name of the call of its gradient."""


@dataclasses.dataclass
class Occurrence:
    """One occurrence of a block.

    Attributes:
        path: its dotted path.
        order: "" for the block itself, "1" for its gradient, "2" for the gradient of that.
        nodes: its nodes, in order.
        given: names of the values from outside, in the order of their use.
    """

    path: str
    order: str
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    given: list[str] = dataclasses.field(default_factory=list)

    @property
    def made(self) -> list[str]:
        """Names of the values that its nodes make, in order."""
        return [name for node in self.nodes for name in node.output]

    @property
    def label(self) -> str:
        """The dotted name of the node that calls it."""
        return f"{self.path}.{BACKWARD}{self.order.removeprefix('1')}" if self.order else self.path


def branches(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside a node."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the values that a node uses, those that its branches use from outside included."""
    yield from filter(None, node.input)
    for graph in branches(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own |= {name for inner in graph.node for name in inner.output}
        used = [name for inner in graph.node for name in reads(inner)] + [value.name for value in graph.output]
        yield from (name for name in used if name not in own)


def renamed(node: onnx.NodeProto, values: Mapping[str, str], change: Callable[[onnx.NodeProto], None]) -> None:
    """Rename a node's values in place, those of its branches too; `change` does the rest, on each node."""
    node.input[:] = [values.get(name, name) for name in node.input]
    node.output[:] = [values.get(name, name) for name in node.output]
    change(node)
    for graph in branches(node):
        for value in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
            value.name = values.get(value.name, value.name)
        for inner in graph.node:
            renamed(inner, values, change)


def inside(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the values that a node and its branches make."""
    yield from filter(None, node.output)
    for graph in branches(node):
        yield from (value.name for value in (*graph.input, *graph.initializer))
        for inner in graph.node:
            yield from inside(inner)


def relative(path: str, block: str) -> str:
    """Return a dotted path or name as seen from a block."""
    return "" if path == block else path.removeprefix(f"{block}.")


def function_of(
    blocks: Sequence[Occurrence],
    ports: Sequence[int],
    constants: Mapping[str, onnx.TensorProto],
    types: Mapping[str, onnx.TypeProto],
    taken: Collection[str],
) -> onnx.FunctionProto:
    """Return the function of blocks that compute the same.

    Args:
        blocks: the blocks; the body is the first one's.
        ports: positions among the values made of those that are used outside.
        constants: constants that become part of the body.
        types: dtypes and shapes of values.
        taken: names that other functions have.
    """
    block = blocks[0]
    function = onnx.FunctionProto(domain=DOMAIN, name=fresh(_name(blocks), taken))
    held = dict.fromkeys(name for node in block.nodes for name in reads(node) if name in constants)
    values = {name: name for name in held}  # so that inlining finds the names that they had
    for name in held:
        function.node.append(helper.make_node("Constant", [], [name], name=name, value=constants[name]))
    for name in block.given:
        values[name] = fresh(_outside(name, block.path), values.values())
    function.input.extend(values[name] for name in block.given)
    for node in block.nodes:
        for i, name in enumerate(inside(node)):
            own = relative(name, block.path) if name.startswith(f"{block.path}.") else f"{node.name}:{i}"
            values[name] = fresh(relative(own, block.path), values.values())
    function.output.extend(values[block.made[i]] for i in ports)

    def change(node: onnx.NodeProto) -> None:
        about = read_notes(node)
        about.pop("fx", None)
        about["path"] = relative(about.get("path", ""), block.path)
        node.name = relative(node.name, block.path)
        del node.metadata_props[:]
        helper.set_metadata_props(node, {key: text for key, text in about.items() if text})

    for node in block.nodes:
        copy = function.node.add()
        copy.CopyFrom(node)
        renamed(copy, values, change)
    for name in (*block.given, *filter(None, block.made)):
        if name in types:
            function.value_info.add(name=values[name]).type.CopyFrom(types[name])
    return function


def call_of(block: Occurrence, function: onnx.FunctionProto, ports: Sequence[int]) -> onnx.NodeProto:
    """Return the node that calls a function for a block; its metadata names the operation of each node inside."""
    made = block.made
    call = helper.make_node(
        function.name, block.given, [made[i] for i in ports], name=block.label, domain=function.domain
    )
    about = {"path": block.path, "derivative": block.order}
    about["fx"] = " ".join(read_notes(node).get("fx", "-") for node in block.nodes)
    helper.set_metadata_props(call, {key: text for key, text in about.items() if text})
    return call


def fresh(name: str, taken: Collection[str]) -> str:
    """Return the name, with a number behind it if it is taken."""
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def _outside(name: str, path: str) -> str:
    """Name a value from outside: what follows the block's path in its name, as for weights, or else `x`."""
    _, found, rest = f".{name}".partition(f".{path}.")
    return rest if found else "x"


def _name(blocks: Sequence[Occurrence]) -> str:
    """Name a function after what the blocks' paths have in common: `layer1_block` for `layer1.1`, `layer1.2`."""
    parts = []
    for own in zip(*(block.path.split(".") for block in blocks), strict=False):
        stems = {part if len(set(own)) == 1 else part.rstrip("0123456789") for part in own}
        stem = stems.pop() if len(stems) == 1 else ""
        parts.append("" if stem.isdigit() else re.sub(r"\W", "_", stem).strip("_"))
    same = len({block.path.count(".") for block in blocks}) == 1
    label = "_".join(filter(None, [*parts[:-1], (same and parts[-1]) or "block"]))
    return f"{label}_{BACKWARD}{blocks[0].order.removeprefix('1')}" if blocks[0].order else label
