"""Jacobian–vector and vector–Jacobian products of a function at one input, with flat vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, DtypeError, UnsupportedError
from pure.flow.shared.input_checks import purely
from pure.flow.shared.math_attention import composed_attention

__all__ = ["Linearised", "linearise"]


@dataclass(frozen=True, eq=False)
class Linearised:
    """J = ∂fn(x)/∂x; all leaves of the input and of the output laid end to end.

    Attributes:
        outputs: rows of J.
        inputs: columns of J.
        dtype: the widest of the leaves'.
        device: of the first leaf.
        forward: v ↦ Jv, (inputs,) → (outputs,), in `dtype`.
        backward: u ↦ Jᵀu.
    """

    outputs: int
    inputs: int
    dtype: torch.dtype
    device: torch.device
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor], Tensor]


def linearise(fn: Callable[[Any], Any], x: tree.Tree) -> Linearised:
    """Return fn's Jacobian at x as products.

    Where an operation has no forward derivative, Jv is the derivative of u ↦ Jᵀu, applied to v.

    Args:
        fn: a pure function of one argument; tensors or trees of tensors in and out.
        x: the input.

    Raises:
        ArgumentError: `fn` cannot be called, or a leaf that is no tensor, or none at all.
        DtypeError: a leaf that is not floating point.
        UnsupportedError: NaN or infinity in the input or the output, or a function that is not pure.

    Example:
        >>> J = linearise(lambda x: {"a": 2 * x, "b": x.sum()}, torch.ones(3))
        >>> (J.outputs, J.inputs), J.forward(torch.tensor([1.0, 0.0, 0.0])), J.backward(torch.ones(4))
        ((4, 3), tensor([2., 0., 0., 1.]), tensor([3., 3., 3.]))
    """
    if not callable(fn):
        raise ArgumentError(f"fn is {type(fn).__name__}: expected a function of x; close over the parameters")
    x = tree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, x)
    given = _checked(x, "x", "hold it fixed inside fn")
    with torch.no_grad(), purely("a Jacobian", x=x):
        y = fn(x)
    made = _checked(y, "fn(x)", "return the floating-point part alone")
    dtype = given[0].dtype
    for leaf in (*given, *made):
        dtype = torch.promote_types(dtype, leaf.dtype)

    def pull(u: Any) -> Any:
        return torch.func.vjp(fn, x)[1](u)[0]

    def forward(v: Tensor) -> Tensor:
        with composed_attention():
            return _flat(tangent(_split(v, x, given)), dtype)

    def backward(u: Tensor) -> Tensor:
        with composed_attention():
            return _flat(pull(_split(u, y, made)), dtype)

    def tangent(v: Any) -> Any:
        return torch.func.jvp(fn, (x,), (v,))[1]

    def twice(v: Any) -> Any:
        return torch.func.vjp(pull, tree.tree_map(torch.zeros_like, y))[1](v)[0]

    try:
        with composed_attention():
            tangent(tree.tree_map(torch.zeros_like, x))
    except NotImplementedError:
        tangent = twice
    sizes = sum(leaf.numel() for leaf in made), sum(leaf.numel() for leaf in given)
    return Linearised(*sizes, dtype, given[0].device, forward, backward)


def _checked(value: Any, what: str, fix: str) -> list[Tensor]:
    named = tree.flatten(value)
    if not named:
        raise ArgumentError(f"{what} is {type(value).__name__} without tensors: expected at least one")
    for name, leaf in named.items():
        where = f"{what} at {name!r}" if name else what
        if not isinstance(leaf, Tensor):
            raise ArgumentError(f"{where} is {type(leaf).__name__}: expected a tensor or a tree of tensors; {fix}")
        if not leaf.is_floating_point():
            raise DtypeError(f"{where} is {leaf.dtype}, which has no derivative: expected floating point; {fix}")
        if leaf.numel() == 0:
            raise ArgumentError(f"{where} has shape {tuple(leaf.shape)}: expected at least one value")
        if not torch.isfinite(leaf.detach()).all():
            raise UnsupportedError(f"{where} holds NaN or infinity: there is no Jacobian at such a point")
    return tree.leaves(value)


def _split(flat: Tensor, like: Any, leaves: list[Tensor]) -> Any:
    parts = flat.split([leaf.numel() for leaf in leaves])
    shaped = [part.reshape(leaf.shape).to(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    return tree.tree_unflatten(shaped, tree.tree_flatten(like)[1])


def _flat(value: Any, dtype: torch.dtype) -> Tensor:
    return torch.cat([leaf.reshape(-1).to(dtype) for leaf in tree.leaves(value)])
