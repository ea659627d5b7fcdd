"""Structured pruning: cut whole channels and rebuild the block with smaller sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Block, Params, Shape, State
from pure.errors import ArgumentError, PureError, UnsupportedError, nearest
from pure.pruning.coupling import ChannelGroup, coupled_channels, is_shape
from pure.pruning.importance import Importance, channel_importance
from pure.pruning.rebuild import resized
from pure_export_shared import HtmlText

__all__ = ["PrunedChannels", "prune_channels"]

Cut = dict[tuple[str, int], set[int]]
"""(leaf, axis) → the positions that are cut."""

MAX_RELATIVE_DIFFERENCE = 1e-9
"""Largest difference of the smaller block's output from the zeroed one's in float64, over the largest value."""
RANDOM_INPUTS = 3
"""Number of random inputs on which the two are compared: a relu may be dead on one."""


@dataclass(frozen=True)
class PrunedChannels(HtmlText):
    """The result of `prune_channels`.

    Attributes:
        groups: the coupled channels.
        masks: {group name: (channels,) booleans, True for each channel that stays}.
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
    keep: float | Mapping[str, float | Tensor] = 0.5,
    importance: str | Importance = "l1",
    scope: Literal["group", "global"] = "group",
) -> PrunedChannels:
    """Cut channels in every leaf that has them, and rebuild the block with smaller sizes.

    `coupled_channels` says which axes must be cut together. In evaluation the zeroed parameters compute what the
    smaller block computes; that is checked on random inputs in float64 before the smaller block is returned.

    Args:
        block: any block.
        params: its parameters.
        x: shape of the input, batch axis first, or an example input.
        state: its state.
        extras: what the block reads beside `x`.
        keep: the fraction of the channels that stays, at least one per group; or a mapping from patterns over the
            groups' names to fractions or masks of one boolean per channel, such as `{"*.fc1.weight": 0.5}`: the last
            pattern that matches a group holds, and groups that none matches stay whole.
        importance: the score that ranks the channels, see `channel_importance`.
        scope: "group" applies the fraction to each group, "global" one threshold to all channels, for which `keep`
            must be one number.

    Raises:
        ArgumentError: a fraction outside (0, 1], a pattern that matches no group, an unknown scope or importance, or a
            mask that does not fit.
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
    masks = _masks(groups, params, keep, importance, scope)
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


def _masks(
    groups: Sequence[ChannelGroup], params: Params, keep: Any, importance: str | Importance, scope: str
) -> dict[str, Tensor]:
    """Return the masks, by group name, of the channels that stay."""
    if scope not in ("group", "global"):
        raise ArgumentError(f"prune_channels scope={scope!r}: expected 'group' or 'global'")
    if scope == "global":
        return _over_all(groups, params, keep, importance)
    asked = dict(keep) if isinstance(keep, Mapping) else {"*": _part(keep)}
    masks = {group.name: torch.ones(len(group), dtype=torch.bool) for group in groups}
    for pattern, wanted in asked.items():
        found = [group for group in groups if fnmatchcase(group.name, pattern)]
        if not found and isinstance(keep, Mapping):
            known = ", ".join(masks) or "there are none"
            raise ArgumentError(f"no channel group is named {pattern!r}{nearest(pattern, masks)}: one of {known}")
        for group in found:
            masks[group.name] = _mask(group, params, wanted, importance)
    return masks


def _mask(group: ChannelGroup, params: Params, wanted: Any, importance: str | Importance) -> Tensor:
    """Return the mask of one group from the mask or the fraction that the caller gave."""
    if not isinstance(wanted, Tensor):
        return _largest(_scores(group, params, importance), _part(wanted))
    mask = wanted.detach().bool().cpu()
    if mask.shape != (len(group),) or not bool(mask.any()):
        raise ArgumentError(
            f"mask of {group.name!r}: {tuple(mask.shape)} with {int(mask.sum())} channels that stay, expected "
            f"({len(group)},) with at least one"
        )
    return mask


def _over_all(
    groups: Sequence[ChannelGroup], params: Params, keep: Any, importance: str | Importance
) -> dict[str, Tensor]:
    """Return the masks that one threshold over all groups gives; each keeps at least one channel."""
    part = _part(keep)
    scores = {group.name: _scores(group, params, importance) for group in groups}
    if not scores:
        return {}
    masks = _largest(torch.cat(list(scores.values())), part).split([len(score) for score in scores.values()])
    return {
        name: mask if bool(mask.any()) else _largest(score, 1 / len(score))
        for (name, score), mask in zip(scores.items(), masks, strict=True)
    }


def _part(keep: Any) -> float:
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise ArgumentError(
            f"prune_channels keep={keep!r}: expected the part of the channels that stays, in (0, 1], or, in the scope "
            "'group', parts or masks by the groups' names"
        )
    return float(keep)


def _scores(group: ChannelGroup, params: Params, importance: str | Importance) -> Tensor:
    return channel_importance(group, params, importance).double().cpu()


def _largest(scores: Tensor, keep: float) -> Tensor:
    """Return a mask of the largest scores, at least one; among equal scores the last are cut first."""
    count = max(int(keep * len(scores) + 0.5), 1)
    order = torch.argsort(scores, descending=True, stable=True)
    return torch.zeros(len(scores), dtype=torch.bool).scatter(0, order[:count], True)


def _positions(groups: Sequence[ChannelGroup], masks: Mapping[str, Tensor]) -> dict[str, Cut]:
    """Return the positions of each (leaf, axis) that are cut, separately for params and state."""
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
    """Raise unless both blocks compute the same on random inputs in float64.

    Raises:
        UnsupportedError: the smaller block fails on its parameters, or its output differs.
    """
    generator = torch.Generator().manual_seed(0)

    def ready(leaf: Any) -> Any:
        return tree.cast(leaf.detach().cpu(), torch.float64) if isinstance(leaf, Tensor) else leaf

    def another(leaf: Any) -> Any:
        """Return random values if the input has a floating type, else the input itself."""
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
        return leaf

    example = torch.zeros(tuple(x), dtype=torch.float64) if is_shape(x) else tree.tree_map(ready, x)
    inputs = [tree.tree_map(another, example) for _ in range(RANDOM_INPUTS)] + ([] if is_shape(x) else [example])
    shared = tree.tree_map(ready, dict(extras))
    before, after = (tree.tree_map(ready, given) for given in ((zeroed, state), (params, small)))
    for given in inputs:
        try:
            with torch.no_grad():
                ys = tree.leaves(block(before[0], given, before[1], shared))
                others = tree.leaves(made(after[0], given, after[1], shared))
        except PureError as error:
            raise UnsupportedError(f"the smaller block refuses its parameters: {error}") from error
        for y, other in zip(ys, others, strict=True):
            if y.shape != other.shape or not _close(y, other):
                raise UnsupportedError(
                    f"the smaller {type(block).__name__} does not compute what the zeroed one does, because a size of "
                    "it is in no leaf: use the zeroed parameters, or leave groups whole by keep={'name': part}"
                )


def _close(y: Tensor, other: Tensor) -> bool:
    """Return whether two results agree up to rounding; results that are not finite never do."""
    if not y.numel():
        return True
    return bool((y - other).abs().max() <= MAX_RELATIVE_DIFFERENCE * y.abs().max().clamp_min(1e-30))
