"""PyTorch's dtypes and tensors as ONNX has them."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir
import torch

__all__ = ["ONNX_TYPES", "REDUCED", "accumulation_dtype", "dtype_name", "to_ir_tensor"]

ONNX_TYPES: Final[dict[torch.dtype, ir.DataType]] = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int16: ir.DataType.INT16,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
}
"""Dtypes that an exported file may hold."""

REDUCED: Final = (torch.float16, torch.bfloat16)
"""Dtypes that PyTorch accumulates in float32."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that PyTorch accumulates in."""
    return torch.float32 if dtype in REDUCED else dtype


def dtype_name(dtype: torch.dtype) -> str:
    """Return `float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def to_ir_tensor(tensor: torch.Tensor, name: str) -> ir.TensorProtocol:
    """Wrap a torch tensor's memory as an ONNX tensor; what has to be copied is copied when it is written."""
    tensor = tensor.detach()
    kind = ONNX_TYPES[tensor.dtype]
    if tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.is_neg():
        shape = ir.Shape(list(tensor.shape))
        return ir.LazyTensor(lambda: _in_memory(tensor.cpu().resolve_neg().contiguous(), name), kind, shape, name=name)
    return _in_memory(tensor, name)


def _in_memory(tensor: torch.Tensor, name: str) -> ir.TensorProtocol:
    kind = ONNX_TYPES[tensor.dtype]
    if tensor.dtype == torch.bfloat16:
        array = tensor.view(torch.uint16).numpy().view(kind.numpy())
    else:
        array = np.ascontiguousarray(tensor.numpy()).reshape(tuple(tensor.shape))
    return ir.Tensor(array, dtype=kind, name=name)
