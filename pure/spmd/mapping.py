"""`shard_map`: a function of one rank's part as a function of whole values, which torch.func can transform."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

from pure import tree
from pure.errors import ArgumentError
from pure.spmd.agreement import meet, stay_together
from pure.spmd.collective_maps import Call, linear
from pure.spmd.process_group import Group, eager, mapped_over, raise_if_recorded, resolve

__all__ = ["shard_map"]

OUTS = ("same", "sum", "sharded")
MAX_DEPTH = 4
"""How many closures, partial functions and containers inside one another are searched for tensors."""


def shard_map(
    fn: Callable[..., Any],
    *,
    sharded: int | tuple[int, ...],
    out: Any = "same",
    group: Group = "world",
    check: bool = True,
) -> Callable[..., Any]:
    """Return `fn` as a function of whole values, of which each rank computes its part.

    Every rank calls it at the same time. Under `grad`, `vjp`, `jvp`, `vmap`, `jacrev`, `jacfwd`, `hessian` and any
    nesting of them, and in plain autograd, the result is what one process would compute of all parts together.
    Derivatives with respect to a shared argument are added over the ranks; those with respect to a sharded one are each
    rank's own.

    Args:
        fn: a function of this rank's arguments, which may call `psum`, `pmean` and `gather`. What it closes over counts
            as constant: what is differentiated must be an argument.
        sharded: positions of the arguments of which each rank holds a part. All others are shared: every rank gives
            the same values.
        out: "same" where all ranks compute the same, as after a `psum`; "sum" where the whole is the sum of what the
            ranks return; "sharded" where each rank keeps its own. Or a tuple or dict of these, for parts of the result.
        group: the ranks.
        check: whether shared arguments and results of "same" are compared between ranks: three sums a leaf of an
            argument, and every value of a result. Two values count as equal up to half of their digits.

    Raises:
        ArgumentError: another `out`, a position out of range, or a function that closes over what is differentiated.
        GroupError: no process group, a process that is not in it, or a `shard_map` inside one over the same group.
        RanksDifferError: shared values differ between ranks, or the ranks are at different calls.
        PeerFailedError: another rank raised an error, which it quotes, or has ended.
        UnsupportedError: the call is being recorded, as for an ONNX file.

    Example:
        On two ranks, the gradient of the mean loss over both parts:

        >>> from pure import spmd
        >>> def loss(params, x):
        ...     return spmd.pmean((x @ params).square().mean(), weight=len(x))
        >>> mapped = spmd.shard_map(loss, sharded=1)
        >>> gradient = lambda params, x: torch.func.grad(mapped)(params, x)
    """
    positions = (sharded,) if isinstance(sharded, int) else tuple(sharded)
    all_leave = "sharded" not in _kinds(out)

    @eager
    @functools.wraps(fn)
    def mapped(*args: Any) -> Any:
        raise_if_recorded("shard_map")
        ranks = resolve(group)
        name = getattr(fn, "__qualname__", type(fn).__name__)
        with stay_together(ranks), mapped_over(ranks):
            if any(not -len(args) <= at < len(args) for at in positions):
                raise ArgumentError(f"shard_map sharded={sharded} of a call with {len(args)} arguments")
            held = {at % len(args) for at in positions}
            _raise_if_differentiated(fn, name)
            inner = [
                arg if at in held else _each("enter", arg, Call.begun(ranks, f"argument {at} of {name}", checked=check))
                for at, arg in enumerate(args)
            ]
            result = _left(out, fn(*inner), lambda: Call.begun(ranks, f"the result of {name}", checked=check))
            if not all_leave:
                meet(ranks, f"the end of {name}")  # so that an error on one rank does not find the others gone
            return result

    return mapped


def _kinds(out: Any) -> set[str]:
    """Return the kinds of result that `out` names.

    Raises:
        ArgumentError: an unknown one.
    """
    parts = out.values() if isinstance(out, Mapping) else out if isinstance(out, tuple) else None
    if parts is not None:
        return {kind for part in parts for kind in _kinds(part)}
    if out not in OUTS:
        raise ArgumentError(
            f"shard_map out={out!r}: expected one of {', '.join(map(repr, OUTS))}, or a tuple or dict of them"
        )
    return {out}


def _each(name: str, value: tree.Tree, call: Call) -> tree.Tree:
    """Apply a map to the floating-point leaves of a tree; other leaves stay as they are."""
    leaves, spec = tree.tree_flatten(value)
    chosen = [at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and _has_derivative(leaf)]
    if chosen:
        for at, leaf in zip(chosen, linear(name, call, *(leaves[at] for at in chosen)), strict=True):
            leaves[at] = leaf
    return tree.tree_unflatten(leaves, spec)


def _has_derivative(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def _left(out: Any, result: Any, begin: Callable[[], Call]) -> Any:
    """Return a result as the caller of `shard_map` sees it."""
    if isinstance(out, tuple):
        if not isinstance(result, tuple) or len(result) != len(out):
            given = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise ArgumentError(f"shard_map out={out}: the function returned {given}, expected {len(out)}")
        return tuple(_left(kind, part, begin) for kind, part in zip(out, result, strict=True))
    if isinstance(out, Mapping):
        if not isinstance(result, Mapping) or result.keys() != out.keys():
            given = f"keys {list(result)}" if isinstance(result, Mapping) else type(result).__name__
            raise ArgumentError(f"shard_map out={out}: the function returned {given}, expected keys {list(out)}")
        return {key: _left(kind, result[key], begin) for key, kind in out.items()}
    if out == "sharded":
        return result
    leaves, spec = tree.tree_flatten(result)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise ArgumentError(f"shard_map out={out!r}: the function returned {type(leaf).__name__}, expected tensors")
    return (
        tree.tree_unflatten(list(linear({"same": "leave", "sum": "total"}[out], begin(), *leaves)), spec)
        if leaves
        else result
    )


def _raise_if_differentiated(fn: Any, name: str) -> None:
    """Raise if a function closes over a tensor that is being differentiated.

    Raises:
        ArgumentError: its derivative would lack the other ranks' parts.
    """
    for leaf in _closed_over(fn, 0):
        if _followed(leaf):
            raise ArgumentError(
                f"shard_map of {name}: it closes over a tensor of shape {tuple(leaf.shape)} that is being "
                "differentiated, whose derivative would lack the other ranks' parts: pass it as an argument"
            )


def _closed_over(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth <= MAX_DEPTH:
        inner: list[Any] = []
        if isinstance(value, FunctionType):
            inner = [*_contents(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        elif isinstance(value, functools.partial):
            inner = [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, MethodType):
            inner = [value.__self__, value.__func__]
        elif isinstance(value, torch.nn.Module):
            inner = list(value.parameters())
        elif isinstance(value, dict):
            inner = list(value.values())
        elif isinstance(value, list | tuple):
            inner = list(value)
        for part in inner:
            yield from _closed_over(part, depth + (not isinstance(value, dict | list | tuple)))


def _contents(fn: FunctionType) -> Iterator[Any]:
    for cell in fn.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _followed(leaf: Tensor) -> bool:
    """Return whether a transform or plain autograd differentiates with respect to a tensor."""
    while _functorch.is_functorch_wrapped_tensor(leaf):
        if _functorch.is_gradtrackingtensor(leaf):
            return True
        leaf = _functorch.get_unwrapped(leaf)
    if leaf.requires_grad and torch.is_grad_enabled():
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(leaf).tangent is not None
