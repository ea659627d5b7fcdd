"""The residual block: y = activation(S(x) + scale · f(x))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ShapeError
from pure.layers.activation import ActivationLike, activation
from pure.skips.additive.shortcut import Identity, mismatch
from pure.tags import tag

__all__ = ["Residual"]


@dataclass(frozen=True, repr=False)
class Residual(Composite):
    """y = activation(S(x) + scale · f(x)), f the branch and S the shortcut.

    The branch's parameters stand under `branch`, the shortcut's under `shortcut`; `pure.Rename` gives them other names.

    Tags: "branch" (scale · f(x)), "stream" (y).

    Args:
        branch: f, any block.
        shortcut: S, any block; the ones in `pure.skips` fit themselves to the branch's output shape.
        scale: constant in front of the branch.
        activation: the function after the sum, or its name, such as "relu" in ResNet v1.

    Raises:
        ShapeError: S(x) and f(x) differ in shape; the message names both and the ways out. Nothing is broadcast.
        ArgumentError: a branch or shortcut that is no block, or an unknown activation.

    Source: He et al. 2015 (1512.03385), equation 1.

    Example:
        >>> import torch
        >>> from pure.layers import Linear
        >>> block = Residual(Linear(4, 4), scale=0.5)
        >>> params, state = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    branch: Block
    shortcut: Block = Identity()
    scale: float = 1.0
    activation: ActivationLike = "identity"

    def __post_init__(self) -> None:
        super().__post_init__()
        activation(self.activation)

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the activation of the sum."""
        f = run("branch", x)
        shape = f.shape
        s = run("shortcut", x, shape)
        if s.shape != shape:
            raise ShapeError(mismatch(self.shortcut, s.shape, shape))
        f = tag(f if self.scale == 1.0 else self.scale * f, "branch", kind="branch")
        y = s + f
        return tag(y if self.activation == "identity" else activation(self.activation)(y), "stream")
