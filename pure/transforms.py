"""`grad` and `value_and_grad` as in `torch.func`, by plain autograd where equivalent.

A `torch.func.grad` dispatches every operation through a transform level and records a graph of the backward pass for
the transforms around it. A gradient that is taken alone, as in a training step, needs neither. These functions notice
when they are the outermost transform and then run PyTorch's autograd once; inside `vmap`, `grad`, `jvp`,
`torch.compile`, a tracer, or on inputs that themselves require grad, they are `torch.func.grad_and_value`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pure import tree
from pure.errors import ArgumentError, DtypeError, ShapeError
from pure_export_shared import raise_unless_pickles

__all__ = ["grad", "value_and_grad"]


class _Transformed(functools.partial[Any]):
    """A transform of a function: the transform's own function with the first of its arguments fixed; it pickles."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise_unless_pickles(f"pure.{self.func.__name__.strip('_')}", function=self.args[0])
        reduced: tuple[Any, ...] = super().__reduce__()  # type: ignore[assignment]
        return reduced


class _Running(threading.local):
    """Whether a gradient is being computed with plain autograd in this thread."""

    inside = False


RUNNING = _Running()


def _alone() -> bool:
    """Return whether no transform, compiler, tracer, mode or forward-mode level is active."""
    return (
        torch._C._functorch.peek_interpreter_stack() is None
        and not torch.compiler.is_dynamo_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and forward_ad._current_level < 0
        and not torch.is_inference_mode_enabled()
        and not RUNNING.inside
    )


@functools.cache
def _followed_in_inference_mode() -> bool:
    """Return whether `torch.func` differentiates in inference mode; 2.11 gives zeros there."""
    with torch.inference_mode():
        return bool(torch.func.grad(torch.sin)(torch.zeros(())))


def _loses_derivatives() -> bool:
    """Return whether `torch.func` would give a gradient of zeros here, without a word."""
    if torch.compiler.is_dynamo_compiling() or not torch.is_inference_mode_enabled():
        return False
    return torch._C._functorch.peek_interpreter_stack() is None and not _followed_in_inference_mode()


def _ordinary(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def _thawed(node: Any, leaves: list[Tensor], name: str) -> Any:
    """Return the tree with detached leaves that require grad; append them to `leaves`."""
    if type(node) is dict:
        return {key: _thawed(child, leaves, name) for key, child in node.items()}
    if isinstance(node, Tensor):
        try:
            leaf = (node.clone() if node.is_inference() else node.detach()).requires_grad_()
        except RuntimeError as error:
            raise DtypeError(
                f"grad w.r.t. {name}: leaf is {node.dtype}, expected floating point: keep it out of params"
            ) from error
        leaves.append(leaf)
        return leaf
    if isinstance(node, tuple | list | Mapping):
        flat, spec = tree.tree_flatten(node)
        if len(flat) == 1 and flat[0] is node:
            raise DtypeError(f"grad w.r.t. {name}: leaf is {type(node).__name__}, expected a tensor")
        return tree.tree_unflatten([_thawed(child, leaves, f"{name}.{i}") for i, child in enumerate(flat)], spec)
    raise DtypeError(f"grad w.r.t. {name}: leaf is {type(node).__name__}, expected a tensor")


def _rebuilt(node: Any, leaves: Iterator[Tensor]) -> Any:
    """Return the leaves in the structure of `node`."""
    if type(node) is dict:
        return {key: _rebuilt(child, leaves) for key, child in node.items()}
    return next(leaves) if isinstance(node, Tensor) else tree.tree_map(lambda _: next(leaves), node)


def _detached(value: Any) -> Any:
    return tree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, value)


def value_and_grad(
    fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """Return a function that gives `(value, grad)`; with `has_aux`, `((value, aux), grad)`.

    Args:
        fn: returns a scalar tensor, or (scalar, aux) with `has_aux`. What it is to be differentiated by must be an
            argument: tensors that it closes over count as constants.
        argnums: which positional arguments to differentiate by; a tuple gives a tuple of gradients.
        has_aux: whether `fn` returns something beside the scalar.

    Returns:
        A function of the same positional arguments. Each gradient is a tree like its argument; a leaf that the value
        does not depend on has gradient zero.

    Raises:
        ShapeError: the value is not a scalar.
        DtypeError: a leaf that is no floating-point tensor.
        ArgumentError: an `argnums` beyond the arguments given.

    Example:
        >>> value, gradient = value_and_grad(lambda p: (p["w"] ** 2).sum())({"w": torch.tensor([1.0, 2.0])})
        >>> value, gradient["w"]
        (tensor(5.), tensor([2., 4.]))
    """
    return _Transformed(_value_and_grad, fn, argnums, has_aux)


def _value_and_grad(
    fn: Callable[..., Any], argnums: int | tuple[int, ...], has_aux: bool, *args: Any
) -> tuple[Any, Any]:
    """Return the value and the gradient at `args`; the others are those of `value_and_grad`."""
    chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if any(not -len(args) <= index < len(args) for index in chosen):
        raise ArgumentError(f"grad w.r.t. argnums={argnums} of a call with {len(args)} arguments")
    if len({index % len(args) for index in chosen}) != len(chosen) or not chosen:
        raise ArgumentError(f"grad w.r.t. argnums={argnums}: expected different arguments, at least one")
    if _loses_derivatives():
        with torch.inference_mode(False):
            return _value_and_grad(fn, argnums, has_aux, *(tree.tree_map(_ordinary, arg) for arg in args))
    if not _alone() or (torch.is_grad_enabled() and any(map(_requires_grad, args))):
        gradient, value = torch.func.grad_and_value(fn, argnums, has_aux)(*args)
        return value, gradient
    leaves: list[Tensor] = []
    given = list(args)
    for index in chosen:
        given[index] = _thawed(args[index], leaves, f"argument {index}")
    RUNNING.inside = True  # a gradient inside must keep its graph for this one
    try:
        with torch.enable_grad():
            out = fn(*given)
        if has_aux and not (isinstance(out, tuple) and len(out) == 2):
            kind = type(out).__name__
            raise ArgumentError(f"grad with has_aux: the function returned {kind}, expected (value, aux)")
        value = out[0] if has_aux else out
        flat = iter(_backward(value, leaves))
    finally:
        RUNNING.inside = False
    gradients = tuple(_rebuilt(args[index], flat) for index in chosen)
    result = (value.detach(), _detached(out[1])) if has_aux else value.detach()
    return result, gradients[0] if isinstance(argnums, int) else gradients


def _requires_grad(node: Any) -> bool:
    """Return whether any leaf of the tree requires grad."""
    if isinstance(node, Tensor):
        return node.requires_grad
    if type(node) is dict:
        return any(map(_requires_grad, node.values()))
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree.leaves(node))


def _backward(value: Any, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    if not isinstance(value, Tensor) or value.numel() != 1 or value.ndim:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(
            f"grad: the function returned {given}, expected a scalar tensor of shape (): reduce by sum or mean"
        )
    if not value.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(value, leaves, allow_unused=True)
    return tuple(torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True))


def grad(fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function that gives the gradient of `fn`; with `has_aux`, `(gradient, aux)`.

    The arguments are those of `value_and_grad`.

    Example:
        >>> grad(torch.sin)(torch.tensor(0.0))
        tensor(1.)
    """
    return _Transformed(_grad, fn, argnums, has_aux)


def _grad(fn: Callable[..., Any], argnums: int | tuple[int, ...], has_aux: bool, *args: Any) -> Any:
    value, gradient = _value_and_grad(fn, argnums, has_aux, *args)
    return (gradient, value[1]) if has_aux else gradient
