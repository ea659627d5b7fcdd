"""Loops: ONNX Scan, whose body holds the step once and reads the surrounding graph's values directly."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import GraphModule, Node

from export.graph.builder import ONNX_TYPES, Builder, Rule, Scope
from export.ops.control import _identity
from export.ops.scan_operator import scan_op


def scan(
    g: Builder, node: Node, body: Node, carry: Sequence[Node], xs: Sequence[Node], extra: Sequence[Any], reverse: bool
) -> tuple[ir.Value | None, ...]:
    """A loop; stacked results that nobody reads are left out."""
    examples: Sequence[torch.Tensor] = node.meta["val"]
    read = {user.args[1] for user in node.users if user.target is operator.getitem and user.users}
    kept = [i for i in range(len(examples)) if i < len(carry) or i in read]
    graph = _body(g, node, body, [*carry, *xs], len(carry), extra, kept)
    ys = len(kept) - len(carry)
    outputs = g.ops(
        "Scan",
        *(g.tensor(value) for value in (*carry, *xs)),
        count=len(kept),
        dtypes=[examples[i].dtype for i in kept],
        body=graph,
        num_scan_inputs=len(xs),
        scan_input_directions=[1] * len(xs) if reverse else None,
        scan_output_directions=[1] * ys if reverse and ys else None,
    )
    found = dict(zip(kept, outputs, strict=True))
    for i, value in found.items():
        g.annotate(value, examples[i])
    producer = outputs[0].producer()
    if producer is not None:
        producer.metadata_props["results"] = " ".join(map(str, kept))
    return tuple(found.get(i) for i in range(len(examples)))


def _body(
    g: Builder, node: Node, body: Node, taken: Sequence[Node], carries: int, extra: Sequence[Any], kept: Sequence[int]
) -> ir.Graph:
    from export.ops.registry import lower_nodes  # the two call each other

    owner = node.graph.owning_module
    module = owner.get_submodule(str(body.target)) if owner is not None else None
    if not isinstance(module, GraphModule):
        raise g.unsupported("the step was not recorded")
    prefix, origin = g.prefix, g.origin
    g.prefix = f"{prefix}{body.target}."
    g.scopes.append(Scope([], {}))
    placeholders = module.graph.find_nodes(op="placeholder")
    inputs = [_input(g, node, placeholder) for placeholder in placeholders[: len(taken)]]
    for placeholder, value in zip(placeholders, [*inputs, *extra], strict=True):
        known = value if isinstance(value, ir.Value) else g.values[value] if isinstance(value, Node) else None
        g.values[placeholder] = known if known is not None else g.constant([value])
    results = lower_nodes(g, module)
    g.origin = origin
    (output,) = module.graph.find_nodes(op="output")
    own = {value for inner in g.scopes[-1].nodes for value in inner.outputs}
    outputs: list[ir.Value] = []
    for i in kept:
        result = results[i]
        value = result if result in own and result not in outputs else _identity(g, result)
        value.shape = ir.Shape([g.sizes.dimension(size) for size in output.args[0][i].meta["val"].shape])
        outputs.append(value)
    scope = g.scopes.pop()
    g.prefix = prefix
    return ir.Graph(inputs, outputs, nodes=scope.nodes, name=g.unique(f"{node.name}.{body.target}"))


def _input(g: Builder, node: Node, placeholder: Node) -> ir.Value:
    example = placeholder.meta["val"]
    shape = ir.Shape([g.sizes.dimension(size) for size in example.shape])
    value = ir.Value(
        name=g.unique(f"{node.name}.{placeholder.name}"), shape=shape, type=ir.TensorType(ONNX_TYPES[example.dtype])
    )
    g.dtypes[value] = example.dtype
    return value


TABLE: dict[Any, Rule] = {scan_op: scan}
"""Loops."""
