"""One-shot aggregation: a plain chain whose every output is concatenated once, at its end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from pure.block import Block, Extras, Params
from pure.compose import Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError, ShapeError
from pure.layers import DropPath
from pure.layers.activation import ActivationLike
from pure.skips.additive.conv_orders import conv_norm_act
from pure.skips.additive.residual import Residual
from pure.tags import tag

__all__ = ["OneShot", "one_shot_aggregation"]


@dataclass(frozen=True, repr=False)
class OneShot(Composite):
    """y = [x, f₁(x), f₂(f₁(x)), …] along axis 1: what a dense block carries, without its quadratic cost.

    The children are those of the chain, under their own names. Tags: "branch[i]" (fᵢ), "stream" (y).

    Args:
        chain: the fᵢ, a `Sequential`; all axes of their outputs but axis 1 must be the input's.

    Raises:
        ArgumentError: a chain that is no `Sequential`, or an empty one.
        ShapeError: an output differs from x beyond axis 1.

    Source: Lee et al. 2019 (1904.09730), section 3.2, figure 1b.

    Example:
        >>> from pure.layers import Linear
        >>> OneShot(Sequential(Linear(4, 3), Linear(3, 2))).out_shape((5, 4))
        (5, 9)
    """

    chain: Sequential

    def __post_init__(self) -> None:
        if not isinstance(self.chain, Sequential) or not self.chain.children():
            raise ArgumentError(f"OneShot of {self.chain!r}: expected a Sequential of at least one block")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the links of the chain."""
        return self.chain.children()

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return all outputs side by side."""
        outs = [x]
        for name in self.children():
            f = tag(run(name, outs[-1]), f"branch[{name}]", kind="branch")
            if (f.shape[0], *f.shape[2:]) != (x.shape[0], *x.shape[2:]):
                raise ShapeError(
                    f"OneShot: {name!r} gives {tuple(f.shape)} for an input {tuple(x.shape)}: expected equal sizes "
                    "but for axis 1"
                )
            outs.append(f)
        return tag(torch.cat(outs, 1), "stream")


def one_shot_aggregation(
    in_channels: int,
    mid_channels: int,
    out_channels: int,
    depth: int = 5,
    *,
    residual: bool = False,
    drop_path: float = 0.0,
    activation: ActivationLike = "relu",
) -> Block:
    """Return W[x, f₁(x), f₂(f₁(x)), …], the block of VoVNet; plus x if `residual`.

    Each fᵢ is a 3×3 and W a 1×1 convolution, with BatchNorm and activation. Children: `layers`, `mix`.

    Args:
        in_channels: channels of the stream.
        mid_channels: channels of each fᵢ.
        out_channels: channels of W.
        depth: how many fᵢ.
        residual: whether x is added; it needs equal channels.
        drop_path: of all but that x, a sample.
        activation: of each convolution.

    Source: Lee et al. 2019 (1904.09730), section 3.2; the residual form: Lee and Park 2019 (1911.06667), figure 3.

    Example:
        >>> one_shot_aggregation(4, 3, 8, 2).out_shape((1, 4, 6, 6))
        (1, 8, 6, 6)
    """
    widths = [in_channels, *[mid_channels] * depth]
    chain = [conv_norm_act(a, b, 3, activation=activation) for a, b in pairwise(widths)]
    parts: dict[str, Block] = {
        "layers": OneShot(Sequential(*chain)),
        "mix": conv_norm_act(sum(widths), out_channels, activation=activation),
    }
    if drop_path:
        parts["drop"] = DropPath(drop_path)
    body = Sequential(**parts)
    return Residual(body) if residual else body
