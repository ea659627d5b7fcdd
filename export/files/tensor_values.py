"""Tensors in and out: numpy and torch, without importing torch."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import sys
from typing import Any

import numpy as np
import onnxruntime

from export.files.element_types import BITS, as_numpy, packed, unpacked

__all__ = ["Kind", "as_array", "from_array", "from_memory", "is_torch", "kind_of", "to_ortvalue"]

TEXT_KINDS = "OUT"
"""numpy's letters for dtypes that can hold text: objects, and strings of fixed and of variable width."""


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
        if type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            problems.append(
                f"{name}: is a {type(value).__name__}, a tensor class that computes by rules of its own; give a plain "
                "tensor, such as x.full_tensor() of a DTensor"
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
        dtype = value.dtype.name if value.dtype.kind not in TEXT_KINDS else _text(value, name, problems)
        return Kind(False, None, dtype, tuple(value.shape)) if dtype else None
    if isinstance(value, str):
        return Kind(False, None, "string")
    if isinstance(value, (bool, int, float)):
        return Kind()
    problems.append(f"{name}: expected a numpy array or a torch tensor, got a {type(value).__name__}")
    return None


def _text(value: np.ndarray[Any, Any] | np.generic, name: str, problems: list[str]) -> str:
    """Return "string" if every element is text."""
    if value.dtype.kind == "O":
        other = next((one for one in np.asarray(value).reshape(-1).tolist() if not isinstance(one, str)), None)
        if other is not None:
            problems.append(f"{name}: expected an array of text, got one that holds a {type(other).__name__}")
            return ""
    return "string"


def as_array(value: Any, dtype: str) -> np.ndarray[Any, Any]:
    """Return a tensor's memory as a contiguous numpy array, without a copy where possible.

    Elements that numpy lacks are their bits, one element each (`element_types.BITS`); text is Python's.
    """
    bits = BITS[dtype].storage if dtype in BITS else ""
    if is_torch(value):
        value = value.detach()
        if value.device.type != "cpu":
            value = value.cpu()
        value = value.contiguous().resolve_neg()
        if bits:
            value = value.view(getattr(sys.modules["torch"], bits))
        array: np.ndarray[Any, Any] = value.numpy()
        return array
    if dtype == "string":
        return np.asarray(value, dtype=object)
    if isinstance(value, (bool, int, float)):
        return np.asarray(value, dtype=dtype)
    array = np.asarray(value, order="C")
    return array.view(bits) if bits else array


def to_ortvalue(array: np.ndarray[Any, Any], dtype: str, device: str) -> Any:
    """Put an array on a device such as "cuda:1"; one of bits (see `as_array`) stays in the CPU's memory."""
    if dtype == "bfloat16":
        value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BITS[dtype].onnx)
        value.memory = array  # ONNX Runtime does not keep it alive
        return value
    if dtype in BITS:
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), BITS[dtype].onnx)
        content = packed(array, dtype)
        ctypes.memmove(value.data_ptr(), content.ctypes.data, content.nbytes)
        return value
    name, _, index = device.partition(":")
    return onnxruntime.OrtValue.ortvalue_from_numpy(array, name, int(index or 0))


def from_array(result: Any, kind: Kind, dtype: str) -> Any:
    """Return a result as numpy or torch; see `from_memory`."""
    if dtype in BITS:
        return from_memory(_bits(result, dtype), kind, dtype)
    return from_memory(result if isinstance(result, np.ndarray) else result.numpy(), kind, dtype)


def from_memory(array: np.ndarray[Any, Any], kind: Kind, dtype: str) -> Any:
    """Return a tensor's memory as numpy or torch.

    Elements that numpy lacks are ml_dtypes' there, or bits where that is missing. What PyTorch has no tensor for, text
    and elements of four bits, is a numpy array always.
    """
    torch = sys.modules["torch"] if kind.torch else None
    if dtype in BITS:
        own = getattr(torch, dtype, None) if BITS[dtype].per_byte == 1 else None
        return (
            as_numpy(array, dtype)
            if torch is None or own is None
            else torch.from_numpy(array).view(own).to(kind.device)
        )
    if torch is None or array.dtype == object:
        return array
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array).to(kind.device)


def _bits(result: Any, dtype: str) -> np.ndarray[Any, Any]:
    """Copy a result's memory, for which ONNX Runtime has no numpy form."""
    count = math.prod(result.shape())
    storage = np.dtype(BITS[dtype].storage)
    nbytes = -(-count // BITS[dtype].per_byte) * storage.itemsize
    content = np.frombuffer(ctypes.string_at(result.data_ptr(), nbytes), storage) if count else np.zeros(0, storage)
    return unpacked(content, dtype, count).copy().reshape(result.shape())
