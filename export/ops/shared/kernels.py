"""Helpers for the rules of operators: kernels of `vmap` and of forward mode, fake results, PyTorch's own rules.

A rule of `vmap` gets its tensors with the mapped axis in front, or not mapped at all. It folds that axis into one that
the operator treats alike, calls the operator once and unfolds the result; all sizes may be symbolic.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet, _functorch
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

with warnings.catch_warnings():  # PyTorch makes scripts of these rules when it imports them, and warns of itself
    warnings.simplefilter("ignore", FutureWarning)
    from torch._decomp.decompositions_for_jvp import decomposition_table_for_jvp as JVP_DECOMPOSITIONS

__all__ = [
    "JVP_DECOMPOSITIONS",
    "Kernel",
    "Size",
    "fake_like",
    "fold",
    "folded",
    "has_tangent",
    "mapped_axis",
    "mapped_kernel",
    "mapped_size",
    "pointwise",
    "pytorch_rules",
    "under_jvp",
    "unfold",
    "with_mapped_axis",
    "with_number",
]

aten: Any = torch.ops.aten

Kernel = Callable[..., Any]

Size = int | torch.SymInt


def pytorch_rules(*operators: Any) -> dict[Any, Kernel]:
    """Return {operator: PyTorch's decomposition}, for operators that PyTorch leaves whole by default.

    Operators that this version of PyTorch cannot decompose are left out.
    """
    return {operator: decomposition_table[operator] for operator in operators if operator in decomposition_table}


def mapped_kernel(op: Any, rule: Kernel) -> Kernel:
    """Make a kernel of `vmap` from a rule.

    Args:
        op: the operator, called as it is where nothing is mapped by the innermost `vmap`.
        rule: `(mapped, *arguments) → outputs`. `mapped` tells for each argument whether its first axis is the
            mapped one. An output's first axis is the mapped one; None stays None.
    """

    @functools.wraps(rule)
    def kernel(*args: Any, **settings: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(DispatchKeySet(DispatchKey.FuncTorchBatched)):
            pairs = [_unwrapped(arg) for arg in args]
            mapped = [axis is not None for _, axis in pairs]
            plain = [value if axis is None else value.movedim(axis, 0) for value, axis in pairs]
            if not any(mapped):
                return op(*plain, **settings)
            result = rule(mapped, *plain, **settings)
        outputs = result if isinstance(result, tuple) else (result,)
        level = _vmap_level()
        wrapped = [None if x is None else _functorch._add_batch_dim(x, 0, level) for x in outputs]
        return tuple(wrapped) if isinstance(result, tuple) else wrapped[0]

    return kernel


def _vmap_level() -> int:
    """Return the level of the `vmap` whose rule runs."""
    level = _functorch.maybe_current_level()
    if level is None:
        raise RuntimeError("a rule of vmap runs inside a vmap")
    return level


def _unwrapped(arg: Any) -> tuple[Any, int | None]:
    """Return an argument without `vmap`'s wrapper, and its mapped axis; None if it has none."""
    return _functorch._unwrap_batched(arg, _vmap_level()) if isinstance(arg, Tensor) else (arg, None)


def mapped_axis(arg: Any) -> int | None:
    """Return the axis of an argument that the innermost `vmap` maps; None if it maps none."""
    return _unwrapped(arg)[1]


def fold(x: Tensor) -> Tensor:
    """(mapped, batch, …) → (mapped · batch, …)."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def unfold(x: Tensor, size: Size, batch: Size) -> Tensor:
    """(mapped · batch, …) → (mapped, batch, …)."""
    return x.reshape(size, batch, *x.shape[1:])


def with_mapped_axis(x: Tensor, mapped: bool, size: Size) -> Tensor:
    """Give an argument the mapped axis if it has none."""
    return x if mapped else x.unsqueeze(0).expand(size, *x.shape)


def mapped_size(mapped: Sequence[bool], args: Sequence[Any]) -> Size:
    """Return the size of the mapped axis."""
    size: Size = next(x.shape[0] for x, is_mapped in zip(args, mapped, strict=True) if is_mapped)
    return size


def folded(*operators: Any) -> dict[Any, Kernel]:
    """Return {operator: kernel} for operators whose tensors all have the batch in front.

    The mapped axis and the batch become one.
    """

    def kernel(op: Any) -> Kernel:
        def rule(mapped: Sequence[bool], *args: Any) -> Any:
            size = mapped_size(mapped, args)
            pairs = zip(args, mapped, strict=True)
            flat = [fold(with_mapped_axis(x, known, size)) if isinstance(x, Tensor) else x for x, known in pairs]
            result = op(*flat)
            several = isinstance(result, tuple)
            parts = result if several else (result,)
            unfolded = tuple(unfold(x, size, x.shape[0] // size) for x in parts)
            return unfolded if several else unfolded[0]

        return mapped_kernel(op, rule)

    return {op: kernel(op) for op in operators}


def pointwise(*operators: Any) -> dict[Any, Kernel]:
    """Return {operator: kernel} for elementwise operators.

    Tensors of lower rank get axes of size 1 after the mapped one.
    """

    def kernel(op: Any) -> Kernel:
        def rule(mapped: Sequence[bool], *args: Any, **settings: Any) -> Any:
            ranks = [x.dim() - known if isinstance(x, Tensor) else 0 for x, known in zip(args, mapped, strict=True)]
            highest = max(ranks)

            def aligned(x: Any, known: bool, rank: int) -> Any:
                return x.reshape(x.shape[0], *[1] * (highest - rank), *x.shape[1:]) if known and rank < highest else x

            return op(*map(aligned, args, mapped, ranks), **settings)

        return mapped_kernel(op, rule)

    return {op: kernel(op) for op in operators}


def with_number(*operators: Any) -> dict[Any, Kernel]:
    """Return {operator: kernel} for operators of two arguments, one of which may be a symbolic size.

    PyTorch casts a number to the dtype of a mapped element of rank 0, which fails for a symbolic one. Two tensors are
    left to PyTorch, whose promotion of dtypes goes by their ranks without the mapped axis.
    """

    def kernel(op: Any) -> Kernel:
        with_size = mapped_kernel(op, lambda mapped, *args, **settings: op(*args, **settings))

        def rule(x: Any, y: Any, **settings: Any) -> Any:
            if isinstance(x, Tensor) and isinstance(y, Tensor):
                return op._op_dk(DispatchKey.FuncTorchBatched, x, y, **settings)
            return with_size(x, y, **settings)

        return rule

    return {op: kernel(op) for op in operators}


def under_jvp(op: Any, elementary: Kernel) -> Kernel:
    """Make a kernel of `Autograd`: elementary where a level of `jvp` derives it, PyTorch's own elsewhere.

    PyTorch's own serves as well where the elementary one returns NotImplemented.
    """

    @functools.wraps(elementary)
    def kernel(*args: Any, **settings: Any) -> Any:
        level = _functorch.peek_interpreter_stack()
        if level is not None and level.key() == _functorch.TransformType.Jvp and any(map(has_tangent, args)):
            result = elementary(*args, **settings)
            if result is not NotImplemented:
                return result
        return op._op_dk(DispatchKey.Autograd, *args, **settings)

    return kernel


def has_tangent(arg: Any) -> bool:
    """Tell whether an argument is a tensor with a tangent."""
    return isinstance(arg, Tensor) and fwAD.unpack_dual(arg).tangent is not None


def fake_like(mode: FakeTensorMode, x: FakeTensor, shape: Any, dtype: torch.dtype) -> FakeTensor:
    """Return a fake tensor on the device of `x`, without running an operator."""
    return FakeTensor(mode, torch.empty(shape, dtype=dtype, device="meta"), x.fake_device)
