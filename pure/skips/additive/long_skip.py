"""The long skip: the input of a whole sub-network beside its output, as in a U-Net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ArgumentError, ShapeError
from pure.skips.additive.shortcut import Identity, mismatch
from pure.tags import tag

__all__ = ["LongSkip"]

Join = Literal["concat", "sum", "product"]


@dataclass(frozen=True, repr=False)
class LongSkip(Composite):
    """y = [S(x), g(x)] along axis 1, S(x) + g(x) or S(x) ⊙ g(x), with g any sub-network and S a shortcut.

    Tags: "branch" (g(x)), "stream" (y).

    Args:
        branch: g.
        join: "concat", "sum" or "product".
        shortcut: S; `Crop` cuts the stream to what an unpadded g leaves of the map.

    Raises:
        ArgumentError: an unknown join, or a branch or shortcut that is no block.
        ShapeError: S(x) and g(x) do not fit; with "concat" axis 1 is free.

    Source: Ronneberger et al. 2015 (1505.04597), figure 1.

    Example:
        >>> from pure.layers import Conv2d
        >>> LongSkip(Conv2d(3, 5, 3, padding=1)).out_shape((1, 3, 4, 4))
        (1, 8, 4, 4)
    """

    branch: Block
    join: Join = "concat"
    shortcut: Block = Identity()

    def __post_init__(self) -> None:
        if self.join not in get_args(Join):
            raise ArgumentError(f"LongSkip join={self.join!r}: expected one of {', '.join(get_args(Join))}")
        super().__post_init__()

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the joined tensors."""
        g = tag(run("branch", x), "branch", kind="branch")
        s = run("shortcut", x, g.shape)
        if self.join == "concat":
            if (s.shape[0], *s.shape[2:]) != (g.shape[0], *g.shape[2:]):
                raise ShapeError(
                    f"LongSkip: branch {tuple(g.shape)} beside {self.shortcut} of the input {tuple(s.shape)}: expected "
                    "equal sizes but for axis 1: shortcut=Crop() or Interpolate(), or an input that halves evenly"
                )
            y = torch.cat([s, g], 1)
        elif s.shape != g.shape:
            raise ShapeError(mismatch(self.shortcut, s.shape, g.shape))
        else:
            y = s + g if self.join == "sum" else s * g
        return tag(y, "stream")
