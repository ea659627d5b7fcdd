"""What running, changing and checking a broken file may raise: a verdict stands whatever it is."""

from __future__ import annotations

from typing import Final

import onnx
from google.protobuf.message import Error as ProtobufError

from export.runtime import sessions

__all__ = ["FAILURES"]

FAILURES: Final[tuple[type[Exception], ...]] = (
    *sessions.ERRORS,
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    LookupError,
    MemoryError,
    OSError,
    ProtobufError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)
"""The kinds of errors that Python, PyTorch, onnx, protobuf and ONNX Runtime raise on such files."""
