"""The residual block: y = activation(S(x) + scale · f(x))."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pure.block import EMPTY, Applied, Block, Extras, Params, State
from pure.children import expected_keys, extra_keys, located, require_keys, run_child
from pure.errors import ArgumentError, PureError, ShapeError
from pure.layers.activation import activation
from pure.skips.additive.shortcut import Identity, mismatch, run_fitted
from pure.tags import WATCHERS, tag
from pure.tree import Tree

__all__ = ["Residual"]


@dataclass(frozen=True, repr=False)
class Residual(Block):
    """y = activation(S(x) + scale · f(x)), f the branch and S the shortcut.

    The branch's parameters stand under `branch`, the shortcut's under `shortcut`; `pure.Rename` gives them other names.

    Tags: "branch" (scale · f(x)), "stream" (y).

    Args:
        branch: f, any block.
        shortcut: S, any block; the ones in `pure.skips` fit themselves to the branch's output shape.
        scale: constant in front of the branch.
        activation: name of the function after the sum, such as "relu" in ResNet v1.

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
    activation: str = "identity"
    _keys: int | None = field(init=False, repr=False, compare=False)
    _call: Callable[..., Any] = field(init=False, repr=False, compare=False)
    _plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what in ("branch", "shortcut"):
            if not isinstance(getattr(self, what), Block):
                raise ArgumentError(f"Residual {what}={getattr(self, what)!r}: expected a Block: wrap it in Function")
        activation(self.activation)
        object.__setattr__(self, "_keys", expected_keys(self.children()))
        plain = type(self.shortcut) is Identity and self.scale == 1.0 and self.activation == "identity"
        object.__setattr__(self, "_call", self.branch.__call__)
        object.__setattr__(self, "_plain", plain and self.branch.has_params is True)

    @property
    def has_params(self) -> bool | None:
        """Whether the branch or the shortcut has parameters."""
        return None if self._keys is None else self._keys > 0

    def children(self) -> dict[str, Block]:
        """Return the branch and the shortcut."""
        return {"branch": self.branch, "shortcut": self.shortcut}

    def __call__(self, params: Params, x: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
        """Return the block's output."""
        if WATCHERS or not self._plain:
            return self.apply(params, x, state, extras)[0]
        try:
            if len(params) != 1:
                raise extra_keys(self, params)
            f = self._call(params["branch"], x, state.get("branch", EMPTY) if state else EMPTY, extras)
        except (PureError, KeyError) as error:
            raise located(self, "branch", params, state, error) from error.__cause__
        if f.shape != x.shape:
            raise ShapeError(mismatch(self.shortcut, x.shape, f.shape))
        return x + f

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the block's output and the new states of branch and shortcut."""
        require_keys(self, self._keys, params)
        new_state: State = {}
        f = run_child(self, "branch", self.branch, params, x, state, extras, training, noise, new_state)
        rest = params, x, state, extras, training, noise, new_state
        s = run_fitted(self, "shortcut", self.shortcut, f.shape, *rest)
        if s.shape != f.shape:
            raise ShapeError(mismatch(self.shortcut, s.shape, f.shape))
        f = tag(f if self.scale == 1.0 else self.scale * f, "branch", kind="branch")
        total = s + f
        return tag(activation(self.activation)(total), "stream"), new_state
