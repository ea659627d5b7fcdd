"""Variants of a model for a verdict on graphs with `If`: each branch forced by itself, inner values as outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from export.graph.node_notes import read_notes

__all__ = ["Condition", "condition_key", "conditions", "forced", "with_outputs"]


@dataclasses.dataclass(frozen=True)
class Condition:
    """An `If` of a model.

    Attributes:
        key: the recorded operation that it came from, as its metadata names it; its own name without.
        predicate: the value that decides.
        within: the sides of other conditions that lead to it, {key: side}.
    """

    key: str
    predicate: str
    within: Mapping[str, bool]

    def choices(self) -> Iterator[dict[str, bool]]:
        """Yield the ways to force it, one a side, with the sides that lead to it."""
        for side in (True, False):
            yield {**self.within, self.key: side}


def conditions(graph: onnx.GraphProto, within: Mapping[str, bool] | None = None) -> list[Condition]:
    """Return every `If` of a graph, those in branches and loops too, outermost first."""
    found = []
    for node in graph.node:
        if node.op_type == "If":
            found.append(Condition(condition_key(node), node.input[0], within or {}))
        for attribute in node.attribute:
            if attribute.HasField("g"):
                side = {"then_branch": True, "else_branch": False}.get(attribute.name)
                inner = dict(within or {}) if side is None else {**(within or {}), condition_key(node): side}
                found += conditions(attribute.g, inner)
    return found


def forced(model: onnx.ModelProto, choices: Mapping[str, bool]) -> onnx.ModelProto:
    """Return a copy in which the conditions with these keys take these sides."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (True, False):
        copy.graph.initializer.append(numpy_helper.from_array(np.array(value), f"forced.{value}"))
    _force(copy.graph, choices)
    return copy


def _force(graph: onnx.GraphProto, choices: Mapping[str, bool]) -> None:
    for node in graph.node:
        if node.op_type == "If" and condition_key(node) in choices:
            node.input[0] = f"forced.{choices[condition_key(node)]}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _force(attribute.g, choices)


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy with more values as outputs; ONNX Runtime finds their types and shapes by itself."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    there = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in there)
    return copy


def condition_key(node: onnx.NodeProto) -> str:
    """Return the recorded operation that an `If` came from, as its metadata names it; its own name without."""
    return read_notes(node).get("fx") or node.name
