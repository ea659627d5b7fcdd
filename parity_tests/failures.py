"""The errors that a sweep counts as failures of what it tries, so that one of them does not end it."""

from __future__ import annotations

from onnxruntime.capi import onnxruntime_pybind11_state as state

__all__ = ["FAILURES"]

FAILURES: tuple[type[Exception], ...] = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError),
    *(RuntimeError, SyntaxError, TypeError, ValueError),
    *(state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException),
)
"""Python's, PyTorch's and ONNX Runtime's; KeyboardInterrupt and MemoryError end a sweep."""
