"""A model whose inner values can all be seen: taken branches put in place of `If`, values of loop bodies stacked.

ONNX Runtime returns outputs of the outermost graph only. A branch that is known to be taken becomes part of the graph
around it; each value in the body of a `Scan` becomes one more stacked result of the loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from export.graph.functions.function_bodies import inside, renamed
from export.graph.node_notes import read_notes
from export.verdict.branch_forcing import condition_key

__all__ = ["Opened", "Site", "display_name", "opened"]


@dataclasses.dataclass(frozen=True)
class Site:
    """One value that a node makes.

    Attributes:
        node: the node.
        value: the value's name where the node stands.
        output: its name in the outermost graph, where the values of a loop's steps lie stacked.
        loops: how many loops it lies in: that many leading axes of the stacked value count steps.
        within: in what it lies, as text; empty for the outermost graph.
        around: the loops that it lies in, outermost first.
    """

    node: onnx.NodeProto
    value: str
    output: str
    loops: int = 0
    within: str = ""
    around: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model whose inner values are visible.

    Attributes:
        model: the model.
        sites: its values, in the order in which they are computed.
        formal: inputs of loop bodies, {name: (the loop's key, position)}.
        predicates: {value: the side that it should decide on}, of conditions outside of loops.
        initializers: every tensor of the model by name, those of subgraphs too.
    """

    model: onnx.ModelProto
    sites: tuple[Site, ...]
    formal: Mapping[str, tuple[str, int]]
    predicates: Mapping[str, bool]
    initializers: Mapping[str, onnx.TensorProto]


def opened(model: onnx.ModelProto, branches: Mapping[str, Sequence[bool]]) -> Opened:
    """Return a copy whose inner values are visible.

    Args:
        model: the model, without functions.
        branches: the sides that each `If` takes, one an execution, by its key; one that takes both stays as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    opening = _Opening(branches, {name for node in model.graph.node for name in node.output})
    opening.names |= {value.name for value in (*model.graph.input, *model.graph.initializer)}
    sites = opening.graph(copy.graph, "")
    opening.initializers.update((tensor.name, tensor) for tensor in copy.graph.initializer)
    return Opened(copy, tuple(sites), opening.formal, opening.predicates, opening.initializers)


def display_name(node: onnx.NodeProto) -> str:
    """Return a node's name; for a node without one, the value that it makes."""
    return node.name or next((f"(node of {name})" for name in node.output if name), "(node without outputs)")


class _Opening:
    def __init__(self, branches: Mapping[str, Sequence[bool]], names: set[str]) -> None:
        self.branches, self.names = branches, names
        self.formal: dict[str, tuple[str, int]] = {}
        self.predicates: dict[str, bool] = {}
        self.initializers: dict[str, onnx.TensorProto] = {}

    def graph(self, graph: onnx.GraphProto, within: str) -> list[Site]:
        """Open a graph in place; return its sites as they are called in it."""
        sites: list[Site] = []
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            taken = set(self.branches.get(condition_key(node), ())) if node.op_type == "If" else set()
            if len(taken) == 1:
                side = taken.pop()
                self.predicates[node.input[0]] = side
                sites += self._branch(graph, node, side, within, nodes)
                continue
            if node.op_type == "Scan":
                sites += self._loop(node, within)
            nodes.append(node)
            own = [name for name in node.output if name and name not in {site.output for site in sites}]
            sites += [Site(node, name, name, 0, within) for name in own]
        kept = [_copied(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
        return sites

    def _branch(
        self, graph: onnx.GraphProto, node: onnx.NodeProto, side: bool, within: str, nodes: list[onnx.NodeProto]
    ) -> list[Site]:
        name = "then_branch" if side else "else_branch"
        branch = onnx.GraphProto()
        branch.CopyFrom(next(attribute.g for attribute in node.attribute if attribute.name == name))
        sites = self.graph(branch, f"{name} of {display_name(node)!r}" + (f", {within}" if within else ""))
        values = {}
        for made in [name for inner in branch.node for name in inside(inner)]:
            values[made] = self._unique(made)
        values |= {tensor.name: self._unique(tensor.name) for tensor in branch.initializer}
        computed = {name for inner in branch.node for name in inner.output}
        copied = []
        for result, output in zip(branch.output, node.output, strict=True):
            if result.name in computed and values[result.name] not in node.output:
                values[result.name] = output
            else:
                source = values.get(result.name, result.name)
                same = helper.make_node("Identity", [source], [output], f"{node.name}.{output}")
                same.metadata_props.extend(node.metadata_props)
                copied.append(same)
        for inner in branch.node:
            renamed(inner, values, lambda changed: None)
        for tensor in branch.initializer:
            tensor.name = values[tensor.name]
        graph.initializer.extend(branch.initializer)
        for info in branch.value_info:
            info.name = values.get(info.name, info.name)
        graph.value_info.extend(branch.value_info)
        nodes += [*map(_copied, branch.node), *copied]
        found = []
        for site in sites:
            changed = _copied(site.node)
            renamed(changed, values, lambda inner: None)
            value, output = values.get(site.value, site.value), values.get(site.output, site.output)
            found.append(dataclasses.replace(site, node=changed, value=value, output=output))
        return [*found, *(Site(same, same.output[0], same.output[0], 0, within) for same in copied)]

    def _loop(self, node: onnx.NodeProto, within: str) -> list[Site]:
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        key = read_notes(node).get("fx") or node.name
        self.formal.update((value.name, (key, position)) for position, value in enumerate(body.input))
        sites = self.graph(body, f"body of {display_name(node)!r}" + (f", {within}" if within else ""))
        self.initializers.update((tensor.name, tensor) for tensor in body.initializer)
        found = []
        for site in sites:
            inner, outer = self._unique(f"{site.output}.step"), self._unique(f"{site.output}.steps")
            body.node.append(helper.make_node("Identity", [site.output], [inner], inner))
            types = {info.name: info.type.tensor_type.elem_type for info in (*body.value_info, *body.output)}
            kind = types.get(site.output)
            body.output.append(
                helper.make_tensor_value_info(inner, kind, None) if kind else onnx.ValueInfoProto(name=inner)
            )
            node.output.append(outer)
            found.append(dataclasses.replace(site, output=outer, loops=site.loops + 1, around=(key, *site.around)))
        directions = next((a for a in node.attribute if a.name == "scan_output_directions"), None)
        if directions is not None:
            directions.ints.extend([0] * len(found))
        return found

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self.names:
            count += 1
            candidate = f"{name}_{count}"
        self.names.add(candidate)
        return candidate


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
