"""Operators that PyTorch makes of others, by rules that keep symbolic sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey

aten: Any = torch.ops.aten


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``aten.linear``: one product of matrices, the axes in front as rows."""
    turned = weight.t()
    if x.dim() < 2:
        result = torch.matmul(x, turned)
        return result if bias is None else result + bias
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    result = torch.mm(rows, turned) if bias is None else torch.addmm(bias, rows, turned)
    return result if x.dim() == 2 else result.reshape(*x.shape[:-1], weight.shape[0])


RULES: dict[tuple[Any, DispatchKey], Any] = {
    (aten.linear.default, DispatchKey.CompositeImplicitAutograd): _linear,
    (aten.linear.default, DispatchKey.FuncTorchDynamicLayerFrontMode): _linear,
}
"""{(operator, dispatch key): kernel}."""
