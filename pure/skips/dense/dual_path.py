"""Dual paths: some channels are summed as in a ResNet, others grow as in a DenseNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Extras, Params
from pure.compose import Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError, ShapeError
from pure.skips.additive.conv_orders import norm_act_conv
from pure.skips.additive.shortcut import Identity
from pure.tags import tag

__all__ = ["DualPath", "dual_path_block"]


@dataclass(frozen=True, repr=False)
class DualPath(Composite):
    """y = [s₁ + f₁, s₂, f₂] along axis 1, with [s₁, s₂] = S(x), [f₁, f₂] = f(x), and s₁, f₁ of `added` channels.

    Tags: "branch" (f(x)), "stream" (y).

    Args:
        branch: f.
        added: how many channels are added to; what f gives beyond them is appended.
        shortcut: S, such as a projection where the size changes.

    Raises:
        ArgumentError: `added` below 1.
        ShapeError: S(x) or f(x) has fewer than `added` channels, or they differ beyond axis 1.

    Source: Chen et al. 2017 (1707.01629), section 4, figure 2d.

    Example:
        >>> from pure.layers import Linear
        >>> DualPath(Linear(6, 5), 4).out_shape((3, 6))
        (3, 7)
    """

    branch: Block
    added: int
    shortcut: Block = Identity()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.added < 1:
            raise ArgumentError(f"DualPath added={self.added}: expected at least 1")

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return [s₁ + f₁, s₂, f₂]."""
        f = tag(run("branch", x), "branch", kind="branch")
        s = run("shortcut", x)
        same = (s.shape[0], *s.shape[2:]) == (f.shape[0], *f.shape[2:])
        if not same or min(s.shape[1], f.shape[1]) < self.added:
            raise ShapeError(
                f"DualPath added={self.added}: branch {tuple(f.shape)} beside shortcut {tuple(s.shape)}: expected "
                "equal sizes but for axis 1, and there at least the channels that are added"
            )
        k = self.added
        return tag(torch.cat([s[:, :k] + f[:, :k], s[:, k:], f[:, k:]], 1), "stream")


def dual_path_block(
    in_channels: int,
    mid_channels: int,
    added: int,
    growth: int,
    *,
    groups: int = 1,
    stride: int = 1,
    project: bool = False,
    eps: float = 1e-3,
) -> Block:
    """Return the dual path around BN-relu convolutions 1×1 (`branch.a`), 3×3 (`branch.b`, grouped), 1×1 (`branch.c`).

    The output has as many channels as the shortcut plus `growth`; a projection gives added + 2 · growth.

    Args:
        in_channels: channels of the stream.
        mid_channels: channels between the convolutions.
        added: channels of the residual path.
        growth: channels that the dense path grows by.
        groups: of the 3×3 convolution.
        stride: of the 3×3 convolution and the projection.
        project: whether the shortcut is a BN-relu-1×1 projection, as at the start of each stage.
        eps: of the norms.

    Raises:
        ArgumentError: a stride without a projection.

    Source: Chen et al. 2017 (1707.01629), table 1.

    Example:
        >>> dual_path_block(6, 4, 4, 2).out_shape((1, 6, 5, 5))
        (1, 8, 5, 5)
    """
    if stride != 1 and not project:
        raise ArgumentError(f"dual_path_block stride={stride} without a projection: expected project=True")
    branch = Sequential(
        a=norm_act_conv(in_channels, mid_channels, eps=eps),
        b=norm_act_conv(mid_channels, mid_channels, 3, stride, groups=groups, eps=eps),
        c=norm_act_conv(mid_channels, added + growth, eps=eps),
    )
    if not project:
        return DualPath(branch, added)
    return DualPath(branch, added, norm_act_conv(in_channels, added + 2 * growth, stride=stride, eps=eps))
