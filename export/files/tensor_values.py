"""Tensors in and out: numpy and torch, without importing torch."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import importlib.util
import sys
from typing import Any

import numpy as np
import onnxruntime

__all__ = ["Kind", "as_array", "from_array", "from_memory", "is_torch", "kind_of", "to_ortvalue"]

BFLOAT16 = 16
"""ONNX's number for bfloat16, which numpy does not know."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the given tensors are: torch or numpy, and where.

    Attributes:
        torch: whether any is a torch tensor; then the results are.
        device: the torch device of the first of them.
        dtype: the dtype's name, of a single tensor.
        shape: the shape, of a single tensor.
    """

    torch: bool = False
    device: Any = None
    dtype: str = ""
    shape: tuple[int, ...] = ()

    def joined(self, other: Kind) -> Kind:
        """Return the kind of both together."""
        return Kind(self.torch or other.torch, self.device if self.torch else other.device)


def is_torch(value: object) -> bool:
    """Tell a torch tensor without importing torch: where it is not imported, nothing can be one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def kind_of(value: Any, name: str, problems: list[str]) -> Kind | None:
    """Look at a given tensor; what cannot be used is added to the problems."""
    if is_torch(value):
        torch = sys.modules["torch"]
        if torch._C._functorch.is_functorch_wrapped_tensor(value):
            problems.append(
                f"{name}: is inside a torch.func transform, which cannot see into a file; "
                "export the transformed function instead"
            )
            return None
        if value.requires_grad and torch.is_grad_enabled():
            problems.append(
                f"{name}: requires grad, but a file has no gradient; "
                "pass it under torch.no_grad() or export the gradient"
            )
            return None
        return Kind(True, value.device, str(value.dtype).removeprefix("torch."), tuple(value.shape))
    if isinstance(value, (np.ndarray, np.generic)):
        return Kind(False, None, value.dtype.name, tuple(value.shape))
    if isinstance(value, (bool, int, float)):
        return Kind()
    problems.append(f"{name}: expected a numpy array or a torch tensor, got a {type(value).__name__}")
    return None


def as_array(value: Any, dtype: str) -> np.ndarray[Any, Any]:
    """Return a tensor's memory as a contiguous numpy array, without a copy where possible; bfloat16 as its 16 bits."""
    if is_torch(value):
        value = value.detach()
        if value.device.type != "cpu":
            value = value.cpu()
        value = value.contiguous().resolve_neg()
        if dtype == "bfloat16":
            value = value.view(sys.modules["torch"].uint16)
        array: np.ndarray[Any, Any] = value.numpy()
        return array
    if isinstance(value, (bool, int, float)):
        return np.asarray(value, dtype=dtype)
    array = np.asarray(value, order="C")
    return array.view(np.uint16) if dtype == "bfloat16" else array


def to_ortvalue(array: np.ndarray[Any, Any], dtype: str, device: str) -> Any:
    """Put an array on the device."""
    if dtype == "bfloat16":
        value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
        value.memory = array  # ONNX Runtime does not keep it alive
        return value
    return onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)


def from_array(result: Any, kind: Kind, dtype: str) -> Any:
    """Return a result as numpy or torch; bfloat16 in numpy is ml_dtypes' where that is there, otherwise its 16 bits."""
    if dtype == "bfloat16":
        return from_memory(_bits(result), kind, dtype)
    return from_memory(result if isinstance(result, np.ndarray) else result.numpy(), kind, dtype)


def from_memory(array: np.ndarray[Any, Any], kind: Kind, dtype: str) -> Any:
    """Return a tensor's memory as numpy or torch; see `from_array`."""
    if dtype == "bfloat16":
        return _from_bfloat16(array, kind)
    if not kind.torch:
        return array
    torch = sys.modules["torch"]
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array).to(kind.device)


def _bits(result: Any) -> np.ndarray[Any, Any]:
    """Copy a bfloat16 result's memory, for which ONNX Runtime has no numpy form."""
    count = int(np.prod(result.shape(), dtype=np.int64))
    memory: Any = (ctypes.c_uint16 * count).from_address(result.data_ptr()) if count else []
    return np.array(memory, dtype=np.uint16).reshape(result.shape())


def _from_bfloat16(bits: np.ndarray[Any, Any], kind: Kind) -> Any:
    if kind.torch:
        torch = sys.modules["torch"]
        return torch.from_numpy(bits).view(torch.bfloat16).to(kind.device)
    return bits.view(importlib.import_module("ml_dtypes").bfloat16) if importlib.util.find_spec("ml_dtypes") else bits
