"""A recorded graph in float64 throughout, without noise, so that autograd can see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.fx import GraphModule, Interpreter, Node

from export.ops.scan.operator import looped, scan_op
from export.verdict.decisions import COMPARISONS
from export.verdict.noise_model import is_exact, is_float, name_of, widened

__all__ = ["exact_values"]

aten: Any = torch.ops.aten


@dataclasses.dataclass
class _Settings:
    """What a run shares with its subgraphs: branches to take, how operators are run, and the gaps of comparisons."""

    forced: Mapping[str, bool]
    in_parts: bool
    gaps: list[Tensor]


class _Exact(Interpreter):
    """Interprets a recorded graph in float64."""

    def __init__(self, graph: GraphModule, settings: _Settings, prefix: str = "") -> None:
        super().__init__(graph)
        self.settings, self.prefix = settings, prefix
        self.node: Node | None = None

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        self.node = n
        result = super().run_node(n)
        return widened(result) if n.op == "get_attr" else result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator, the branch of a condition, or the steps of a loop."""
        node = self.node
        assert node is not None
        if target is torch.ops.higher_order.cond:
            side = self.settings.forced.get(self.prefix + node.name, bool(args[0]))
            return self._inner(args[1] if side else args[2], node, 1 if side else 2).run(*args[3])
        if target is scan_op:
            return looped(self._inner(args[0], node, 0).run, *args[1:])
        args, kwargs = tuple(map(widened, args)), {name: widened(a) for name, a in kwargs.items()}
        if name_of(target) in COMPARISONS and any(map(is_float, args[:2])):
            self.settings.gaps.append(torch.as_tensor(args[0] - args[1]).detach())
        return self._called(target, args, kwargs)

    def _inner(self, graph: GraphModule, node: Node, place: int) -> _Exact:
        return _Exact(graph, self.settings, f"{self.prefix}{getattr(node.args[place], 'target', node.name)}.")

    def _called(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator whole, or by the ones that it is made of where PyTorch has no derivative of the whole."""
        if target == aten._native_batch_norm_legit_no_training.default:
            x, weight, bias, mean, variance, momentum, eps = args
            whole = decomposition_table[aten._native_batch_norm_legit.default]
            return tuple(whole(x, weight, bias, mean, variance, False, momentum, eps))
        parts = decomposition_table.get(target)
        if parts is None or not self.settings.in_parts or is_exact(name_of(target), args, kwargs):
            return target(*args, **kwargs)
        found = parts(*args, **kwargs)
        return tuple(found) if isinstance(found, list) else found


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
        in_parts: whether operators are run as the ones that PyTorch makes them of, more of which have derivatives.
    """
    settings = _Settings(forced, in_parts, [])
    outputs = list(_Exact(graph, settings).run(*map(widened, leaves)))
    return outputs + settings.gaps if compared else outputs
