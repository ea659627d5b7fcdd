"""Leaf blocks, and the typed errors in place of what PyTorch raises inside them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Applied, Block, Extras, Params, State, specification
from pure.children import extra_keys
from pure.errors import ArgumentError, DeviceError, DtypeError, PureError, ShapeError, TreeError
from pure.initializers import Device, check_generator
from pure.tree import Tree

__all__ = ["Leaf", "describe", "explain"]


def describe(value: object) -> str:
    """Return a tensor's shape and dtype, or the type's name, for a message."""
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def explain(block: Block, params: Params, x: Any, cause: BaseException) -> PureError:
    """Turn the failure of a leaf block into the typed error that says what was given and expected."""
    if isinstance(cause, PureError):
        return cause
    if not isinstance(x, Tensor):
        return ArgumentError(f"{block}: input is {type(x).__name__}, expected a tensor, batch first")
    lines = tree.differences(params, specification(block)[0])
    if lines:
        return TreeError(f"params of {block}: " + "; ".join(lines))
    if isinstance(x, Tensor):
        for name, leaf in tree.flatten(params).items():
            if leaf.dtype != x.dtype:
                return DtypeError(
                    f"{block}: input is {x.dtype}, params {name!r} is {leaf.dtype}: cast one of them, "
                    f"as by pure.cast(params, {x.dtype})"
                )
            if leaf.device != x.device:
                return DeviceError(
                    f"{block}: input is on {x.device}, params {name!r} on {leaf.device}: move one of them"
                )
    return ShapeError(f"{block}: input {describe(x)} does not fit: {cause}")


@dataclass(frozen=True, repr=False)
class Leaf(Block):
    """A block without children or state: `forward(params, x)` and the names of its parameters say it all."""

    _keys: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.init and isinstance(getattr(self, entry.name), list):  # a list of sizes; a block must be hashable
                object.__setattr__(self, entry.name, tuple(getattr(self, entry.name)))
        object.__setattr__(self, "_keys", len(self.leaf_names()))

    def leaf_names(self) -> tuple[str, ...]:
        """Return the names of the parameters, none by default."""
        return ()

    def forward(self, params: Params, x: Any) -> Any:
        """Return the output; the same in training and in evaluation."""
        raise NotImplementedError

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the initial parameters; there is no state."""
        check_generator(generator)
        return {}, {}

    @property
    def has_params(self) -> bool:
        """Whether `init` gives parameters."""
        return bool(self.leaf_names())

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return `(y, state)`."""
        return self(params, x, state, extras), state

    def __call__(self, params: Params, x: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
        """Return the output."""
        if len(params) != self._keys:
            raise extra_keys(self, params)
        try:
            return self.forward(params, x)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise explain(self, params, x, error) from error
