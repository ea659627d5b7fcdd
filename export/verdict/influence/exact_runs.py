"""A recorded graph in float64 throughout, without noise, so that autograd can see it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.fx import GraphModule, Node

from export.verdict.decisions import COMPARISONS
from export.verdict.noise_model import is_exact, is_float, name_of, widened
from export.verdict.reference_runs import Replay, in_any_layout

__all__ = ["exact_values"]


class _Exact(Replay):
    """Interprets a recorded graph in float64.

    Args:
        graph: the graph.
        forced: which branches conditions take, by their keys.
        in_parts: whether all operators are run as the ones that PyTorch makes them of, not only those without a
            derivative of their own.
        gaps: gathers how far the operands of each comparison lie apart.
        prefix: what the keys of its nodes begin with.
    """

    def __init__(
        self, graph: GraphModule, forced: Mapping[str, bool], in_parts: bool, gaps: list[Tensor], prefix: str = ""
    ) -> None:
        super().__init__(graph, forced, prefix)
        self.in_parts, self.gaps = in_parts, gaps

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        result = super().run_node(n)
        return widened(result) if n.op == "get_attr" else result

    def inner(self, graph: GraphModule, prefix: str) -> _Exact:
        """Return the interpreter of a subgraph, whose keys begin with this."""
        return _Exact(graph, self.forced, self.in_parts, self.gaps, prefix)

    def called(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator whole, or by the ones that it is made of where PyTorch has no derivative of the whole."""
        args, kwargs = tuple(map(widened, args)), {name: widened(a) for name, a in kwargs.items()}
        if name_of(target) in COMPARISONS and any(map(is_float, args[:2])):
            self.gaps.append(torch.as_tensor(args[0] - args[1]).detach())
        parts = decomposition_table.get(target)
        if parts is None or is_exact(name_of(target), args, kwargs):
            return in_any_layout(target)(*args, **kwargs)
        if not self.in_parts:
            with contextlib.suppress(RuntimeError):  # as of a normalisation with respect to its running statistics
                result = target(*args, **kwargs)
                if not _lacks_derivative(result):
                    return result
        found = parts(*args, **kwargs)
        return tuple(found) if isinstance(found, list) else found


def _lacks_derivative(result: Any) -> bool:
    """Tell whether autograd has no formula for what computed a result."""
    functions = (getattr(leaf, "grad_fn", None) for leaf in (result if isinstance(result, tuple | list) else (result,)))
    return any(type(function).__name__ == "NotImplemented" for function in functions)


def exact_values(
    graph: GraphModule,
    leaves: Sequence[Tensor],
    forced: Mapping[str, bool],
    *,
    compared: bool = False,
    in_parts: bool = False,
) -> list[Tensor]:
    """Return the outputs of a recorded graph in float64; autograd sees it, where gradients are enabled.

    Args:
        graph: the graph.
        leaves: its inputs.
        forced: which branches conditions take, by their keys.
        compared: whether to return too how far the operands of each comparison lie apart.
        in_parts: whether all operators are run as the ones that PyTorch makes them of, more of which have second
            derivatives; else only those without a derivative are.
    """
    gaps: list[Tensor] = []
    outputs = list(_Exact(graph, forced, in_parts, gaps).run(*map(widened, leaves)))
    return outputs + gaps if compared else outputs
