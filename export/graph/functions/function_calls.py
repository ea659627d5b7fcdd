"""Nodes of functions, as ONNX Runtime names them after it has put the bodies in the place of the calls.

A node `conv1.Conv` of the function `layer1_block` is `_inlfunc_layer1_block_conv1.Conv` for the first call, and
`_inlfunc_layer1_block_token_0_conv1.Conv` for a later one; the number counts the later calls of all functions, in
the order of the graph. What a person should read is the call's name and the node's: `layer1.1.conv1.Conv`.
"""

from __future__ import annotations

import dataclasses
import os

from export.files import protobuf_wire
from export.files.protobuf_wire import Node

__all__ = ["DOMAIN", "Calls", "read_calls"]

DOMAIN = "pure_export"
"""The domain of the functions in a file."""

_FUNCTIONS, _NAME, _NODES = 25, 1, 7
"""The functions of a ModelProto; the name and the nodes of a FunctionProto."""


@dataclasses.dataclass(frozen=True)
class Calls:
    """The calls in a file.

    Attributes:
        calls: {what ONNX Runtime puts in front of the names of a call's nodes: the node that calls}.
        bodies: {function: where it begins and ends in the file}.
        path: the file.
    """

    calls: dict[str, Node]
    bodies: dict[str, tuple[int, int]]
    path: str | os.PathLike[str]

    def readable(self, name: str) -> str:
        """Return `layer1.1.conv1.Conv` for the name that ONNX Runtime gives; other names as they are."""
        start = name.find("_inlfunc_")  # behind a word such as "fused"
        call, inner = self._split(name[start:]) if start >= 0 else (None, name)
        return name if call is None else f"{name[:start]}{call.name}.{inner}"

    def find(self, name: str) -> Node | None:
        """Find a node by the name that ONNX Runtime gives, with its whole name and path."""
        call, inner = self._split(name)
        if call is None:
            return protobuf_wire.find_node(self.path, name)
        with protobuf_wire.mapped(self.path) as data:
            node = protobuf_wire.find(data, *self.bodies[call.kind], inner, _NODES)
        if node is None:
            return None
        path = ".".join(filter(None, (call.metadata.get("path"), node.metadata.get("path"))))
        return Node(f"{call.name}.{inner}", node.kind, {**node.metadata, "path": path})

    def _split(self, name: str) -> tuple[Node | None, str]:
        """Return the call that a node belongs to, and its name in the body."""
        prefix = max((prefix for prefix in self.calls if name.startswith(prefix)), key=len, default=None)
        return (None, name) if prefix is None else (self.calls[prefix], name.removeprefix(prefix))


def read_calls(path: str | os.PathLike[str]) -> Calls:
    """Read which functions a file has, and which nodes call them."""
    header = protobuf_wire.read_header(path)
    bodies: dict[str, tuple[int, int]] = {}
    calls: dict[str, Node] = {}
    with protobuf_wire.mapped(path) as data:
        for number, kind, begin, end in protobuf_wire.fields(data, 0, len(data)):
            if number == _FUNCTIONS and kind == 2:
                texts = ((a, b) for n, k, a, b in protobuf_wire.fields(data, begin, end) if n == _NAME and k == 2)
                bodies.update((bytes(data[a:b]).decode("utf-8", "replace"), (begin, end)) for a, b in texts)
        if not bodies:
            return Calls({}, {}, path)
        everything = [node for node, _ in protobuf_wire.nodes(data, *header.graph)]
    taken = {node.name for node in everything}
    later = 0
    for node in everything:
        if node.domain == DOMAIN:
            name = f"_inlfunc_{node.kind}"
            while name in taken:
                name = f"_inlfunc_{node.kind}_token_{later}"
                later += 1
            taken.add(name)
            calls[f"{name}_"] = node
    return Calls(calls, bodies, path)
