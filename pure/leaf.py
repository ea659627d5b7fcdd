"""Leaf blocks, and the typed errors in place of what PyTorch raises inside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Applied, Block, Params, State, specification
from pure.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    ForwardError,
    NoiseError,
    PureError,
    ShapeError,
    TreeError,
    UnsupportedError,
)
from pure.initializers import Device, check_generator
from pure.tree import Tree
from pure.tree.pytree import differences

__all__ = [
    "LEAF_ERRORS",
    "Leaf",
    "about_shapes",
    "autocasts",
    "describe",
    "explain",
    "given_keys",
    "other_dtype",
    "transform_limit",
    "wrong_keys",
]

LEAF_ERRORS = (AttributeError, KeyError, RuntimeError, TypeError, ValueError, IndexError)
"""What PyTorch raises where an input or a parameter does not fit; `explain` says why in its place."""


def describe(value: object) -> str:
    """Return a tensor's shape and dtype, or the type's name, for a message."""
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def given_keys(given: object) -> str:
    """Return the keys of a mapping, or the type's name, for a message."""
    return str(sorted(given)) if isinstance(given, Mapping) else type(given).__name__


_ABOUT_SHAPES = re.compile(
    r"\bshapes?\b|\bsizes?\b|dimension|channels|groups|\bmust match\b|\brank\b|[1-9]-?D\b|too few|out of range|"
    r"\bunpack\b|\belements?\b|\bfeatures\b|padding|spatial",
    re.IGNORECASE,
)
_OTHER_CAUSES = re.compile(r"batching rule|batched tensor|vmap|setup_context|data-dependent|not implemented for")


def about_shapes(cause: BaseException) -> bool:
    """Return whether an error of PyTorch says that sizes do not fit together."""
    text = str(cause)
    return _ABOUT_SHAPES.search(text) is not None and _OTHER_CAUSES.search(text) is None


def autocasts(x: Tensor) -> bool:
    """Return whether `torch.autocast` is on where a tensor lies: operations then choose their dtypes themselves."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def other_dtype(given: torch.dtype, name: str, dtype: torch.dtype) -> str:
    """Return what to do about a parameter of another dtype than the input, for a message."""
    return (
        f"input is {given}, params {name!r} is {dtype}: cast one of them, as by pure.cast(params, {given}), or keep "
        "the parameters and compute in fewer bits under torch.autocast or in pure.MixedPrecision"
    )


_TRANSFORM_LIMITS = (
    (
        re.compile(r"\.item\(\) on a Tensor|data-dependent control flow|aten::_local_scalar_dense"),
        "a transform has no numbers to branch on: use torch.where in place of if, and no .item(), float() or int()",
    ),
    (
        re.compile(r"forward AD with|forward-mode AD"),
        "no forward-mode rule: use jacrev or grad in place of jvp or jacfwd",
    ),
    (
        re.compile(r"[Bb]atching rule|randomness|vmap: "),
        "vmap has no rule for it: write it with other operations, or loop over the samples",
    ),
    (re.compile(r"setup_context"), "an autograd.Function without setup_context: define one, and generate_vmap_rule"),
)


def transform_limit(cause: BaseException) -> str | None:
    """Return what PyTorch's transforms cannot do and the way out, or None for an error of another kind."""
    text = str(cause)
    for pattern, way_out in _TRANSFORM_LIMITS:
        if pattern.search(text):
            first = text.strip().splitlines()[0]
            return f"{way_out} ({first[:200]})"
    return None


def explain(block: Block, params: Params, x: Any, cause: BaseException) -> PureError:
    """Return the typed error for a leaf block's failure: what was given, what was expected."""
    if isinstance(cause, PureError):
        return cause
    if not isinstance(x, Tensor):
        return ArgumentError(f"{block}: input is {type(x).__name__}, expected a tensor, batch first")
    lines = differences(params, specification(block)[0])
    if lines:
        return TreeError(f"params of {block}: " + "; ".join(lines))
    for name, leaf in tree.flatten(params).items():
        if leaf.dtype != x.dtype and not autocasts(x):
            return DtypeError(f"{block}: {other_dtype(x.dtype, name, leaf.dtype)}")
        if leaf.device != x.device:
            return DeviceError(f"{block}: input is on {x.device}, params {name!r} on {leaf.device}: move one of them")
    if (limit := transform_limit(cause)) is not None:
        return UnsupportedError(f"{block}: {limit}")
    if about_shapes(cause):
        return ShapeError(f"{block}: input {describe(x)} does not fit: {cause}")
    return ForwardError(f"{block}: failed on input {describe(x)}: {type(cause).__name__}: {cause}")


def wrong_keys(block: Block, params: Params) -> TreeError:
    """Return the error for a params dict with other keys than the block's."""
    lines = differences(params, specification(block)[0])
    return TreeError(f"params of {block}: " + ("; ".join(lines) or f"unexpected keys {list(params)}"))


@dataclass(frozen=True, repr=False)
class Leaf(Block):
    """A block without children or state, defined by `forward(params, x)` and `leaf_names()`."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.init and isinstance(getattr(self, entry.name), list):  # a list of sizes; a block must be hashable
                object.__setattr__(self, entry.name, tuple(getattr(self, entry.name)))

    @property
    def stochastic(self) -> bool:
        """Whether training needs pre-drawn noise; not by default."""
        return False

    def leaf_names(self) -> tuple[str, ...]:
        """Return the names of the parameters, none by default."""
        return ()

    def forward(self, params: Params, x: Any) -> Any:
        """Return the output in evaluation."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def forward_training(self, params: Params, x: Any, noise: Any) -> Any:
        """Return the output in training; `noise` is never empty for a stochastic block."""
        return self.forward(params, x)

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the initial parameters; there is no state."""
        check_generator(generator)
        return {}, {}

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return `(y, state)`."""
        if state is not EMPTY and (not isinstance(state, dict) or state):
            raise ArgumentError(f"{self}: has no state, given {given_keys(state)}: extras are the fourth argument")
        if len(params) != len(self.leaf_names()):
            raise wrong_keys(self, params)
        try:
            if not training:
                return self.forward(params, x), state
            if not noise and self.stochastic:
                raise NoiseError(f"{self}: training needs noise: pass noise=block.noise(x.shape, generator)")
            return self.forward_training(params, x, noise), state
        except LEAF_ERRORS as error:
            raise explain(self, params, x, error) from error
