"""Products of matrices, and the linear maps made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype

__all__ = ["COMPOSITES", "DECOMPOSITIONS", "LOWERINGS"]

aten: Any = torch.ops.aten

_GEMM_DTYPES = (torch.float32, torch.float64, torch.float16)


MIN_OUTER_PRODUCT = 2**8
"""Elements of one outer product from which MatMul is as fast as Mul."""

MAX_OUTER_PRODUCTS = 2**20
"""Elements of all outer products of a batch up to which it is."""


def untransposed(arg: Any) -> tuple[Any, int]:
    """Return the matrix behind a 2-D transpose, which Gemm does for free, and 1 if there was one."""
    if isinstance(arg, Node) and arg.op == "call_function":
        swap = arg.target == aten.t.default
        swap = swap or (arg.target == aten.permute.default and list(arg.args[1]) == [1, 0])  # type: ignore[arg-type]
        if arg.target == aten.transpose.int:
            swap = {int(d) % 2 for d in arg.args[1:]} == {0, 1}  # type: ignore[arg-type]
        if swap and arg.args[0].meta["val"].dim() == 2:  # type: ignore[union-attr]
            return arg.args[0], 1
    return arg, 0


def mm(g: Builder, node: Node, a: Any, b: Any, *_: Any) -> ir.Value:
    """Multiply matrices."""
    left, swap_a = untransposed(a)
    right, swap_b = untransposed(b)
    if (swap_a or swap_b) and node_dtype(node) in _GEMM_DTYPES:
        return g.op("Gemm", g.tensor(left), g.tensor(right), transA=swap_a or None, transB=swap_b or None)
    return g.op("MatMul", g.tensor(a), g.tensor(b))


def addmm(g: Builder, node: Node, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> ir.Value:
    """beta·bias + alpha·a@b."""
    dtype = node_dtype(node)
    exact = dtype != torch.float64 or (float(alpha).is_integer() and float(beta).is_integer())
    inner = g.static(g.shape_of(a)[1])
    whole = beta == 1 or (inner is not None and inner > 0)  # ONNX Runtime's Gemm forgets beta where nothing is summed
    if dtype in _GEMM_DTYPES and exact and whole:
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
    """beta·bias + alpha·a@b, batched."""
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
    """Lower to MatMul, which broadcasts as numpy's."""
    return g.op("MatMul", g.tensor(a), g.tensor(b))


def bmm(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
    """Multiply matrices of a batch; outer products, such as per-sample gradients, by what is faster."""
    outer = g.static(g.shape_of(a)[2]) == 1
    kind = "Mul" if outer and not _pays_as_product(g, a, b) else "MatMul"
    return g.op(kind, g.tensor(a), g.tensor(b))


def _pays_as_product(g: Builder, a: Any, b: Any) -> bool:
    """Whether outer products are faster as products of matrices on a CPU: neither tiny nor larger than its cache."""
    batch, rows, columns = (g.static(size) for size in (*g.shape_of(a)[:2], g.shape_of(b)[2]))
    if g.target == "cuda" or batch is None or rows is None or columns is None:
        return False
    return rows * columns >= MIN_OUTER_PRODUCT and batch * rows * columns <= MAX_OUTER_PRODUCTS


def mv(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
    """Multiply a matrix and a column: ONNX Runtime 1.31 fuses a transpose into a product with a vector wrongly."""
    left, swap = untransposed(a)
    column = g.unsqueeze(g.tensor(b), 1)
    if swap and node_dtype(node) in _GEMM_DTYPES:
        product = g.op("Gemm", g.tensor(left), column, transA=1)
    else:
        product = g.op("MatMul", g.tensor(a), column)
    return g.op("Squeeze", product, g.constant([1]))


def addmv(g: Builder, node: Node, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> ir.Value:
    """beta·bias + alpha·a@vector."""
    dtype = node_dtype(node)
    return _affine(g, dtype, g.tensor(bias, dtype), mv(g, node, a, b), beta, alpha)


def det(g: Builder, node: Node, x: Any) -> tuple[ir.Value, None, None]:
    """Lower to Det; the factors that PyTorch keeps for the gradient have no ONNX form."""
    return g.op("Det", g.tensor(x)), None, None


def _addbmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    """beta·bias + alpha·Σ a@b over the batch."""
    total = alpha * torch.bmm(a, b).sum(0)
    return total if beta == 0 else beta * bias + total


def _trilinear(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    expand_a: Any,
    expand_b: Any,
    expand_c: Any,
    dims: Any,
    unroll: int = 1,
) -> torch.Tensor:
    """Compute the three-factor product of `torch.nn.functional.bilinear`."""
    parts = []
    for x, axes in ((a, expand_a), (b, expand_b), (c, expand_c)):
        for axis in sorted(axes):
            x = x.unsqueeze(axis)
        parts.append(x)
    return (parts[0] * parts[1] * parts[2]).sum(list(dims))


def _unchecked(*_: Any, **__: Any) -> None:
    """Skip the check of a factorisation's result; the factorisation itself is an error later, with its name."""


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `aten.linear` by one matrix product, the leading axes flattened into rows."""
    turned = weight.t()
    if x.dim() < 2:
        result = torch.matmul(x, turned)
        return result if bias is None else result + bias
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    result = torch.mm(rows, turned) if bias is None else torch.addmm(bias, rows, turned)
    return result if x.dim() == 2 else result.reshape(*x.shape[:-1], weight.shape[0])


LOWERINGS: dict[Any, Lowering] = {
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

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.addbmm.default: _addbmm,
    aten._trilinear.default: _trilinear,
    aten._linalg_check_errors.default: _unchecked,
}

COMPOSITES: dict[Any, Callable[..., Any]] = {aten.linear.default: _linear}
