"""How large a rounding each operator may make: the noise of Monte Carlo arithmetic, operator by operator.

Noise is given in units of the rounding unit u of the operator's recorded dtype (2⁻²⁴ for float32). An operator that
only moves or selects values makes none. One that computes a number from a few numbers makes |y|. A sum of n products
makes the sum of their magnitudes, times a factor for its length, since an implementation may add in any order (Higham,
Accuracy and Stability of Numerical Algorithms, section 4.2). Operators made of others are decomposed before they are
run, so that the model has to know primitive operators only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

__all__ = [
    "LOW",
    "UNITS",
    "cast_to",
    "is_exact",
    "is_float",
    "is_primitive",
    "name_of",
    "noise",
    "rounding_of",
    "widened",
]

aten: Any = torch.ops.aten

LOW = frozenset({torch.float32, torch.float16, torch.bfloat16})
"""The dtypes that float64 stands in for."""

UNITS = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""The largest relative error of rounding to a dtype."""

SUBNORMAL = {UNITS[dtype]: float(torch.finfo(dtype).smallest_normal) for dtype in UNITS}
"""Below which values a dtype has fewer digits, by its rounding unit: all are multiples of twice the unit times this."""


def rounding_of(unit: float, size: Tensor, y: Any) -> Tensor:
    """Return roundings in units of `unit` as numbers of few digits, those of values too small for the dtype too."""
    found = size.mul_(unit).nan_to_num_(nan=0.0, posinf=0.0)  # in place: of a large result few copies have room
    small = (y != 0) & (y.abs() < SUBNORMAL[unit])
    found = torch.where(small, found.clamp(min=2 * unit * SUBNORMAL[unit]), found) if bool(small.any()) else found
    if unit == UNITS[torch.float64]:
        return found
    short = torch.finfo(torch.bfloat16)  # roundings of a graph lie in memory together
    tiny = bool(((found > 0) & (found < short.smallest_normal)).any())
    return found.clamp_(max=short.max).to(torch.float32 if tiny else torch.bfloat16)


ORDERED_SUM = 0.25
"""The root mean square error of n like-sized terms that are added in order, as a share of √n rounding units."""

ALIKE_TERMS_SHARE = 1 / 16
"""The error of n equal terms that are added in order, as a share of n: all roundings of a binade have one sign."""

MANY_TERMS_SHARE = 1 / 1024
"""The same of very many terms, which lose their last digits to the sum in the same way."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXACT = _names(
    """
    _unsafe_view abs alias amax amin arange argmax argmin as_strided bitwise_not cat ceil clamp clamp_max
    clamp_min clone constant_pad_nd contiguous copy detach device_put diagonal embedding empty empty_like
    empty_strided expand eye fill flip floor fmod full full_like gather getitem hardtanh index index_put
    index_select isfinite isinf isnan lift lift_fresh lift_fresh_copy logical_not masked_fill max
    max_pool2d_with_indices max_pool3d_with_indices maximum min minimum neg new_empty new_empty_strided new_full
    new_ones new_zeros ones ones_like permute positive reflection_pad1d reflection_pad2d reflection_pad3d relu
    repeat replication_pad1d replication_pad2d replication_pad3d reshape roll round scalar_tensor scatter select
    select_scatter sgn sign slice slice_scatter sort split split_with_sizes squeeze stack t topk transpose tril
    triu trunc unbind unfold unsqueeze view view_copy where zeros zeros_like _unsafe_index all any
    threshold_backward fix broadcast_in_dim collapse_view split_dim view_of iota upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d
    """
)
"""Operators whose result holds values of their arguments, or whole numbers."""

SUMS = _names(
    """
    _adaptive_avg_pool2d_backward _adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d_backward
    _unsafe_index_put addbmm addmm addmv addr avg_pool1d avg_pool2d avg_pool2d_backward avg_pool3d
    avg_pool3d_backward baddbmm bmm col2im convolution convolution_backward cumsum dot embedding_dense_backward
    grouped_mm im2col index_add index_put linalg_vector_norm max_pool2d_with_indices_backward
    max_pool3d_with_indices_backward mean mm mv replication_pad1d_backward replication_pad2d_backward
    replication_pad3d_backward reflection_pad1d_backward reflection_pad2d_backward scatter_add scatter_reduce
    select_backward slice_backward sum upsample_nearest1d_backward upsample_nearest2d_backward
    upsample_nearest3d_backward _upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward
    _upsample_nearest_exact3d_backward vdot
    """
)
"""Sums of products: their noise is the same operator on the magnitudes of its arguments."""

INTERPOLATIONS = _names(
    """
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d upsample_linear1d_backward
    upsample_bilinear2d_backward upsample_trilinear3d_backward upsample_bicubic2d_backward
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_bilinear2d_aa_backward
    _upsample_bicubic2d_aa_backward
    """
)
"""Means with weights that come from a position: a position of size n, rounded, moves a weight by n roundings."""

IN_ORDER = _names(
    """
    _unsafe_index_put cumsum embedding_dense_backward index_add index_put max_pool2d_with_indices_backward
    max_pool3d_with_indices_backward scatter_add scatter_reduce
    """
)
"""Sums that every implementation takes term after term; how many terms a result has depends on the positions."""

SELECTIONS = frozenset({"scatter_reduce", "index_put"})
"""Sums only if they are told to add."""


def _absolute(size: float) -> Callable[[Sequence[Any], Tensor], Tensor]:
    return lambda args, y: torch.full_like(y, size)


def _relative(factor: float) -> Callable[[Sequence[Any], Tensor], Tensor]:
    return lambda args, y: y.abs() * factor


def _of_input(factor: float) -> Callable[[Sequence[Any], Tensor], Tensor]:
    return lambda args, y: args[0].abs() * factor


def _power(args: Sequence[Any], y: Tensor) -> Tensor:
    base, exponent = (a if isinstance(a, Tensor) else torch.tensor(float(a), dtype=y.dtype) for a in args[:2])
    return y.abs() * (1 + torch.nan_to_num((exponent * base.abs().log()).abs(), 0, 0, 0))


FUNCTIONS: dict[str, Callable[[Sequence[Any], Tensor], Tensor]] = {
    "sigmoid": _absolute(2.0),  # ONNX Runtime's float32 kernel keeps an absolute error, not a relative one
    "silu": _of_input(2.0),
    "tanh": _relative(4.0),
    "erf": _relative(4.0),
    "gelu": _of_input(1.0),  # x Φ(x) from 1 + erf, which cancels for negative x
    "mish": _of_input(2.0),
    "softplus": lambda args, y: torch.clamp(y.abs(), min=1.0),  # log(1 + exp(x))
    "log_sigmoid_forward": lambda args, y: torch.clamp(y.abs(), min=1.0),
    "exp": _relative(2.0),
    "exp2": _relative(2.0),
    "pow": _power,
    "log1p": lambda args, y: torch.clamp(y.abs(), min=1.0),
    "expm1": lambda args, y: torch.clamp(y.abs(), min=1.0),
    "sinh": _relative(4.0),
    "cosh": _relative(4.0),
    "asinh": lambda args, y: torch.clamp(y.abs(), min=1.0),
    "acosh": lambda args, y: torch.clamp(y.abs(), min=1.0),
    "atanh": lambda args, y: torch.clamp(y.abs(), min=1.0),
    "tan": _relative(4.0),
}
"""Elementary functions whose kernels are coarser than one rounding."""


NORMS = _names(
    """
    native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit
    _native_batch_norm_legit_no_training _fused_rms_norm
    """
)
"""Normalisations: an implementation may scale before it takes the mean away, so that their difference may cancel."""


def name_of(target: Any) -> str:
    """Return an operator's name without its namespace and overload: `add` for `aten.add.Tensor`."""
    schema = getattr(target, "_schema", None)
    return schema.name.partition("::")[2] if schema is not None else getattr(target, "__name__", str(target))


CASTS = frozenset({"_to_copy", "convert_element_type"})


def cast_to(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> torch.dtype | None:
    """Return the dtype that a cast gives, None if the operator is no cast."""
    if name == "convert_element_type":
        return args[1] if len(args) > 1 else kwargs["dtype"]
    return kwargs.get("dtype") if name == "_to_copy" else None


def is_primitive(target: Any) -> bool:
    """Tell whether the model knows the operator itself; others are decomposed where PyTorch can."""
    name = name_of(target)
    if name in EXACT or name in SUMS or name in INTERPOLATIONS or name in FUNCTIONS or name in NORMS or name in CASTS:
        return True
    return torch.Tag.pointwise in getattr(target, "tags", ()) or target not in decomposition_table


def is_exact(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether an operator makes no rounding."""
    if name in SELECTIONS:
        adds = {*args, *kwargs.values()} if name == "scatter_reduce" else set()
        accumulates = bool(kwargs.get("accumulate", len(args) > 3 and args[3])) if name == "index_put" else False
        return not accumulates if name == "index_put" else not adds & {"sum", "mean", "prod"}
    return name in EXACT


def noise(target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Return the size of each result's rounding, in rounding units, in the structure of `out`.

    Args:
        target: the operator.
        name: its name, as by `name_of`.
        args: what it was called with, in float64.
        kwargs: the same.
        out: what it returned.
    """
    results = out if isinstance(out, (tuple, list)) else (out,)
    own = [y.abs() if is_float(y) else None for y in results]
    if name in NORMS:
        own = _norm_noise(name, args, results)
    elif name in FUNCTIONS:
        own = [FUNCTIONS[name](args, y) if is_float(y) else None for y in results]
    elif (name in SUMS or name in INTERPOLATIONS) and any(is_float(y) for y in results):
        sizes = target(*[_magnitude(a) for a in args], **kwargs)
        sizes = sizes if isinstance(sizes, (tuple, list)) else (sizes,)
        factor: Any = _length_factor(name, args, results)
        if name in IN_ORDER:
            counts = target(*[_ones(a) for a in args], **kwargs)
            factor = torch.maximum((ORDERED_SUM * counts.sqrt()).clamp(min=1.0), ALIKE_TERMS_SHARE * counts)
        if "bicubic" in name:  # weights of both signs: what they cancel is as large as the largest value near
            sizes = [torch.full_like(size, float(args[0].abs().max())) for size in sizes]
        both = zip(results, sizes, strict=True)
        own = [size.abs().mul_(factor).add_(y.abs()) if is_float(y) else None for y, size in both]
    elif name == "var":  # of the mean's rounding nothing is left, as the deviations from it sum to 0
        own = [y.abs() * _length_factor("sum", args, results) * 2 for y in results]
    elif name == "_linalg_det":  # a sum over permutations, by an LU factorisation
        own = [y.abs() * args[0].shape[-1] + args[0].abs().sum(-1).prod(-1) for y in results[:1]] + [None] * 2
    elif name == "prod":
        own = [y.abs() * math.sqrt(max(args[0].numel() / max(y.numel(), 1), 1)) for y in results]
    return type(out)(own) if isinstance(out, (tuple, list)) else own[0]


def _norm_noise(name: str, args: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    """Return the rounding of a normalisation's result and statistics.

    With x̂ = (x − m) r w + b: each term's own rounding, that of the mean, and that of r, which knows the deviations no
    better than x itself.
    """
    x, y = args[0], results[0]
    fixed = False
    weight, bias = (args[2], args[3]) if name == "native_layer_norm" else (args[1], args[2])
    if name == "native_layer_norm":
        axes = tuple(range(x.dim() - len(args[1]), x.dim()))
        values, mean = x, x.mean(axes, keepdim=True)
        eps = args[4]
    elif name == "_fused_rms_norm":
        axes = tuple(range(x.dim() - len(args[1]), x.dim()))
        values, mean, weight, bias = x, torch.zeros_like(x.mean(axes, keepdim=True)), args[2], None
        eps = args[3] or 0.0
    elif name == "native_group_norm":
        groups, eps = args[6], args[7]
        values = x.reshape(x.shape[0], groups, math.prod(x.shape[1:]) // groups)
        axes = (2,)
        mean = values.mean(axes, keepdim=True)
    else:
        values, eps = x, args[-1]
        axes = tuple(i for i in range(x.dim()) if i != 1)
        fixed = name == "_native_batch_norm_legit_no_training" or not args[5]
        mean = args[3].reshape(1, -1, *[1] * (x.dim() - 2)) if fixed else x.mean(axes, keepdim=True)
    if not fixed:
        square = (values - mean).square().mean(axes, keepdim=True)
        length = _sum_factor(values.numel() / max(mean.numel(), 1))
        of_mean = values.abs().mean(axes, keepdim=True) * length
    else:
        square, length = args[4].reshape(mean.shape), 1.0
        of_mean = torch.zeros_like(mean)
    inverse = (square + eps).rsqrt()
    of_scale = length + (mean.abs() + of_mean) * inverse
    shape = x.shape
    term = ((values.abs() + mean.abs() + of_mean) * inverse + (values - mean).abs() * inverse * of_scale).reshape(shape)
    side = [1, -1, *[1] * (x.dim() - 2)] if name not in ("native_layer_norm", "_fused_rms_norm") else None
    if weight is not None:
        term = term * (weight.abs().reshape(side) if side else weight.abs())
    if bias is not None:
        term = term + (bias.abs().reshape(side) if side else bias.abs())
    sizes: list[Any] = [term + y.abs()]
    for i, statistic in enumerate(results[1:]):
        if not is_float(statistic) or statistic.numel() != mean.numel():
            sizes.append(statistic.abs() if is_float(statistic) else None)
        elif name != "_fused_rms_norm" and i == 0:
            sizes.append((mean.abs() + of_mean).reshape(statistic.shape))
        else:
            sizes.append(statistic.abs() * of_scale.reshape(statistic.shape))
    return sizes


def _length_factor(name: str, args: Sequence[Any], results: Sequence[Any]) -> float:
    """Return by how much a sum's length magnifies the rounding of one addition."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    if name in INTERPOLATIONS:
        return float(max(max(t.shape[2:], default=1) for t in (*tensors, *(y for y in results if is_float(y)))))
    terms = max(t.numel() for t in tensors) / min((y.numel() for y in results if is_float(y) and y.numel()), default=1)
    if name in ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot"):
        terms = tensors[-2].shape[-1] if tensors[-2].dim() else 1
    elif name == "convolution":
        terms = args[1][0].numel()
    elif name == "convolution_backward":
        terms = max(args[0].numel() / max(args[0].shape[1], 1), args[2].numel() / max(args[2].shape[1], 1))
    return _sum_factor(terms)


def _sum_factor(terms: float) -> float:
    return max(1.0, ORDERED_SUM * math.sqrt(terms), MANY_TERMS_SHARE * terms)


def _magnitude(value: Any) -> Any:
    if is_float(value):
        return value.abs()
    if isinstance(value, (list, tuple)) and any(is_float(item) for item in value):
        return type(value)(_magnitude(item) for item in value)
    return value


def _ones(value: Any) -> Any:
    """Return ones for numbers, and a sum for a mean: the same call then counts the terms of each result."""
    if is_float(value):
        return torch.ones_like(value)
    if isinstance(value, (list, tuple)) and any(is_float(item) for item in value):
        return type(value)(_ones(item) for item in value)
    return "sum" if isinstance(value, str) and value in ("mean", "prod") else value


def is_float(value: Any) -> bool:
    """Tell whether a value is a tensor of floating point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def widened(value: Any, low: bool = False) -> Any:
    """Return a value for the run in float64; numbers that narrower kernels read are rounded to float32 as they do."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype in LOW else value
    if isinstance(value, torch.dtype):
        return torch.float64 if value in LOW else value
    if low and isinstance(value, float):
        return torch.tensor(value, dtype=torch.float32).item()
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(widened(item, low) for item in value)
    return value
