"""A recorded function run once more, on the sides that another run took where rounding leaves a decision open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import GraphModule, Interpreter, Node

from export.verdict.deciding_operators import COMPARISONS, JUMPS, PICKS, POOLS, REARRANGING, along_picked_axis
from export.verdict.error_ratio import FLOOR_ULP

__all__ = ["MAX_OPEN_MARGIN_ROUNDINGS", "FollowedRun", "Tally"]

aten: Any = torch.ops.aten

MAX_OPEN_MARGIN_ROUNDINGS = 8.0
"""The largest margin that leaves a decision open, in units of the operand's rounding; as for predicates of `If`."""


class Tally(NamedTuple):
    """The decisions of one operation, counted.

    Attributes:
        compared: how many decisions there were.
        followed: how many were open, and taken from the other run.
        clear: how many the other run took otherwise at a clear margin.
        margin: the largest margin that was followed, in units of the operand's rounding.
    """

    compared: int = 0
    followed: int = 0
    clear: int = 0
    margin: float = 0.0


class FollowedRun(Interpreter):
    """Runs a recorded graph, notes its decisions, and takes those of another run where rounding leaves them open.

    Args:
        graph: the graph.
        others: the decisions of the other run by operation; None to follow nobody.
        native: what the recorded function compares in its own precision, by operation.
        roundings: the rounding of each operand; None to measure it on the way.

    Attributes:
        sides: the decisions that were taken.
        operands: what they were taken on.
        targets: the operators that took them.
        rounding: root mean square of each operand's error in the function's own precision.
        tallies: how many decisions were followed.
    """

    def __init__(
        self,
        graph: GraphModule,
        others: Mapping[str, torch.Tensor] | None = None,
        native: Mapping[str, torch.Tensor] | None = None,
        roundings: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(graph)
        self.others, self.native, self.roundings = others or {}, native or {}, roundings
        self.sides: dict[str, torch.Tensor] = {}
        self.operands: dict[str, torch.Tensor] = {}
        self.targets: dict[str, Any] = {}
        self.rounding: dict[str, float] = {}
        self.tallies: dict[str, Tally] = {}
        self._before_relu: dict[str, torch.Tensor] = {}
        self._open_margins: dict[str, torch.Tensor] = {}

    def open_comparisons(self) -> list[tuple[str, int]]:
        """Return the comparisons that rounding leaves open, as operation and position, the closest first."""
        found = [
            (float(margin), name, int(index))
            for name, margins in self._open_margins.items()
            for index, margin in zip(margins.isfinite().nonzero().flatten(), margins[margins.isfinite()], strict=True)
        ]
        return [(name, index) for _, name, index in sorted(found)]

    def run_node(self, n: Node) -> Any:
        """Run one node; where it decides, take the other run's side if it is as good."""
        result = super().run_node(n)
        if n.op != "call_function":
            return result
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.target is aten.relu.default:
            self._before_relu[n.name] = args[0]
        elif n.target in REARRANGING and str(n.args[0]) in self._before_relu:
            moved: Any = n.target
            self._before_relu[n.name] = moved(self._before_relu[str(n.args[0])], *args[1:], **kwargs)
        if n.target in COMPARISONS or n.target in JUMPS:
            distance = self._distance(n, args)
            return result if distance is None else self._jump(n, distance, result)
        if (n.target in PICKS or n.target in POOLS) and args[0].is_floating_point() and args[0].dim():
            return self._pick(n, args, kwargs, result)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator; run the branch of a condition, whose own decisions the file does not show."""
        if target is torch.ops.higher_order.cond:
            pred, yes, no, operands = args
            return FollowedRun(yes if bool(pred) else no).run(*operands)
        return super().call_function(target, args, kwargs)

    def _distance(self, n: Node, args: Sequence[Any]) -> torch.Tensor | None:
        """Return how far the operand lies from the jump; relu's result hides it below 0, its input shows it."""
        x = args[0]
        if n.target in JUMPS:
            return JUMPS[n.target](x) if x.is_floating_point() else None
        y = args[1]
        if not any(isinstance(side, torch.Tensor) and side.is_floating_point() for side in (x, y)):
            return None
        hidden = self._before_relu.get(str(n.args[0]))
        if hidden is not None and isinstance(y, (int, float)) and y == 0:
            return hidden
        return x - y if isinstance(x, torch.Tensor) else y - x

    def _note(self, n: Node, operand: torch.Tensor, side: torch.Tensor) -> None:
        self.sides[n.name], self.operands[n.name], self.targets[n.name] = side, operand, n.target
        if n.name in self.native:
            self.rounding[n.name] = _rounding(self.native[n.name], operand)

    def _jump(self, n: Node, distance: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        self._note(n, distance, result)
        if n.name not in self.native or not self.others:
            return result
        other = self.others.get(n.name, result)  # what nobody shows may be open all the same
        if other.shape != result.shape:
            return result
        other = other.to(result.dtype)
        exact = self.native[n.name].double() == 0
        follow = self._open(n, distance, other != result, exact)
        result = torch.where(follow, other, result)
        self.sides[n.name] = result
        return result

    def _pick(self, n: Node, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
        picked = result[1] if isinstance(result, (tuple, list)) else result
        self._note(n, args[0], picked)
        other = self.others.get(n.name)
        if other is None or other.shape != picked.shape:
            return result
        values, mine, dim = along_picked_axis(n.target, args, kwargs, picked)
        rough, theirs, _ = along_picked_axis(n.target, (self.native[n.name], *args[1:]), kwargs, other)
        inside = (theirs >= 0) & (theirs < values.shape[dim])
        theirs = torch.where(inside, theirs, mine)
        gap = values.gather(dim, theirs) - values.gather(dim, mine)
        exact = rough.gather(dim, theirs) == rough.gather(dim, mine)
        follow = self._open(n, gap, (theirs != mine) | ~inside, exact | ~inside)
        chosen = torch.where(follow, theirs, mine)
        positions = chosen.reshape(picked.shape)
        if not isinstance(result, (tuple, list)):
            return positions
        return type(result)((values.gather(dim, chosen).reshape(result[0].shape), positions))

    def _open(self, n: Node, gap: torch.Tensor, differs: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        """Tell where the other side may be taken, and count; a gap of 0 that needed no rounding leaves nothing open."""
        rounding = self.rounding[n.name] if self.roundings is None else self.roundings.get(n.name, 0.0)
        near = (gap.abs() <= MAX_OPEN_MARGIN_ROUNDINGS * rounding) & ~((gap == 0) & exact)
        follow = differs & near
        if near.any() and differs.dtype == torch.bool and n.target in COMPARISONS:
            self._open_margins[n.name] = torch.where(near, gap.abs() / rounding, torch.inf).flatten()
        followed, clear = int(follow.sum()), int((differs & ~near).sum())
        margin = float(gap[follow].abs().max()) / rounding if followed and rounding else 0.0
        self.tallies[n.name] = Tally(differs.numel(), followed, clear, margin)
        return follow


def _rounding(native: torch.Tensor, operand: torch.Tensor) -> float:
    """Return the root mean square of an operand's error, not below the verdict's floor unless it is exact."""
    if not operand.numel():
        return 0.0
    error = float((native.double() - operand).square().mean().sqrt())
    floor = FLOOR_ULP * torch.finfo(native.dtype).eps * float(operand.square().mean().sqrt())
    return max(error, floor) if error else 0.0
