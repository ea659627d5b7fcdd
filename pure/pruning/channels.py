"""Structured pruning: whole channels go, and a smaller block is left that computes the same as one with zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Block, Params, Shape, State
from pure.errors import ArgumentError, PureError, UnsupportedError, nearest
from pure.pruning.coupling import ChannelGroup, coupled_channels
from pure.pruning.importance import Importance, channel_importance
from pure.pruning.rebuild import resized

__all__ = ["PrunedChannels", "prune_channels"]

Cut = dict[tuple[str, int], set[int]]
"""(leaf, axis) → the positions that go."""

CLOSE = 1e-9
"""How far, relative to the largest value, the smaller block may be from the zeroed one in float64."""


@dataclass(frozen=True)
class PrunedChannels:
    """What `prune_channels` gives.

    Attributes:
        groups: the coupled channels.
        masks: {group name: which channels stay}.
        zeroed: parameters of the old shapes, 0 wherever a cut channel is written, scaled or read.
        params: the smaller parameters.
        state: the smaller state.
        block: the smaller block, or None.
        reason: why there is no smaller block, or an empty string.
    """

    groups: tuple[ChannelGroup, ...]
    masks: Mapping[str, Tensor]
    zeroed: Params
    params: Params
    state: State
    block: Block | None
    reason: str

    def __str__(self) -> str:
        lines = [f"{name}: {int(mask.sum())} of {mask.numel()} channels stay" for name, mask in self.masks.items()]
        return "\n".join([*lines, f"{tree.count(self.zeroed):,} → {tree.count(self.params):,} parameters"])


def prune_channels(
    block: Block,
    params: Params,
    x: Shape | Any,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
    *,
    keep: float | Mapping[str, Tensor] = 0.5,
    importance: str | Importance = "l1",
    scope: Literal["group", "global"] = "group",
) -> PrunedChannels:
    """Cut channels, in every leaf that they run through, and rebuild the block with the sizes that are left.

    Which axes hang together comes from `coupled_channels`. The zeroed parameters compute in evaluation what the
    smaller block computes; that is checked on a random input in float64 before the smaller block is given out.

    Args:
        block: any block.
        params: its parameters.
        x: shape of the input, batch axis first, or an example input.
        state: its state.
        extras: what the block reads beside `x`.
        keep: the part of the channels that stays, at least one a group; or masks by group name, one boolean a channel,
            where groups that are not named stay whole.
        importance: what ranks the channels, see `channel_importance`.
        scope: whether `keep` holds in each "group" or "global" over all of them by one threshold.

    Raises:
        ArgumentError: a part outside (0, 1], an unknown group, scope or importance, or a mask that does not fit.
        UnsupportedError: an operation whose effect on channels is not known.

    Source: Li et al. 2016 (1608.08710), section 3; Liu et al. 2017 (1708.06519), section 3, for one threshold over
        all |γ|: `importance="gamma", scope="global"`.

    Example:
        >>> from pure import nets
        >>> block = nets.simple_block(2, 8, 4)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> cut = prune_channels(block, params, (1, 2), keep=0.25)
        >>> cut.block
        Sequential(fc1=Linear(in_features=2, out_features=2), act=Activation(name='relu'), \
fc2=Linear(in_features=2, out_features=4))
        >>> x = torch.ones(1, 2)
        >>> torch.allclose(cut.block(cut.params, x), block(cut.zeroed, x))
        True
    """
    groups = coupled_channels(block, params, x, state, extras)
    masks = _given(groups, keep) if isinstance(keep, Mapping) else _chosen(groups, params, keep, importance, scope)
    kept = _positions(groups, masks)
    zeroed = _cut(params, kept["params"], small=False)
    small = _cut(params, kept["params"], small=True), _cut(state, kept["state"], small=True)
    made: Block | None = None
    reason = ""
    try:
        made = resized(block, *small)
        _require_equal(block, zeroed, state, made, *small, x, extras)
    except UnsupportedError as error:
        made, reason = None, str(error)
    return PrunedChannels(groups, masks, zeroed, *small, made, reason)


def _given(groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a mask for every group from those given."""
    sizes = {group.name: len(group) for group in groups}
    for name, mask in keep.items():
        if name not in sizes:
            raise ArgumentError(f"channel group {name!r} is unknown{nearest(name, sizes)}: one of {', '.join(sizes)}")
        if tuple(mask.shape) != (sizes[name],) or not bool(mask.any()):
            raise ArgumentError(
                f"mask of {name!r}: {tuple(mask.shape)} with {int(mask.sum())} channels that stay, expected "
                f"({sizes[name]},) with at least one"
            )
    return {name: keep[name].bool().cpu() if name in keep else torch.ones(size).bool() for name, size in sizes.items()}


def _chosen(
    groups: Sequence[ChannelGroup], params: Params, keep: float, importance: str | Importance, scope: str
) -> dict[str, Tensor]:
    """Return masks that keep the most important channels, at least one a group; of equal ones the last go first."""
    if not 0 < keep <= 1:
        raise ArgumentError(f"prune_channels keep={keep}: expected the part of the channels that stays, in (0, 1]")
    if scope not in ("group", "global"):
        raise ArgumentError(f"prune_channels scope={scope!r}: expected 'group' or 'global'")
    scores = [channel_importance(group, params, importance).double().cpu() for group in groups]
    if scope == "group" or not scores:
        return {group.name: _largest(score, keep) for group, score in zip(groups, scores, strict=True)}
    parts = _largest(torch.cat(scores), keep).split([len(score) for score in scores])
    masks = {}
    for group, score, mask in zip(groups, scores, parts, strict=True):
        masks[group.name] = mask if bool(mask.any()) else _largest(score, 1 / len(score))
    return masks


def _largest(scores: Tensor, keep: float) -> Tensor:
    count = max(int(keep * len(scores) + 0.5), 1)
    order = torch.argsort(scores, descending=True, stable=True)
    return torch.zeros(len(scores), dtype=torch.bool).scatter(0, order[:count], True)


def _positions(groups: Sequence[ChannelGroup], masks: Mapping[str, Tensor]) -> dict[str, Cut]:
    """Return, by tree, which positions of each (leaf, axis) are cut."""
    cut: dict[str, Cut] = {"params": {}, "state": {}}
    for group in groups:
        gone = (~masks[group.name]).nonzero().flatten().tolist()
        for member in group.members:
            places = cut[member.tree].setdefault((member.name, member.axis), set())
            places.update(position for channel in gone for position in member.indices[channel])
    return cut


def _cut(trees: Any, cut: Cut, *, small: bool) -> Any:
    """Return a tree without the cut positions, or with zeros there."""
    flat = dict(tree.flatten(trees))
    for (name, axis), gone in cut.items():
        leaf = flat[name]
        keep = torch.tensor([position not in gone for position in range(leaf.shape[axis])], device=leaf.device)
        if small:
            flat[name] = leaf.index_select(axis, keep.nonzero().flatten())
        else:
            shape = [-1 if place == axis else 1 for place in range(leaf.ndim)]
            flat[name] = torch.where(keep.reshape(shape), leaf, torch.zeros_like(leaf))
    return tree.unflatten(flat)


def _require_equal(
    block: Block, zeroed: Params, state: State, made: Block, params: Params, small: State, x: Any, extras: Any
) -> None:
    """Run both on one random input in float64, and refuse a smaller block that computes something else."""
    generator = torch.Generator().manual_seed(0)

    def ready(leaf: Any) -> Any:
        return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf

    if isinstance(x, tuple | list | torch.Size) and all(isinstance(size, int) for size in x):
        x = torch.randn(tuple(x), generator=generator)
    before, after = (
        [tree.cast(tree.tree_map(ready, given), torch.float64) for given in (p, x, s, dict(extras))]
        for p, s in ((zeroed, state), (params, small))
    )
    try:
        with torch.no_grad():
            ys, others = tree.leaves(block(*before)), tree.leaves(made(*after))
    except PureError as error:
        raise UnsupportedError(f"the smaller block refuses its parameters: {error}") from error
    for y, other in zip(ys, others, strict=True):
        scale = float(y.abs().max()) if y.numel() else 0.0
        if y.shape != other.shape or (y.numel() and float((y - other).abs().max()) > CLOSE * max(scale, 1e-30)):
            raise UnsupportedError(
                f"the smaller {type(block).__name__} does not compute what the zeroed one does: some size of it is in "
                "no leaf: use the zeroed parameters"
            )
