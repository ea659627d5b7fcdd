"""Products with a weight matrix: `F.linear`, `@`, and `torch.einsum` of an input and a weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.flow.per_sample.einsum_contraction import contraction
from pure.flow.per_sample.outer_products import outer_norm, outer_sum
from pure.flow.per_sample.weight_use import Call, Parameters, WeightUse
from pure.flow.shared.leaf_provenance import Origin

__all__ = ["PRODUCTS", "Product"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(WeightUse):
    """A product with a matrix: x Wᵀ, or x W where it is `transposed`. The weight may have more axes than the matrix."""

    transposed: bool = False

    def factors(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return l (batch, time, rows) and r (batch, time, columns) with Σ_t l_t ⊗ r_t the matrix's gradient."""
        x = x.reshape(len(x), -1, x.shape[-1])
        return (x, g) if self.transposed else (g, x)

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return Σ_t l_t ⊗ r_t."""
        left, right = self.factors(x, g)
        dtype = torch.promote_types(left.dtype, right.dtype)
        return outer_sum(right[:, :, None].to(dtype), left[:, :, None].to(dtype)).reshape(-1, *self.shape)

    def norm(self, x: Tensor, g: Tensor, budget: float) -> Tensor:
        """Return its norm, by whichever method is the smaller computation."""
        left, right = self.factors(x, g)
        return outer_norm(right[:, :, None], left[:, :, None], budget)


def _product(
    parameters: Parameters,
    input: Tensor,
    origin: Origin,
    *,
    transposed: bool,
    bias: Tensor | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    contracted: int = 1,
) -> Call:
    """Return x Wᵀ, or x W where `transposed`, for a weight of which `contracted` axes at one end are summed over."""
    bias_origin = parameters.origin(bias)
    shape = tuple(parameters.known(origin).shape)
    rows = math.prod(shape[:contracted] if transposed else shape[: len(shape) - contracted])

    def run(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        assert weight is not None
        matrix = weight if weight.ndim == 2 and contracted == 1 else weight.reshape(rows, -1)
        return F.linear(x, matrix.mT if transposed else matrix, bias)

    use = Product(weight=origin, bias=bias_origin, shape=shape, run=run, rank=1, channels=-1, transposed=transposed)
    if bias is not None and bias_origin is None:
        return Call(use, input, lambda y: y + bias)
    return Call(use, input) if finish is None else Call(use, input, finish)


def _linear(parameters: Parameters, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    """F.linear."""
    found = parameters.matrix(weight)
    if found is None or input.ndim == 0:
        return None
    origin, transposed = found
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return _product(parameters, input, origin, transposed=transposed, bias=bias)


def _matmul(parameters: Parameters, left: Tensor, right: Tensor, **options: Any) -> Call | None:
    """x @ W, x @ Wᵀ, W @ x and Wᵀ @ x."""
    if options or not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return None
    found = parameters.matrix(right)
    if found is not None and left.ndim:
        return _product(parameters, left, found[0], transposed=not found[1])
    found = parameters.matrix(left)
    if found is None or not right.ndim:
        return None
    if right.ndim == 1:
        return _product(parameters, right, found[0], transposed=found[1])
    return _product(parameters, right.mT, found[0], transposed=found[1], finish=lambda y: y.mT)


def _einsum(parameters: Parameters, equation: object, *operands: Any) -> Call | None:
    """An einsum of an input and a parameter, where it is one product with a matrix."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    known = [parameters.origin(operand) for operand in operands]
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
    return _product(
        parameters,
        flat,
        origin,
        transposed=plan.leading,
        contracted=plan.contracted,
        finish=lambda y: y.unflatten(-1, free).permute(plan.after),
    )


PRODUCTS: dict[Any, Callable[..., Call | None]] = {
    F.linear: _linear,
    torch.einsum: _einsum,
    **dict.fromkeys(
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.mv, Tensor.mv), _matmul
    ),
}
"""Function → what reads its arguments; None from it means that this use is not known."""
