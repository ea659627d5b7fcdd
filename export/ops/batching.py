"""Rules of ``vmap`` that keep symbolic sizes, for operators whose own rule in PyTorch asks for sizes as numbers.

A rule gets its tensors with the mapped axis in front, or not mapped at all. It folds that axis into one that the
operator treats alike, calls the operator once and unfolds the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet, _functorch
from torch._decomp import decomposition_table

aten: Any = torch.ops.aten
Rule = Callable[..., Any]
Size = int | torch.SymInt


def mapped_kernel(op: Any, rule: Rule) -> Rule:
    """Make a kernel of ``vmap`` from a rule.

    Args:
        op: The operator, called as it is where nothing is mapped by the innermost ``vmap``.
        rule: ``(mapped, *arguments) → outputs``. ``mapped`` tells for each argument whether its first axis is the
            mapped one. An output's first axis is the mapped one; None stays None.
    """

    @functools.wraps(rule)
    def kernel(*args: Any, **settings: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(DispatchKeySet(DispatchKey.FuncTorchBatched)):
            pairs = [_split(arg) for arg in args]
            mapped = [axis is not None for _, axis in pairs]
            plain = [value if axis is None else value.movedim(axis, 0) for value, axis in pairs]
            if not any(mapped):
                return op(*plain, **settings)
            result = rule(mapped, *plain, **settings)
        outputs = result if isinstance(result, tuple) else (result,)
        level = _level()
        wrapped = [None if x is None else _functorch._add_batch_dim(x, 0, level) for x in outputs]
        return tuple(wrapped) if isinstance(result, tuple) else wrapped[0]

    return kernel


def _level() -> int:
    """Return the number of the ``vmap`` whose rule runs."""
    level = _functorch.maybe_current_level()
    if level is None:
        raise RuntimeError("a rule of vmap runs inside a vmap")
    return level


def _split(arg: Any) -> tuple[Any, int | None]:
    """Return an argument without its mapped axis' mark, and that axis; None if it is not mapped."""
    return _functorch._unwrap_batched(arg, _level()) if isinstance(arg, Tensor) else (arg, None)


def fold(x: Tensor) -> Tensor:
    """(mapped, batch, …) → (mapped · batch, …)."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def unfold(x: Tensor, size: Size, batch: Size) -> Tensor:
    """(mapped · batch, …) → (mapped, batch, …)."""
    return x.reshape(size, batch, *x.shape[1:])


def spread(x: Tensor, mapped: bool, size: Size) -> Tensor:
    """Give an argument the mapped axis if it has none."""
    return x if mapped else x.unsqueeze(0).expand(size, *x.shape)


def mapped_size(mapped: Sequence[bool], args: Sequence[Any]) -> Size:
    """Return the size of the mapped axis."""
    size: Size = next(x.shape[0] for x, is_mapped in zip(args, mapped, strict=True) if is_mapped)
    return size


def _folded(op: Any) -> Rule:
    """The rule of an operator whose tensors all have the batch in front: mapped axis and batch become one."""

    def rule(mapped: Sequence[bool], *args: Any) -> Any:
        size = mapped_size(mapped, args)
        pairs = zip(args, mapped, strict=True)
        flat = [fold(spread(arg, known, size)) if isinstance(arg, Tensor) else arg for arg, known in pairs]
        result = op(*flat)
        several = isinstance(result, tuple)
        parts = result if several else (result,)
        unfolded = tuple(unfold(x, size, x.shape[0] // size) for x in parts)
        return unfolded if several else unfolded[0]

    return rule


def _pointwise(op: Any) -> Rule:
    """The rule of an elementwise operator: tensors of fewer axes get axes of one after the mapped one."""

    def rule(mapped: Sequence[bool], *args: Any, **settings: Any) -> Any:
        ranks = [x.dim() - known if isinstance(x, Tensor) else 0 for x, known in zip(args, mapped, strict=True)]
        highest = max(ranks)

        def aligned(x: Any, known: bool, rank: int) -> Any:
            return x.reshape(x.shape[0], *[1] * (highest - rank), *x.shape[1:]) if known and rank < highest else x

        return op(*map(aligned, args, mapped, ranks), **settings)

    return rule


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``aten.cat``, whose tensors come in a list."""
    rank = max(x.dim() for x in tensors)

    def rule(mapped: Sequence[bool], *tensors: Tensor) -> Tensor:
        size = mapped_size(mapped, tensors)
        spread_out = [spread(x, known, size) for x, known in zip(tensors, mapped, strict=True)]
        result: Tensor = aten.cat.default(spread_out, dim % rank + 1)
        return result

    def whole(*tensors: Tensor) -> Tensor:
        result: Tensor = aten.cat.default(list(tensors), dim)
        return result

    result: Tensor = mapped_kernel(whole, rule)(*tensors)
    return result


def _layer_norm(
    mapped: Sequence[bool], x: Tensor, shape: Sequence[Size], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    """The mapped axis is one more outer axis; a mapped weight or bias is applied afterwards."""
    x = spread(x, mapped[0], mapped_size(mapped, (x, shape, weight, bias, eps)))
    inside = not (mapped[2] or mapped[3])
    y, mean, inverse = aten.native_layer_norm.default(
        x, shape, weight if inside else None, bias if inside else None, eps
    )
    if not inside:
        y = _scaled(y, weight, mapped[2], bias, mapped[3], y.dim() - len(shape))
    return y, mean, inverse


def _scaled(y: Tensor, weight: Tensor | None, by: bool, bias: Tensor | None, add: bool, axis: int) -> Tensor:
    """y · weight + bias, theirs first axis after the mapped one being ``axis`` of y."""

    def placed(value: Tensor, mapped: bool) -> Tensor:
        front = [value.shape[0], *[1] * (axis - 1)] if mapped else []
        inner = list(value.shape[mapped:])
        return value.reshape(*front, *inner, *[1] * (y.dim() - axis - len(inner)))

    if weight is not None:
        y = y * placed(weight, by)
    return y if bias is None else y + placed(bias, add)


def _group_norm(
    mapped: Sequence[bool],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    n: Size,
    channels: Size,
    area: Size,
    groups: int,
    eps: float,
) -> tuple[Tensor, ...]:
    """Each sample is normalised alone: the mapped axis joins the batch."""
    size = mapped_size(mapped, (x, weight, bias, n, channels, area, groups, eps))
    inside = not (mapped[1] or mapped[2])
    scale, shift = (weight, bias) if inside else (None, None)
    flat = fold(spread(x, mapped[0], size))
    results = aten.native_group_norm.default(flat, scale, shift, size * n, channels, area, groups, eps)
    y, mean, inverse = (unfold(value, size, n) for value in results)
    if not inside:
        y = _scaled(y, weight, mapped[1], bias, mapped[2], 2)
    return y, mean, inverse


def _batch_norm(op: Any) -> Rule:
    """Evaluation joins the mapped axis to the batch; all else is made of elementary operations."""
    elementary = decomposition_table[op]

    def rule(mapped: Sequence[bool], x: Tensor, *rest: Any) -> Any:
        size, n = x.shape[:2]
        y, *kept = op(fold(x), *rest)
        return unfold(y, size, n), *(spread(value, False, size) for value in kept)

    kernel = mapped_kernel(op, rule)
    flag = next((i for i, argument in enumerate(op._schema.arguments) if argument.name == "training"), None)

    def choose(x: Tensor, *rest: Any) -> Any:
        alone = all(_split(arg)[1] is None for arg in rest)
        evaluation = flag is None or not rest[flag - 1]
        return (kernel if alone and evaluation else elementary)(x, *rest)

    return choose


def _count_nonzero(x: Tensor, dim: Any = None) -> Tensor:
    """``aten.count_nonzero``, as a sum."""
    return (x != 0).sum(dim)


def _masked_fill(x: Tensor, mask: Tensor, value: Tensor) -> Tensor:
    """``aten.masked_fill`` by a tensor without axes, as a choice."""
    return torch.where(mask, value.to(x.dtype), x)


_FOLDED = (
    aten.max_pool2d_with_indices.default,
    aten.max_pool2d_with_indices_backward.default,
    aten.avg_pool2d.default,
    aten.avg_pool2d_backward.default,
    aten._adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool2d_backward.default,
)

_ELEMENTARY = (
    aten.native_layer_norm_backward.default,
    aten.native_group_norm_backward.default,
    aten.native_batch_norm_backward.default,
)
"""Operators that PyTorch can make of operations whose rules keep symbolic sizes."""

_POINTWISE = (
    aten.addcdiv.default,
    aten.addcmul.default,
    aten.clamp.Tensor,
    aten.lerp.Scalar,
    aten.lerp.Tensor,
    aten.elu_backward.default,
    aten.gelu_backward.default,
    aten.hardsigmoid_backward.default,
    aten.hardswish_backward.default,
    aten.hardtanh_backward.default,
    aten.leaky_relu_backward.default,
    aten.mish_backward.default,
    aten.silu_backward.default,
    aten.softplus_backward.default,
    aten.threshold_backward.default,
)

RULES: dict[Any, Rule] = {
    aten.cat.default: _cat,
    aten.count_nonzero.default: _count_nonzero,
    aten.count_nonzero.dim_IntList: _count_nonzero,
    aten.masked_fill.Tensor: _masked_fill,
    **{op: mapped_kernel(op, _pointwise(op)) for op in _POINTWISE},
    aten.native_layer_norm.default: mapped_kernel(aten.native_layer_norm.default, _layer_norm),
    aten.native_group_norm.default: mapped_kernel(aten.native_group_norm.default, _group_norm),
    aten.native_batch_norm.default: _batch_norm(aten.native_batch_norm.default),
    aten._native_batch_norm_legit_no_training.default: _batch_norm(aten._native_batch_norm_legit_no_training.default),
    **{op: mapped_kernel(op, _folded(op)) for op in _FOLDED},
    **{op: decomposition_table[op] for op in _ELEMENTARY},
}
"""{operator: kernel}."""
