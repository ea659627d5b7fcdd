"""Cross-stage partial connections: some channels bypass the stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Extras, Params
from pure.compose import Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError, ShapeError
from pure.layers.activation import ActivationLike
from pure.skips.additive.conv_orders import conv_norm_act
from pure.tags import tag

__all__ = ["SplitSkip", "cross_stage"]


@dataclass(frozen=True, repr=False)
class SplitSkip(Composite):
    """y = [x₁, f(x₂)] along axis 1, with x = [x₁, x₂] and x₁ the first `carried` channels.

    Tags: "branch" (f(x₂)), "stream" (y).

    Args:
        branch: f, on the other channels; all axes of its output but axis 1 must be the input's.
        carried: how many channels go past it.

    Raises:
        ArgumentError: `carried` below 1.
        ShapeError: no channel is left for the branch, or f(x₂) differs from x beyond axis 1.

    Source: Wang et al. 2019 (1911.11929), figure 2b.

    Example:
        >>> from pure.layers import Linear
        >>> SplitSkip(Linear(3, 5), 2).out_shape((4, 5))
        (4, 7)
    """

    branch: Block
    carried: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.carried < 1:
            raise ArgumentError(f"SplitSkip carried={self.carried}: expected at least 1")

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return [x₁, f(x₂)]."""
        if x.ndim < 2 or x.shape[1] <= self.carried:
            raise ShapeError(f"SplitSkip carried={self.carried}: input {tuple(x.shape)} leaves the branch no channel")
        f = tag(run("branch", x[:, self.carried :]), "branch", kind="branch")
        if (f.shape[0], *f.shape[2:]) != (x.shape[0], *x.shape[2:]):
            raise ShapeError(
                f"SplitSkip: branch {tuple(f.shape)} beside input {tuple(x.shape)}: expected equal sizes but for axis 1"
            )
        return tag(torch.cat([x[:, : self.carried], f], 1), "stream")


def cross_stage(
    in_channels: int,
    out_channels: int,
    blocks: Block,
    *,
    expand: float = 1.0,
    blocks_channels: int | None = None,
    activation: ActivationLike = "relu",
) -> Block:
    """Return M[e₁, T(g(e₂))] with [e₁, e₂] = E x: split, transform, concatenate, mix.

    E, T and M are 1×1 convolution, BatchNorm and activation: children `expand`, `cross.branch.transition`, `mix`;
    g is `cross.branch.blocks`.

    Args:
        in_channels: channels of the stream.
        out_channels: channels after the stage.
        blocks: g, from half of E's channels to `blocks_channels`; it keeps the map's size.
        expand: E's channels over `out_channels`.
        blocks_channels: channels that g gives; those that it is given, if None.
        activation: of E, T and M.

    Raises:
        ArgumentError: E's channels cannot be halved.

    Source: Wang et al. 2019 (1911.11929), figure 2b.

    Example:
        >>> from pure.skips import Residual
        >>> cross_stage(4, 8, Residual(conv_norm_act(4, 4, 3))).out_shape((1, 4, 6, 6))
        (1, 8, 6, 6)
    """
    wide = round(out_channels * expand)
    if wide % 2:
        raise ArgumentError(f"cross_stage: {wide} expanded channels cannot be halved: change out_channels or expand")
    half = wide // 2
    after = half if blocks_channels is None else blocks_channels
    branch = Sequential(blocks=blocks, transition=conv_norm_act(after, half, activation=activation))
    return Sequential(
        expand=conv_norm_act(in_channels, wide, activation=activation),
        cross=SplitSkip(branch, half),
        mix=conv_norm_act(wide, out_channels, activation=activation),
    )
