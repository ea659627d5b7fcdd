"""Tangents that are zero because nothing depends on the direction: terms with them are removed.

Forward-mode derivatives add up a term for each argument; for one without a tangent PyTorch puts in a marked tensor of
zeros, and its kernels skip the work. A recording keeps the mark (`recording.zero_tangent`), and this follows it.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.fx import GraphModule, Node

__all__ = ["drop", "recorded_sizes", "recorded_value"]

aten: Any = torch.ops.aten

PASSED_ON: Final = frozenset(
    {
        aten.alias.default,
        aten.clone.default,
        aten.detach.default,
        aten.expand.default,
        aten.neg.default,
        aten.permute.default,
        aten.reshape.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.sum.default,
        aten.sum.dim_IntList,
        aten.t.default,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
        aten._to_copy.default,
        aten._unsafe_view.default,
    }
)
"""Operators that map zeros to zeros."""

PRODUCTS: Final = frozenset({aten.mul.Tensor, aten.mm.default, aten.bmm.default})
"""Operators that are zero where one of two factors is; PyTorch skips the same, whatever the other holds."""

QUOTIENTS: Final = frozenset({aten.div.Tensor, aten.div.Scalar, aten.mul.Scalar})
"""Operators that are zero where the first argument is."""

SUMS: Final = frozenset({aten.add.Tensor, aten.sub.Tensor})
"""Operators whose zero terms can be left out."""


def drop(graph: GraphModule) -> None:
    """Remove zero terms from sums; dead code elimination then removes what nothing reads."""
    zeros: set[Node] = set()
    for node in graph.graph.nodes:
        if node.meta.get("zero") or _is_zero(node, zeros):
            zeros.add(node)
        elif node.target in SUMS:
            left = _other_term(node, zeros)
            if left is not None:
                node.replace_all_uses_with(left)


def _is_zero(node: Node, zeros: set[Node]) -> bool:
    """Tell whether an operator's result is zero because its arguments are."""
    given = [argument in zeros for argument in node.args[:2]] if zeros else []
    if node.target is aten.mean.dim and any(given[:1]):
        sizes = recorded_sizes(recorded_value(node.args[0]))
        return all(isinstance(size, int) and size > 0 for size in sizes)  # the mean of nothing is not zero
    if node.target is aten.convolution.default:
        return any(given) and (node.args[2] is None or node.args[2] in zeros)
    if node.target in PASSED_ON or node.target in QUOTIENTS:
        return any(given[:1])
    return any(given) if node.target in PRODUCTS else node.target in SUMS and given == [True, True]


def _other_term(node: Node, zeros: set[Node]) -> Node | None:
    """Return the term that a sum equals, if the other is zero and it has the sum's shape and dtype."""
    first, second = node.args[:2]
    kept = first if second in zeros else second if first in zeros and node.target is aten.add.Tensor else None
    if not isinstance(kept, Node) or (kept is second and node.kwargs.get("alpha", 1) != 1):
        return None
    value, result = recorded_value(kept), recorded_value(node)
    same = value is not None and result is not None and value.dtype == result.dtype
    return kept if same and recorded_sizes(value) == recorded_sizes(result) else None


def recorded_value(node: Any) -> Any:
    """Return the tensor that was recorded for a node, None if there is none."""
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def recorded_sizes(value: Any) -> list[Any]:
    """Return the sizes as numbers or expressions, whose comparison sets no guard."""
    return [size.node.expr if isinstance(size, torch.SymInt) else size for size in value.shape]
