"""Operators that decide by value: comparisons, derivatives of relu, positions of the largest, roundings to integers.

Rounding leaves a decision open where its operand lies within `REACH` of its own scales from the jump. Such a decision
may be taken either way by a correct implementation.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from export.verdict.noise_model import cast_to, is_float, name_of

__all__ = [
    "COMPARISONS",
    "FEW_FOLLOWED",
    "FOLLOWED_SHARE",
    "LEAST_TIE",
    "PICKS",
    "REACH",
    "Decision",
    "Pick",
    "decided",
    "decision_of",
    "is_stable",
    "margins",
    "pick_axis",
    "positions_of",
    "standing_at",
]

REACH = 8.0
"""How many of its own scales an operand may lie from a jump to leave the decision open."""

FOLLOWED_SHARE, FEW_FOLLOWED = 1 / 20, 4
"""Which share of an operator's picks, and how many in any case, may follow another's choice between unequal values."""

LEAST_TIE = 1e-300
"""What moves equal values apart where rounding moves none of them: less than any difference of two values."""

COMPARISONS = frozenset({"gt", "ge", "lt", "le", "eq", "ne"})
JUMPS = frozenset({"sign", "sgn", "floor", "ceil", "trunc", "round"})
PICKS = frozenset(
    {"topk", "sort", "argmax", "argmin", "max", "min", "max_pool2d_with_indices", "max_pool3d_with_indices"}
)
"""Operators that pick positions by value; of equal values they may pick any."""

VIEWS = frozenset(
    {"alias", "clone", "detach", "expand", "permute", "reshape", "select", "slice", "squeeze", "transpose", "unsqueeze"}
    | {"view", "_unsafe_view", "t"}
)
"""Operators whose result holds the values of their first argument in other places."""

Operand = Callable[[str, Tensor], Tensor]
"""Notes what a decision of that kind looks at, and returns it as it is or moved within its rounding."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """One operator that decides by value.

    Attributes:
        node: its key: the names of the nodes that lead to it, through subgraphs too.
        op: the operator's name.
        path: the block it belongs to.
        source: the line of the function's source.
        margin: the smallest distance of an operand from the jump among those left open, else among all; of a
            comparison with the sign of left − right.
        scale: the rounding scale of that operand.
        open: how many of its elements rounding leaves open.
        compared: how many elements it has.
    """

    node: str
    op: str
    path: str
    source: str
    margin: float
    scale: float
    open: int
    compared: int

    def __str__(self) -> str:
        place = (
            ", ".join(text for text in (self.path and f"block {self.path}", self.source) if text) or "no source line"
        )
        return f"{self.op} ({place or 'no source line'}): rounding leaves {self.open} of {self.compared} decisions open"


def picks_positions(node: Node) -> bool:
    """Tell whether the positions that an operator picks are read; its values alone do not jump."""
    value = node.meta.get("val")
    if not isinstance(value, (tuple, list)):
        return True
    return any(user.target is not operator.getitem or user.args[1] == 1 for user in node.users)


def feeds_comparison(node: Node) -> bool:
    """Tell whether a relu's result, or a view of it, is what something compares: relu's derivative, as recorded."""
    return any(
        name_of(user.target) in COMPARISONS or (name_of(user.target) in VIEWS and feeds_comparison(user))
        for user in node.users
    )


def _shows_relu(value: Any) -> bool:
    """Tell whether a compared value is a relu's result, which hides how far below 0 its argument lies."""
    while isinstance(value, Node) and name_of(value.target) in VIEWS:
        value = value.args[0]
    return isinstance(value, Node) and name_of(value.target) == "relu"


def decided(target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], node: Node, operand: Operand) -> Any:
    """Return what an operator decides, by the operand as `operand` moves it; None if it decides nothing."""
    x: Any = args[0] if args else None
    if name == "relu" and feeds_comparison(node):
        return target(operand(name, x))
    if name in COMPARISONS and any(is_float(a) for a in args[:2]) and not any(map(_shows_relu, node.args[:2])):
        gap = args[0] - args[1] if isinstance(x, Tensor) else -(args[1] - args[0])
        moved = operand(name, gap)
        exact = target(*args, **kwargs)
        return exact if moved is gap else torch.where(gap.isfinite(), getattr(torch, name)(moved, 0.0), exact)
    if not is_float(x):
        return None
    if name == "threshold_backward":
        return torch.where(operand("relu'", args[1] - args[2]) > 0, x, torch.zeros_like(x))
    if name in JUMPS:
        return target(operand(name, x), *args[1:], **kwargs)
    dtype = cast_to(name, args, kwargs)
    if dtype is not None and not dtype.is_floating_point:
        kind = "ne" if dtype == torch.bool else "trunc"
        return target(operand(kind, x), *args[1:], **kwargs)
    if name in PICKS and x.dim() and picks_positions(node):
        return _picked(target, name, args, kwargs, node, operand(name, x))
    return None


def _picked(target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], node: Node, order: Tensor) -> Any:
    """Return positions by `order`, and the values that stand there."""
    x = args[0]
    result = target(order, *args[1:], **kwargs)
    if order is x or isinstance(result, Tensor):
        return target(*args, **kwargs) if is_float(result) else result
    positions = result[1]
    if name.startswith("max_pool"):
        axes = 2 if "2d" in name else 3
        return x.flatten(-axes).gather(-1, positions.flatten(-axes)).view(positions.shape), positions
    return standing_at(node, x, positions)


def standing_at(node: Node, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values at the positions that an operator picks along its axis, and these."""
    dim = pick_axis(node)
    assert dim is not None
    kept = positions.dim() == x.dim()
    values = x.gather(dim, positions if kept else positions.unsqueeze(dim))
    return values if kept else values.squeeze(dim), positions


def positions_of(kind: str, result: Any) -> Tensor | None:
    """Return the positions among an operator's results; None of operators that pick none along an axis."""
    if kind not in PICKS or kind.startswith("max_pool"):
        return None
    found = result if isinstance(result, Tensor) else result[1]
    return None if is_float(found) else found


@dataclasses.dataclass(frozen=True)
class Pick:
    """What positions were picked from.

    Attributes:
        operand: the values.
        scale: their rounding scales.
        dim: the axis along which a position counts; None for all of them.
    """

    operand: Tensor
    scale: Tensor
    dim: int | None

    def may_be(self, positions: Tensor, reference: Tensor) -> Tensor:
        """Tell for each position whether what stands there is within rounding of what stands at the reference's."""
        values, scales, shape = self.operand, self.scale, positions.shape
        if self.dim is None:
            values, scales, dim = values.flatten(), scales.flatten(), 0
            positions, reference = positions.flatten(), reference.flatten()
        else:
            dim = self.dim
            if positions.dim() < values.dim():
                positions, reference = positions.unsqueeze(dim), reference.unsqueeze(dim)
        inside = (positions >= 0) & (positions < values.shape[dim])
        chosen, reference = torch.where(inside, positions, 0).long(), reference.long()
        gap = (values.gather(dim, chosen) - values.gather(dim, reference)).abs()
        within = inside & (gap <= REACH * (scales.gather(dim, chosen) + scales.gather(dim, reference)))
        if chosen.shape[dim] > 1:
            within &= ~(chosen.sort(dim).values.diff(dim=dim) == 0).any(dim, keepdim=True)
        return within.reshape(shape)

    def nearest(self, positions: Tensor, reference: Tensor) -> Tensor:
        """Return positions where all along the axis may be picked, elsewhere the reference's."""
        if positions.shape != reference.shape:
            return reference
        may_be = self.may_be(positions, reference)
        if self.dim is not None and positions.dim() == self.operand.dim():
            may_be = may_be.all(self.dim, keepdim=True)
        return torch.where(may_be, positions, reference)

    def moved_too_often(self, positions: Tensor, reference: Tensor) -> str:
        """Say what is wrong if more positions than rounding explains hold another value than the reference's.

        Equal values may change places as they like.
        """
        values, dim = (self.operand.flatten(), 0) if self.dim is None else (self.operand, self.dim)
        if positions.dim() < values.dim():
            positions, reference = positions.unsqueeze(dim), reference.unsqueeze(dim)
        count = int((values.gather(dim, positions.long()) != values.gather(dim, reference.long())).sum())
        if count <= max(FEW_FOLLOWED, FOLLOWED_SHARE * positions.numel()):
            return ""
        return f"{count} of {positions.numel()} picks lie elsewhere than float64's, each within rounding: too many"


def is_stable(node: Node) -> bool:
    """Tell whether an operator orders equal values by their position, so that an exact tie leaves nothing open."""
    return name_of(node.target) == "sort" and bool(node.kwargs.get("stable"))


def pick_axis(node: Node) -> int | None:
    """Return the axis along which a recorded operator picks positions, None for all."""
    name, args = name_of(node.target), node.args
    place = 2 if name == "topk" or "stable" in str(node.target) else 1
    dim: Any = args[place] if len(args) > place else node.kwargs.get("dim", None if name.startswith("arg") else -1)
    return None if dim is None else int(dim)


def margins(name: str, operand: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance of each element from the nearest jump, and its scale; of picks, those of neighbours."""
    if name in ("floor", "ceil", "trunc"):
        return (operand - operand.round()).abs(), scale
    if name == "round":
        return (operand - operand.floor() - 0.5).abs(), scale
    if name in PICKS:  # any two that lie within both scales may change places
        values, order = operand.flatten().sort()
        scales = scale.flatten()[order]
        if values.numel() < 2:
            return torch.full_like(values, torch.inf), scales
        return torch.nan_to_num(values.diff().abs(), nan=torch.inf), scales[1:] + scales[:-1]
    return operand.abs(), scale


def decision_of(key: str, node: Node, kind: str, operand: Tensor, scale: Tensor) -> Decision:
    """Return an operator's decision, with the operand that lies nearest to its jump."""
    margin, near = margins(kind, operand, scale)
    within = (margin <= REACH * near) & ((near > 0) | (kind in PICKS and not is_stable(node)))
    nearest = torch.where(within, margin, torch.inf) if bool(within.any()) else margin
    place = int(nearest.argmin()) if margin.numel() else None
    return Decision(
        node=key,
        op=kind,
        path=node.meta.get("path", ""),
        source=node.meta.get("source", ""),
        margin=float("inf") if place is None else float((operand if kind in COMPARISONS else margin).flatten()[place]),
        scale=0.0 if place is None else float(near.flatten()[place]),
        open=int(within.sum()),
        compared=operand.numel(),
    )
