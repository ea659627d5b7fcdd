"""The long skip: the input of a whole sub-network beside its output, as in a U-Net."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from pure.block import EMPTY, Applied, Block, State
from pure.children import expected_keys, require_keys, run_child
from pure.errors import ArgumentError, ShapeError
from pure.skips.additive.shortcut import Identity, mismatch, run_fitted
from pure.tags import tag
from pure.tree import Tree

__all__ = ["LongSkip"]

Join = Literal["concat", "sum", "product"]


@dataclass(frozen=True, repr=False)
class LongSkip(Block):
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
    _keys: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.join not in get_args(Join):
            raise ArgumentError(f"LongSkip join={self.join!r}: expected one of {', '.join(get_args(Join))}")
        for what, child in self.children().items():
            if not isinstance(child, Block):
                raise ArgumentError(f"LongSkip {what}={child!r}: expected a Block: wrap it in Function")
        object.__setattr__(self, "_keys", expected_keys(self.children()))

    @property
    def has_params(self) -> bool | None:
        """Whether the branch or the shortcut has parameters."""
        return None if self._keys is None else self._keys > 0

    def children(self) -> dict[str, Block]:
        """Return the branch and the shortcut."""
        return {"branch": self.branch, "shortcut": self.shortcut}

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the joined tensors and the new states of branch and shortcut."""
        require_keys(self, self._keys, params)
        new_state: State = {}
        rest = params, x, state, extras, training, noise, new_state
        g = tag(run_child(self, "branch", self.branch, *rest), "branch", kind="branch")
        s = run_fitted(self, "shortcut", self.shortcut, g.shape, *rest)
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
        return tag(y, "stream"), new_state
