"""What is not arithmetic on tensors: picking results, sizes as numbers, and conditions."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import GraphModule, Node

from export.graph.builder import Builder, Rule, Scope

aten: Any = torch.ops.aten


def getitem(g: Builder, node: Node, values: Any, position: int) -> Any:
    """Pick one of several results."""
    picked = g.values[values][position]
    if picked is None:
        raise g.unsupported(f"result {position} of {values.target} has no ONNX form")
    return picked


def sym_size(g: Builder, node: Node, x: Any, dim: int) -> ir.Value:
    """The size of an axis."""
    fixed = g.static(node)
    if fixed is not None:
        return g.constant([fixed])
    rank = len(g.shape_of(x))
    return g.dim(g.tensor(x), dim % rank)


def sym_numel(g: Builder, node: Node, x: Any) -> ir.Value:
    """The number of elements."""
    return g.op("Reshape", g.op("Size", g.tensor(x), dtype=torch.int64), g.constant([1]))


def _number(g: Builder, arg: Any, dtype: torch.dtype) -> ir.Value:
    if isinstance(arg, Node):
        return g.cast(g.values[arg], dtype)
    return g.constant([arg], dtype)


def _kind(args: Sequence[Any]) -> torch.dtype:
    values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
    return torch.float64 if any(isinstance(v, (torch.SymFloat, float)) for v in values) else torch.int64


def arithmetic(kind: str, dtype: torch.dtype | None = None) -> Rule:
    """Arithmetic on sizes."""

    def rule(g: Builder, node: Node, *args: Any) -> ir.Value:
        inner = dtype or _kind(args)
        total = _number(g, args[0], inner)
        for arg in args[1:]:
            total = g.op(kind, total, _number(g, arg, inner))
        return total

    return rule


def sym_sum(g: Builder, node: Node, args: Sequence[Any]) -> ir.Value:
    """Sum of sizes."""
    return arithmetic("Add")(g, node, *args)


def floor_div(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
    """Python's ``//``; sizes are not negative, differences of them may be."""
    left, right = _number(g, a, torch.int64), _number(g, b, torch.int64)
    rest = g.op("Mod", left, right)
    return g.op("Div", g.op("Sub", left, rest), right)


def negative(g: Builder, node: Node, a: Any) -> ir.Value:
    """Minus."""
    return g.op("Neg", _number(g, a, _kind([a])))


def rounded(kind: str) -> Rule:
    """Floor or ceiling of a quotient of sizes."""

    def rule(g: Builder, node: Node, a: Any) -> ir.Value:
        return g.cast(g.op(kind, _number(g, a, torch.float64)), torch.int64)

    return rule


def as_float(g: Builder, node: Node, a: Any) -> ir.Value:
    """A size as a number with a fraction."""
    return _number(g, a, torch.float64)


def as_int(g: Builder, node: Node, a: Any) -> ir.Value:
    """Round towards zero."""
    return g.cast(_number(g, a, torch.float64), torch.int64)


def power(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
    """Power of sizes."""
    return g.op("Pow", _number(g, a, _kind([a, b])), _number(g, b, _kind([a, b])))


def square_root(g: Builder, node: Node, a: Any) -> ir.Value:
    """Square root of a size."""
    return g.op("Sqrt", _number(g, a, torch.float64))


def compared(kind: str, negate: bool = False) -> Rule:
    """Comparison of sizes, as a boolean of shape (1,)."""

    def rule(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
        inner = _kind([a, b])
        result = g.op(kind, _number(g, a, inner), _number(g, b, inner), dtype=torch.bool)
        return g.op("Not", result) if negate else result

    return rule


def condition(g: Builder, node: Node, pred: Any, yes: Any, no: Any, operands: Sequence[Any]) -> tuple[ir.Value, ...]:
    """``torch.cond``: If, whose branches read the surrounding graph's values directly."""
    branches = [_branch(g, node, branch, operands) for branch in (yes, no)]
    count = len(branches[0].outputs)
    predicate = g.op("Reshape", g.tensor(pred), g.constant([]))
    dtypes = [value.dtype for value in node.meta["val"]]
    return g.ops("If", predicate, count=count, dtypes=dtypes, then_branch=branches[0], else_branch=branches[1])


def _branch(g: Builder, node: Node, branch: Node, operands: Sequence[Any]) -> ir.Graph:
    from export.ops.registry import lower_nodes  # the two call each other

    owner = node.graph.owning_module
    module = owner.get_submodule(str(branch.target)) if owner is not None else None
    if not isinstance(module, GraphModule):
        raise g.unsupported("the branch was not recorded")
    prefix, origin = g.prefix, g.origin
    g.prefix = f"{prefix}{branch.target}."
    g.scopes.append(Scope([], {}))
    placeholders = module.graph.find_nodes(op="placeholder")
    for placeholder, operand in zip(placeholders, operands, strict=True):
        g.values[placeholder] = g.values[operand] if isinstance(operand, Node) else g.constant([operand])
    results = lower_nodes(g, module)
    g.origin = origin
    own = {output for inner in g.scopes[-1].nodes for output in inner.outputs}
    outputs: list[ir.Value] = []
    for result, example in zip(results, node.meta["val"], strict=True):
        value = result if result in own and result not in outputs else _identity(g, result)
        value.shape = ir.Shape([g.sizes.dimension(size) for size in example.shape])
        outputs.append(value)
    scope = g.scopes.pop()
    g.prefix = prefix
    return ir.Graph([], outputs, nodes=scope.nodes, name=g.unique(f"{node.name}.{branch.target}"))


def _identity(g: Builder, value: ir.Value) -> ir.Value:
    """Add an Identity even where an equal one exists in an outer graph."""
    g.scopes[-1].computed.clear()
    count = len(g.scopes[-1].nodes)
    result = g.op("Identity", value)
    if len(g.scopes[-1].nodes) == count:
        raise AssertionError("an Identity was reused")
    return result


TABLE: dict[Any, Rule] = {
    operator.getitem: getitem, aten.sym_size.int: sym_size, aten.sym_numel.default: sym_numel,
    operator.add: arithmetic("Add"), operator.sub: arithmetic("Sub"), operator.mul: arithmetic("Mul"),
    operator.truediv: arithmetic("Div", torch.float64), operator.floordiv: floor_div, operator.mod: arithmetic("Mod"),
    operator.neg: negative, operator.pow: power, torch.sym_sum: sym_sum, torch.sym_max: arithmetic("Max"),
    torch.sym_min: arithmetic("Min"), torch.sym_float: as_float, torch.sym_int: as_int, math.floor: rounded("Floor"),
    math.ceil: rounded("Ceil"), math.trunc: as_int, torch.sym_sqrt: square_root,
    operator.eq: compared("Equal"), operator.ne: compared("Equal", True), operator.lt: compared("Less"),
    operator.le: compared("LessOrEqual"), operator.gt: compared("Greater"), operator.ge: compared("GreaterOrEqual"),
    torch.ops.higher_order.cond: condition,
}  # fmt: skip
"""Picking, sizes, conditions."""
