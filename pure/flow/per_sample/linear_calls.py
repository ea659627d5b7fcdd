"""Which calls are linear in a parameter, and how each is run on all samples at once with the parameter a constant.

`RECOGNISED` maps a torch function to what reads its arguments. None instead of a call says that this use is not known;
the parameter's own copy then takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.flow.per_sample.conv_windows import Geometry, pads, spread
from pure.flow.per_sample.einsum_contraction import contraction
from pure.flow.per_sample.norm_layers import NORMS
from pure.flow.per_sample.recorded_call import Call, Constants
from pure.flow.per_sample.weight_uses import Convolution, Lookup, Product
from pure.flow.shared.leaf_provenance import Origin

__all__ = ["RECOGNISED"]

Recogniser = Callable[..., Call | None]


def product(
    constants: Constants,
    input: Tensor,
    origin: Origin,
    *,
    turned: bool,
    bias: Tensor | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    contracted: int = 1,
) -> Call:
    """Return x Wᵀ, or x W where `turned`, for a weight whose axes are summed over at one end."""
    bias_origin = constants.origin(bias)
    weight = constants.value(origin)
    if weight.ndim == 2 and contracted == 1:
        matrix = weight.mT if turned else weight
    elif turned:
        matrix = weight.reshape(math.prod(weight.shape[:contracted]), -1).mT
    else:
        matrix = weight.reshape(math.prod(weight.shape[: weight.ndim - contracted]), -1)
    constant = None if bias_origin is None else constants.value(bias_origin)

    def run(x: Tensor) -> Tensor:
        return F.linear(x, matrix, constant)

    use = Product(
        weight=origin, bias=bias_origin, shape=tuple(weight.shape), run=run, rank=1, channels=-1, turned=turned
    )
    if bias is not None and bias_origin is None:
        return Call(use, input, lambda y: y + bias)
    return Call(use, input) if finish is None else Call(use, input, finish)


def linear(constants: Constants, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    """F.linear."""
    found = constants.matrix(weight)
    if found is None or input.ndim == 0:
        return None
    origin, transposed = found
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return product(constants, input, origin, turned=transposed, bias=bias)


def matmul(constants: Constants, left: Tensor, right: Tensor, **options: Any) -> Call | None:
    """x @ W, x @ Wᵀ, W @ x and Wᵀ @ x."""
    if options or not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return None
    found = constants.matrix(right)
    if found is not None and left.ndim:
        return product(constants, left, found[0], turned=not found[1])
    found = constants.matrix(left)
    if found is None or not right.ndim:
        return None
    if right.ndim == 1:
        return product(constants, right, found[0], turned=found[1])
    return product(constants, right.mT, found[0], turned=found[1], finish=lambda y: y.mT)


def einsum(constants: Constants, equation: object, *operands: Any) -> Call | None:
    """An einsum of an input and a parameter, where it is one product with a matrix."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    known = [constants.origin(operand) for operand in operands]
    if not isinstance(equation, str) or len(operands) != 2 or sum(origin is not None for origin in known) != 1:
        return None
    x_first = known[0] is None
    x, copy = operands if x_first else operands[::-1]
    origin = known[x_first]
    assert origin is not None
    plan = contraction(equation, x_first, x.ndim, copy.ndim)
    if plan is None:
        return None
    free = copy.shape[plan.contracted :] if plan.leading else copy.shape[: copy.ndim - plan.contracted]
    flat = x.permute(plan.before).flatten(x.ndim - plan.contracted)
    return product(
        constants,
        flat,
        origin,
        turned=plan.leading,
        contracted=plan.contracted,
        finish=lambda y: y.unflatten(-1, free).permute(plan.after),
    )


def lookup(constants: Constants, index: Tensor, table: Tensor, padding: int | None) -> Call | None:
    """Rows of a table by integer index."""
    origin = constants.origin(table)
    if origin is None or table.ndim == 0 or index.dtype not in (torch.int64, torch.int32):
        return None
    constant = constants.value(origin)

    def run(x: Tensor) -> Tensor:
        return constant[x]

    shape = tuple(constant.shape)
    use = Lookup(weight=origin, bias=None, shape=shape, run=run, rank=0, channels=-1, padding=padding)
    return Call(use, index)


def embedding(
    constants: Constants,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Call | None:
    """F.embedding, where nothing but the lookup happens."""
    if max_norm is not None or scale_grad_by_freq or sparse:
        return None
    padding = padding_idx + len(weight) if padding_idx is not None and padding_idx < 0 else padding_idx
    return lookup(constants, input, weight, padding)


def indexed(constants: Constants, table: Tensor, index: object) -> Call | None:
    """table[index] with one tensor of integers."""
    return lookup(constants, index, table, None) if isinstance(index, Tensor) else None


def index_select(constants: Constants, table: Tensor, dim: int, index: Tensor) -> Call | None:
    """torch.index_select along axis 0."""
    return lookup(constants, index, table, None) if dim == 0 and index.ndim == 1 else None


def convolution(
    constants: Constants,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    dims: int,
    conv: Callable[..., Tensor],
) -> Call | None:
    """F.conv1d, F.conv2d and F.conv3d."""
    gaps, kernel = spread(dilation, dims), tuple(weight.shape[2:])
    if len(kernel) != dims:
        return None
    geometry = Geometry(kernel, spread(stride, dims), pads(padding, kernel, gaps), gaps, groups)
    return _convolved(
        constants, input, weight, bias, geometry, lambda x, w, b: conv(x, w, b, stride, padding, dilation, groups)
    )


def transposed_convolution(
    constants: Constants,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    dims: int,
    conv: Callable[..., Tensor],
) -> Call | None:
    """F.conv_transpose1d, 2d and 3d."""
    gaps, kernel = spread(dilation, dims), tuple(weight.shape[2:])
    if len(kernel) != dims:
        return None
    zeros = pads(padding, kernel, gaps)
    geometry = Geometry(kernel, spread(stride, dims), zeros, gaps, groups, True, spread(output_padding, dims))
    options = stride, padding, output_padding, groups, dilation
    return _convolved(constants, input, weight, bias, geometry, lambda x, w, b: conv(x, w, b, *options))


def _convolved(
    constants: Constants,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    conv: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> Call | None:
    dims = len(geometry.kernel)
    origin, bias_origin = constants.origin(weight), constants.origin(bias)
    if origin is None or input.ndim not in (dims + 1, dims + 2):
        return None
    constant = constants.value(origin)
    bias_constant = None if bias_origin is None else constants.value(bias_origin)
    use = Convolution(
        weight=origin,
        bias=bias_origin,
        shape=tuple(constant.shape),
        run=lambda x: conv(x, constant, bias_constant),
        rank=dims + 1,
        channels=-1 - dims,
        geometry=geometry,
        constant=constant,
    )
    if bias is not None and bias_origin is None:
        return Call(use, input, lambda y: y + bias.reshape(-1, *(1,) * dims))
    return Call(use, input)


RECOGNISED: dict[Any, Recogniser] = {
    F.linear: linear,
    F.embedding: embedding,
    Tensor.__getitem__: indexed,
    torch.einsum: einsum,
    **dict.fromkeys((torch.index_select, Tensor.index_select), index_select),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.mv, Tensor.mv), matmul),
    **{conv: partial(convolution, dims=n, conv=conv) for n, conv in enumerate((F.conv1d, F.conv2d, F.conv3d), 1)},
    **{
        conv: partial(transposed_convolution, dims=n, conv=conv)
        for n, conv in enumerate((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), 1)
    },
    **NORMS,
}
