"""Products of matrices."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Rule, node_dtype

aten: Any = torch.ops.aten
_GEMM = (torch.float32, torch.float64, torch.float16)


def untransposed(arg: Any) -> tuple[Any, int]:
    """Look through a 2-D transpose, which Gemm does for nothing: (the matrix, 1 if it was transposed)."""
    if isinstance(arg, Node) and arg.op == "call_function":
        swap = arg.target == aten.t.default
        swap = swap or (arg.target == aten.permute.default and list(arg.args[1]) == [1, 0])  # type: ignore[arg-type]
        if arg.target == aten.transpose.int:
            swap = {int(d) % 2 for d in arg.args[1:]} == {0, 1}  # type: ignore[arg-type]
        if swap and arg.args[0].meta["val"].dim() == 2:  # type: ignore[union-attr]
            return arg.args[0], 1
    return arg, 0


def mm(g: Builder, node: Node, a: Any, b: Any, *_: Any) -> ir.Value:
    """Matrix times matrix."""
    left, swap_a = untransposed(a)
    right, swap_b = untransposed(b)
    if (swap_a or swap_b) and node_dtype(node) in _GEMM:
        return g.op("Gemm", g.tensor(left), g.tensor(right), transA=swap_a or None, transB=swap_b or None)
    return g.op("MatMul", g.tensor(a), g.tensor(b))


def addmm(g: Builder, node: Node, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> ir.Value:
    """beta·bias + alpha·a@b."""
    dtype = node_dtype(node)
    exact = dtype != torch.float64 or (float(alpha).is_integer() and float(beta).is_integer())
    if dtype in _GEMM and exact:
        left, swap_a = untransposed(a)
        right, swap_b = untransposed(b)
        attributes: dict[str, Any] = {
            "transA": swap_a or None,
            "transB": swap_b or None,
            "alpha": float(alpha) if alpha != 1 else None,
            "beta": float(beta) if beta != 1 else None,
        }
        return g.op("Gemm", g.tensor(left), g.tensor(right), g.tensor(bias, dtype), **attributes)
    return _affine(g, dtype, g.tensor(bias, dtype), g.op("MatMul", g.tensor(a), g.tensor(b)), beta, alpha)


def baddbmm(g: Builder, node: Node, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> ir.Value:
    """Batched addmm."""
    dtype = node_dtype(node)
    return _affine(g, dtype, g.tensor(bias, dtype), g.op("MatMul", g.tensor(a), g.tensor(b)), beta, alpha)


def _affine(g: Builder, dtype: torch.dtype, bias: ir.Value, product: ir.Value, beta: float, alpha: float) -> ir.Value:
    if alpha != 1:
        product = g.op("Mul", product, g.constant(alpha, dtype))
    if beta == 0:
        return product
    if beta != 1:
        bias = g.op("Mul", bias, g.constant(beta, dtype))
    return g.op("Add", product, bias)


def matmul(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
    """numpy's matmul, which ONNX has."""
    return g.op("MatMul", g.tensor(a), g.tensor(b))


def bmm(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
    """A product a batch entry. Outer products, as per-sample gradients of one row are, go faster as plain products."""
    kind = "Mul" if g.static(g.shape_of(a)[2]) == 1 else "MatMul"
    return g.op(kind, g.tensor(a), g.tensor(b))


def mv(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
    """Matrix times vector, as a column: ONNX Runtime 1.31 fuses a transpose into a product with a vector wrongly."""
    left, swap = untransposed(a)
    column = g.unsqueeze(g.tensor(b), 1)
    if swap and node_dtype(node) in _GEMM:
        product = g.op("Gemm", g.tensor(left), column, transA=1)
    else:
        product = g.op("MatMul", g.tensor(a), column)
    return g.op("Squeeze", product, g.constant([1]))


def addmv(g: Builder, node: Node, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> ir.Value:
    """beta·bias + alpha·a@vector."""
    dtype = node_dtype(node)
    return _affine(g, dtype, g.tensor(bias, dtype), mv(g, node, a, b), beta, alpha)


def det(g: Builder, node: Node, x: Any) -> tuple[ir.Value, None, None]:
    """The determinant; the factors that PyTorch keeps for its derivative have no ONNX form."""
    return g.op("Det", g.tensor(x)), None, None


TABLE: dict[Any, Rule] = {
    aten.mm.default: mm,
    aten.addmm.default: addmm,
    aten.bmm.default: bmm,
    aten.baddbmm.default: baddbmm,
    aten.matmul.default: matmul,
    aten.mv.default: mv,
    aten.dot.default: matmul,
    aten.vdot.default: matmul,
    aten.addmv.default: addmv,
    aten._linalg_det.default: det,
}
"""Matrix products."""
