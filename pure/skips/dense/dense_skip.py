"""Dense connections: y = [x, f(x)] along the channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ShapeError
from pure.tags import tag

__all__ = ["DenseSkip"]


@dataclass(frozen=True, repr=False)
class DenseSkip(Composite):
    """y = [x, f(x)] along axis 1; a chain of them is a dense block, each layer seeing all earlier ones.

    Tags: "branch" (f(x)), "stream" (y).

    Args:
        branch: f; all axes of its output but axis 1 must be the input's.

    Raises:
        ShapeError: f(x) differs from x beyond axis 1.

    Source: Huang et al. 2016 (1608.06993), equation 2.

    Example:
        >>> from pure.layers import Linear
        >>> block = DenseSkip(Linear(4, 2))
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(3, 4)).shape
        torch.Size([3, 6])
    """

    branch: Block

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return [x, f(x)]."""
        f = run("branch", x)
        if (f.shape[0], *f.shape[2:]) != (x.shape[0], *x.shape[2:]):
            raise ShapeError(
                f"DenseSkip: branch {tuple(f.shape)} beside input {tuple(x.shape)}: "
                "expected equal sizes but for axis 1: pad the branch, or shrink the stream in a transition"
            )
        return tag(torch.cat([x, tag(f, "branch", kind="branch")], 1), "stream")
