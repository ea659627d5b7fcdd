"""From a recorded graph to ONNX nodes: the graph itself, and those of branches and of loop bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import GraphModule, Node

from export.graph.builder import Builder, Scope
from export.graph.onnx_types import ONNX_TYPES

__all__ = ["lower_graph", "lower_subgraph", "reads", "swept"]


def lower_graph(g: Builder, module: GraphModule) -> list[ir.Value]:
    """Translate a recorded graph whose placeholders have values already; return its flat outputs.

    Raises:
        UnsupportedOpError: naming the operation, its dtype, the source line and the block.
    """
    for node in module.graph.nodes:
        g.origin = node
        if node.op == "get_attr":
            attribute = getattr(module, str(node.target))
            if isinstance(attribute, torch.Tensor):
                g.values[node] = g.captured(attribute)
                node.meta.setdefault("val", attribute)
        elif node.op == "call_function":
            g.values[node] = _lower(g, node)
            g.annotate(g.values[node], node.meta.get("val"))
        elif node.op == "output":
            flat = node.args[0] if isinstance(node.args[0], (tuple, list)) else [node.args[0]]
            return [g.tensor(item) for item in flat]
    raise AssertionError("a recorded graph has an output")


def _lower(g: Builder, node: Node) -> Any:
    try:
        return g.lowering(node.target)(g, node, *node.args, **node.kwargs)
    except KeyError as error:
        key = error.args[0]
        if isinstance(key, torch.dtype):
            raise g.unsupported(f"an exported file cannot hold {key}") from error
        raise


def lower_subgraph(
    g: Builder, node: Node, target: Node, values: Sequence[Any], inputs: int = 0, kept: Sequence[int] | None = None
) -> ir.Graph:
    """Translate the graph that an operator holds: a branch of a condition, the body of a loop.

    Args:
        g: the builder.
        node: the operator.
        target: the argument that names its graph.
        values: what the graph's placeholders stand for, nodes or numbers.
        inputs: how many placeholders become inputs; the others read the surrounding graph's values directly.
        kept: positions of the results to keep, all by default.
    """
    owner = node.graph.owning_module
    module = owner.get_submodule(str(target.target)) if owner is not None else None
    if not isinstance(module, GraphModule):
        raise g.unsupported("its graph was not recorded")
    prefix, origin = g.prefix, g.origin
    g.prefix = f"{prefix}{target.target}."
    g.scopes.append(Scope([], {}))
    placeholders = module.graph.find_nodes(op="placeholder")
    own = [_input(g, node, placeholder) for placeholder in placeholders[:inputs]]
    outer = [g.values[value] if isinstance(value, Node) else g.constant([value]) for value in values[inputs:]]
    g.values.update(zip(placeholders, [*own, *outer], strict=True))
    results = lower_graph(g, module)
    g.origin = origin
    (output,) = module.graph.find_nodes(op="output")
    made = {value for inner in g.scopes[-1].nodes for value in inner.outputs}
    outputs: list[ir.Value] = []
    for i in range(len(results)) if kept is None else kept:
        value = results[i] if results[i] in made and results[i] not in outputs else _identity(g, results[i])
        value.shape = g.recorded_shape(output.args[0][i].meta["val"])
        outputs.append(value)
    scope = g.scopes.pop()
    g.prefix = prefix
    return ir.Graph(own, outputs, nodes=scope.nodes, name=g.unique(f"{node.name}.{target.target}"))


def _input(g: Builder, node: Node, placeholder: Node) -> ir.Value:
    example = placeholder.meta["val"]
    kind = ir.TensorType(ONNX_TYPES[example.dtype])
    value = ir.Value(name=g.unique(f"{node.name}.{placeholder.name}"), shape=g.recorded_shape(example), type=kind)
    g.dtypes[value] = example.dtype
    return value


def _identity(g: Builder, value: ir.Value) -> ir.Value:
    """Add an Identity even where an equal one exists in an outer graph."""
    g.scopes[-1].computed.clear()
    count = len(g.scopes[-1].nodes)
    result = g.op("Identity", value)
    if len(g.scopes[-1].nodes) == count:
        raise AssertionError("an Identity was reused")
    return result


def reads(node: ir.Node) -> set[ir.Value]:
    """Return the values that a node uses, those used inside its branches included."""
    found = {value for value in node.inputs if value is not None}
    for attribute in node.attributes.values():
        if isinstance(attribute.value, ir.Graph):
            for inner in attribute.value:
                found |= reads(inner)
            found |= set(attribute.value.outputs)
    return found


def swept(nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> list[ir.Node]:
    """Drop nodes that no output needs."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            for attribute in node.attributes.values():
                if isinstance(attribute.value, ir.Graph):
                    inner = swept(list(attribute.value), attribute.value.outputs)
                    attribute.value.remove([n for n in attribute.value if n not in set(inner)])
            kept.append(node)
            needed |= reads(node)
    return kept[::-1]
