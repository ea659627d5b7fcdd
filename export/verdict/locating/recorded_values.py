"""Which values of a file that was written here have a counterpart in the recorded function, by the nodes' metadata."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping

import onnx
import torch
from torch.fx import GraphModule, Node

from export.graph.node_notes import read_notes
from export.graph.onnx_types import ONNX_TYPES
from export.verdict.locating.opened_graph import Opened, Site

__all__ = ["Probe", "probes", "recorded_nodes", "step_inputs"]

PAIRED = frozenset({"TopK"})
"""Nodes whose outputs are the results of one recorded operator, in its order; of others the last first output is."""


Declared = tuple[int, list[int | None] | None]
"""An element type, and sizes where they are declared."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """A value that both sides have.

    Attributes:
        site: the value in the file.
        key: the recorded operator that gives the same, with the graphs that lead to it.
        dtype: what it is rounded to.
    """

    site: Site
    key: str
    dtype: torch.dtype


def recorded_nodes(graph: GraphModule, prefix: str = "") -> dict[str, Node]:
    """Return every recorded node by its key, those of branches and loop bodies too."""
    found: dict[str, Node] = {}
    for node in graph.graph.nodes:
        found[prefix + node.name] = node
        inner = getattr(graph, str(node.target), None) if node.op == "get_attr" else None
        if isinstance(inner, GraphModule):
            found |= recorded_nodes(inner, f"{prefix}{node.target}.")
    return found


def probes(opened: Opened, graph: GraphModule, nodes: Mapping[str, Node]) -> list[Probe]:
    """Return the values that both sides have, in the file's order.

    Several nodes may stand for one recorded operator; the last whose value has its dtype and shape holds its result.
    What a node without metadata makes is told by the value's name, where that still names its operator.
    """
    picked: dict[str, dict[int, str]] = {}
    for key, node in nodes.items():
        if node.target is operator.getitem and isinstance(node.args[0], Node) and isinstance(node.args[1], int):
            picked.setdefault(_prefix(key) + node.args[0].name, {})[node.args[1]] = key
    bases = {f"{node.meta['path']}.{key}" if node.meta.get("path") else key: key for key, node in nodes.items()}
    declared = _declared(opened.model.graph)
    last: dict[str, Site] = {}
    for site in opened.sites:
        origin = read_notes(site.node).get("fx", "") or _by_name(site, bases)
        if origin in nodes:
            held = _held(site, origin, nodes, picked.get(origin, {}), declared.get(site.value))
            if held is not None and isinstance(nodes[held].meta.get("val"), torch.Tensor):
                last[held] = site
    made = {site.output: site for site in opened.sites}
    (output,) = graph.graph.find_nodes(op="output")
    for item, value in zip(output.args[0], opened.model.graph.output, strict=False):
        if isinstance(item, Node) and item.op == "call_function" and value.name in made:
            last[item.name] = made[value.name]
    order = {site.output: position for position, site in enumerate(opened.sites)}
    chosen = sorted(last.items(), key=lambda entry: order[entry[1].output])
    return [Probe(site, key, nodes[key].meta["val"].dtype) for key, site in chosen]


def _held(
    site: Site, origin: str, nodes: Mapping[str, Node], picked: Mapping[int, str], declared: Declared | None
) -> str | None:
    """Return the recorded value that a site holds, of an operator or of one of its results; None if it holds none."""
    node, results = site.node, nodes[origin].meta.get("val")
    place = list(node.output).index(site.value) if site.value in node.output else len(node.output)
    if node.op_type == "Scan":
        kept = read_notes(node).get("results", "").split()
        return picked.get(int(kept[place])) if place < len(kept) and kept[place].isdigit() else None
    if node.op_type == "If" or (node.op_type in PAIRED and isinstance(results, (tuple, list))):
        return picked.get(place)
    if not isinstance(results, (tuple, list)):
        if declared is not None and isinstance(results, torch.Tensor) and declared[0] != ONNX_TYPES.get(results.dtype):
            return None
        return origin if place == 0 else None
    if declared is None or declared[1] is None:
        return None
    fitting = [i for i, result in enumerate(results) if isinstance(result, torch.Tensor) and _fits(declared, result)]
    return picked.get(fitting[0]) if len(fitting) == 1 else None


def _fits(declared: Declared, result: torch.Tensor) -> bool:
    kind, sizes = declared
    same = sizes is not None and len(sizes) == result.dim() and kind == ONNX_TYPES.get(result.dtype)
    return same and all(
        size is None or not isinstance(own, int) or size == own
        for size, own in zip(sizes or (), result.shape, strict=True)
    )


def _declared(graph: onnx.GraphProto) -> dict[str, Declared]:
    """Return the declared element types and sizes of a graph's values, those of its subgraphs too."""
    found: dict[str, Declared] = {}
    for value in (*graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        if kind.elem_type:
            found[value.name] = kind.elem_type, dims if kind.HasField("shape") else None
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found = {**_declared(attribute.g), **found}
    return found


def _by_name(site: Site, bases: Mapping[str, str]) -> str:
    """Return the recorded operator that a value is named after, as in `layer1.conv.convolution.Conv:0`."""
    base = site.value.rpartition(".")[0]
    return bases.get(base) or bases.get(base.rpartition(".")[0], "")


def _prefix(key: str) -> str:
    return key[: key.rfind(".") + 1]


def step_inputs(opened: Opened, nodes: Mapping[str, Node]) -> dict[str, str]:
    """Return the recorded key of each input of a loop's body."""
    found = {}
    for name, (key, position) in opened.formal.items():
        node = nodes.get(key)
        body = node.args[0] if node is not None else None
        if node is None or not isinstance(body, Node):
            continue
        inner = getattr(node.graph.owning_module, str(body.target), None)
        if isinstance(inner, GraphModule):
            places = inner.graph.find_nodes(op="placeholder")
            if position < len(places):
                found[name] = f"{_prefix(key)}{body.target}.{places[position].name}"
    return found
