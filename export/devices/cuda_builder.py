"""Builds a graph for CUDA: operators that have no kernel for a 16-bit float there are computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from export.devices import cuda_kernels
from export.graph.builder import Builder
from export.graph.onnx_types import REDUCED, dtype_name

__all__ = ["CudaBuilder"]


class CudaBuilder(Builder):
    """Casts to float32 around an operator that CUDA has in float32 and not in its 16-bit dtype.

    PyTorch computes the same operators so: it reads 16-bit floats, accumulates in float32 and rounds the result.
    """

    def ops(
        self,
        kind: str,
        *inputs: ir.Value | None,
        count: int,
        dtypes: Sequence[torch.dtype | None] | None = None,
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """Add a node with `count` outputs, or find an equal one, with casts around it where they are needed."""
        position = cuda_kernels.decisive_input(kind)
        deciding = inputs[position] if position is not None and position < len(inputs) else None
        narrow = None if deciding is None else self.dtypes[deciding]
        if narrow not in REDUCED or not cuda_kernels.only_in_float32(kind, dtype_name(narrow), self.opset):
            return super().ops(kind, *inputs, count=count, dtypes=dtypes, **attributes)
        given = [None if value is None else self._widened(value, narrow) for value in inputs]
        asked = [dtype or narrow for dtype in dtypes or [None] * count]
        wide = [torch.float32 if dtype == narrow else dtype for dtype in asked]
        results = super().ops(kind, *given, count=count, dtypes=wide, **attributes)
        return tuple(self.cast(result, dtype) for result, dtype in zip(results, asked, strict=True))

    def _widened(self, value: ir.Value, narrow: torch.dtype) -> ir.Value:
        if self.dtypes[value] != narrow:
            return value
        number = value.const_value
        if number is None or number.size > 1:
            return self.cast(value, torch.float32)
        return self.tensor_constant(torch.from_numpy(number.numpy().astype("float32")))
