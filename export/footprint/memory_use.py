"""What `memory` found: bytes alive at each node of a file, what is alive at the peak, and tables of both."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from export.footprint.byte_text import in_mib
from pure_export_shared import HtmlText

__all__ = ["AliveValue", "MemoryUse", "NodeMemory"]

_SHOWN = 12
"""Rows of a table."""


@dataclasses.dataclass(frozen=True)
class NodeMemory:
    """One node, in the order in which ONNX Runtime runs it.

    Attributes:
        name: its name.
        op: the ONNX operator, after ONNX Runtime's rewrites.
        path: the dotted path of the block it belongs to; empty where that is not known.
        made_bytes: bytes of its results, without those that lie on an input's memory.
        workspace_bytes: bytes that its kernel takes for itself while it runs.
        live_bytes: bytes alive while it runs.
    """

    name: str
    op: str
    path: str
    made_bytes: int
    workspace_bytes: int
    live_bytes: int


@dataclasses.dataclass(frozen=True)
class AliveValue:
    """A value that is alive at the peak.

    Attributes:
        name: its name.
        bytes: its bytes.
        shape: its shape.
        op: the operator that made it.
        path: the dotted path of that node's block.
        until: the node that reads it last; "output" for a result.
    """

    name: str
    bytes: int
    shape: tuple[int, ...]
    op: str
    path: str
    until: str


@dataclasses.dataclass(frozen=True)
class MemoryUse(HtmlText):
    """The bytes of a file while it runs on a CPU.

    Attributes:
        path: the file.
        sizes: the sizes of its dynamic axes.
        threads: the threads of the session, each of which convolves in a buffer of its own.
        peak_bytes: the most bytes alive at once in a call: activations, results and workspaces.
        held_bytes: what the process comes to hold in a call: the peak, and what lies between the pieces in ONNX
            Runtime's arena, which stays after the call.
        weight_bytes: bytes of the tensors inside, as ONNX Runtime keeps them.
        input_bytes: bytes of the arguments, which are the caller's.
        output_bytes: bytes of the results, which are in the peak.
        peak_node: name of the node at which the peak is.
        nodes: every node, in order.
        alive: what is alive at the peak, the largest first.
        unknown: values whose size depends on data, which count as nothing.
    """

    path: Path
    sizes: dict[str, int]
    threads: int
    peak_bytes: int
    held_bytes: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int
    peak_node: str
    nodes: tuple[NodeMemory, ...]
    alive: tuple[AliveValue, ...]
    unknown: tuple[str, ...]

    def summary(self) -> str:
        """Return one line."""
        at = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return (
            f"{in_mib(self.peak_bytes)} in a call{f' at {at}' * bool(at)} (held {in_mib(self.held_bytes)}), weights "
            f"{in_mib(self.weight_bytes)}, arguments {in_mib(self.input_bytes)}, results {in_mib(self.output_bytes)}"
        )

    def table(self, rows: int = _SHOWN) -> str:
        """Return what is alive at the peak as text, the largest first.

        Args:
            rows: how many values are listed.
        """
        number = next((i for i, node in enumerate(self.nodes) if node.name == self.peak_node), 0)
        lines = [
            f"{self.path.name}: {self.summary()}",
            f"  peak at node {number + 1} of {len(self.nodes)}, {self.peak_node}; alive there:",
        ]
        for value in self.alive[:rows]:
            shape = "×".join(map(str, value.shape))
            lines.append(f"  {in_mib(value.bytes):>12}  {shape:<18} {value.op:<16} {value.name}, until {value.until}")
        rest = self.alive[rows:]
        if rest:
            lines.append(f"  {in_mib(sum(value.bytes for value in rest)):>12}  in {len(rest)} more")
        if self.unknown:
            lines.append(f"  not counted, since their size depends on data: {', '.join(self.unknown[:rows])}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        return {**dataclasses.asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        return self.table()
