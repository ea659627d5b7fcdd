"""Element types that numpy lacks: by the names of PyTorch and ml_dtypes, as ONNX numbers them, and as bits.

Where ml_dtypes is not installed, arrays of them are their bits.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BITS", "Bits", "as_numpy", "element", "packed", "unpacked"]


class Bits(NamedTuple):
    """How the elements of a type lie in memory.

    Attributes:
        onnx: ONNX's number of the type.
        storage: numpy's name of an integer that holds one element.
        per_byte: elements that ONNX packs into a byte; ml_dtypes packs none.
    """

    onnx: int
    storage: str
    per_byte: int = 1


BITS = {
    "bfloat16": Bits(16, "uint16"),
    "float8_e4m3fn": Bits(17, "uint8"),
    "float8_e4m3fnuz": Bits(18, "uint8"),
    "float8_e5m2": Bits(19, "uint8"),
    "float8_e5m2fnuz": Bits(20, "uint8"),
    "uint4": Bits(21, "uint8", 2),
    "int4": Bits(22, "uint8", 2),
    "float4_e2m1fn": Bits(23, "uint8", 2),
    "float8_e8m0fnu": Bits(24, "uint8"),
    "uint2": Bits(25, "uint8", 4),
    "int2": Bits(26, "uint8", 4),
}

_NAMES = {
    "float": "float32",
    "double": "float64",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "float8e8m0": "float8_e8m0fnu",
    "float4e2m1": "float4_e2m1fn",
}


def element(name: str) -> str:
    """Return `float32` for what ONNX Runtime calls `float`."""
    return _NAMES.get(name, name)


def packed(bits: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """Return elements that lie in a byte each, as ONNX packs them: the first in the lowest bits.

    >>> packed(np.array([1, 2, 3], np.uint8), "uint4"), unpacked(np.array([33, 15], np.uint8), "int4", 3)
    (array([33,  3], dtype=uint8), array([  1,   2, 255], dtype=uint8))
    """
    flat = np.ascontiguousarray(bits).reshape(-1)
    per_byte = BITS[dtype].per_byte
    if per_byte == 1:
        return flat
    rows = np.append(flat, np.zeros(-len(flat) % per_byte, np.uint8)).reshape(-1, per_byte)
    width = 8 // per_byte
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    parts = (rows & np.uint8((1 << width) - 1)) << shifts
    joined: np.ndarray[Any, Any] = np.bitwise_or.reduce(parts, axis=1)
    return joined


def unpacked(content: np.ndarray[Any, Any], dtype: str, count: int) -> np.ndarray[Any, Any]:
    """Return the first `count` elements of what `packed` gave, signed ones with all of their bits."""
    per_byte = BITS[dtype].per_byte
    if per_byte == 1:
        return content[:count]
    width = 8 // per_byte
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    elements = ((content[:, None] >> shifts) & np.uint8((1 << width) - 1)).reshape(-1)[:count]
    if not dtype.startswith("int"):
        return elements
    sign = np.uint8(1 << (width - 1))
    return (elements ^ sign) - sign


def as_numpy(bits: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """Return bits as ml_dtypes' array, or as they are where that is not installed."""
    if importlib.util.find_spec("ml_dtypes") is None:
        return bits
    return bits.view(getattr(importlib.import_module("ml_dtypes"), dtype))
