"""Importance of channels: one score for each channel of a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from pure import tree
from pure.block import Params
from pure.errors import ArgumentError, UnsupportedError, nearest
from pure.pruning.coupling import ChannelGroup, Member

__all__ = ["IMPORTANCES", "Importance", "channel_importance"]

Importance = Callable[[ChannelGroup, Params], Tensor]
"""(group, params) → one score per channel; the smallest are cut."""


def _power_sums(members: Sequence[Member], params: Params, power: int) -> Tensor:
    """Return Σ |w|^power of each channel, (channels,), over its positions in all leaves of the members."""
    flat = tree.flatten(params)
    sums = []
    for member in members:
        leaf = flat[member.name].detach()
        rows = leaf.abs().pow(power).movedim(member.axis, 0).reshape(leaf.shape[member.axis], -1).sum(1)
        sums.append(torch.stack([rows[list(positions)].sum() for positions in member.indices]))
    return torch.stack(sums).sum(0)


def _of_writers(group: ChannelGroup, params: Params, power: int) -> Tensor:
    """Return Σ |w|^power of each channel over the kernels that write it, else over all its parameters."""
    own = [member for member in group.members if member.tree == "params"]
    writers = [member for member in own if member.role == "writes"] or own
    if not writers:
        raise UnsupportedError(f"importance of {group.name!r}: the group has no parameters: give scores or masks")
    return _power_sums(writers, params, power)


def _l1(group: ChannelGroup, params: Params) -> Tensor:
    return _of_writers(group, params, 1)


def _l2(group: ChannelGroup, params: Params) -> Tensor:
    return _of_writers(group, params, 2).sqrt()


def _gamma(group: ChannelGroup, params: Params) -> Tensor:
    gains = [member for member in group.members if member.role == "gains" and member.tree == "params"]
    if not gains:
        raise UnsupportedError(
            f"importance 'gamma' of {group.name!r}: no batch or group norm scales these channels: use 'l1' or 'l2'"
        )
    return _power_sums(gains, params, 1)


IMPORTANCES: Final[dict[str, Importance]] = {"l1": _l1, "l2": _l2, "gamma": _gamma}
"""Name → function that gives the scores."""


def channel_importance(group: ChannelGroup, params: Params, importance: str | Importance = "l1") -> Tensor:
    """Return one score per channel, (channels,), summed over all leaves that write the group.

    Args:
        group: from `coupled_channels`.
        params: the parameters.
        importance: "l1" (Σ|w| of the kernels that write the channel), "l2" (√Σw²), "gamma" (|γ| of the norms after
            them), or a function of group and params.

    Raises:
        ArgumentError: an unknown name, or a function that does not give one score per channel.
        UnsupportedError: "gamma" of channels without a norm.

    Source: Li et al. 2016 (1608.08710), section 3.1, for "l1"; Liu et al. 2017 (1708.06519), section 3, for "gamma".

    Example:
        >>> from pure import nets
        >>> from pure.pruning import coupled_channels
        >>> block = nets.simple_block(2, 3, 4)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> (group,) = coupled_channels(block, params, (1, 2))
        >>> channel_importance(group, params).shape
        torch.Size([3])
    """
    if isinstance(importance, str):
        if importance not in IMPORTANCES:
            raise ArgumentError(
                f"importance {importance!r} is unknown{nearest(importance, IMPORTANCES)}: one of "
                f"{', '.join(IMPORTANCES)}, or a function of group and params"
            )
        importance = IMPORTANCES[importance]
    scores: Any = importance(group, params)
    if not isinstance(scores, Tensor) or scores.shape != (len(group),):
        given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ArgumentError(f"importance of {group.name!r} gave {given}: expected one score for each of {len(group)}")
    return scores
