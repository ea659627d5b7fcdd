"""PyTorch tensors on a session's GPU, handed to ONNX Runtime and taken from it without a copy, by DLPack."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import OrtValue

from export.files.tensor_values import is_torch

__all__ = ["as_torch", "finished", "lies_on", "shared"]


def lies_on(device: Any, place: str) -> bool:
    """Tell whether a torch device is a place such as "cuda" (the first GPU) or "cuda:1"; False for None."""
    if device is None:
        return False
    kind, _, index = place.partition(":")
    return bool(device.type == kind and (device.index or 0) == int(index or 0))


def shared(value: Any, place: str) -> Any:
    """Return a torch tensor that lies there as ONNX Runtime's value of the same memory; None for any other value.

    What is not contiguous is copied on its device. PyTorch may not have computed the content yet: see `finished`.
    """
    if not is_torch(value) or not lies_on(value.device, place):
        return None
    torch = sys.modules["torch"]
    plain = value.detach().resolve_neg().contiguous()
    boolean = plain.dtype == torch.bool  # DLPack calls both bytes
    capsule = torch.utils.dlpack.to_dlpack(plain.view(torch.uint8) if boolean else plain)
    return onnxruntime.OrtValue(OrtValue.from_dlpack(capsule, boolean))


def as_torch(value: Any, dtype: str) -> Any:
    """Return ONNX Runtime's value as a torch tensor of the same memory."""
    torch = sys.modules["torch"]
    tensor = torch.utils.dlpack.from_dlpack(value._get_c_value().to_dlpack())
    return tensor.view(torch.bool) if dtype == "bool" else tensor


def finished(values: Iterable[Any]) -> None:
    """Wait until PyTorch has computed the tensors among the values that lie on GPUs."""
    for device in {value.device for value in values if is_torch(value) and value.device.type == "cuda"}:
        sys.modules["torch"].cuda.current_stream(device).synchronize()
