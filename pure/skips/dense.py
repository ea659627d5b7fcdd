"""Dense connections: y = [x, f(x)] along the channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Params, State
from pure.children import extra_keys, run_child
from pure.errors import ShapeError
from pure.tags import tag

__all__ = ["DenseSkip"]


@dataclass(frozen=True, repr=False)
class DenseSkip(Block):
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

    @property
    def has_params(self) -> bool | None:
        """Whether the branch has."""
        return self.branch.has_params

    def children(self) -> dict[str, Block]:
        """Return the branch."""
        return {"branch": self.branch}

    def apply(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Mapping[str, Any],
        training: bool = False,
        noise: Any = None,
    ) -> tuple[Any, State]:
        """Return [x, f(x)] and the branch's new state."""
        if self.has_params is not None and len(params) != int(self.has_params):
            raise extra_keys(self, params)
        new_state: State = {}
        f = run_child(self, "branch", self.branch, params, x, state, extras, training, noise, new_state)
        if (f.shape[0], *f.shape[2:]) != (x.shape[0], *x.shape[2:]):
            raise ShapeError(
                f"DenseSkip: branch {tuple(f.shape)} beside input {tuple(x.shape)}: "
                "expected equal sizes but for axis 1: pad the branch, or shrink the stream in a transition"
            )
        return tag(torch.cat([x, tag(f, "branch", kind="branch")], 1), "stream"), new_state
