"""Keeps sessions on the stand-in from being run: what they returned would be no result of CUDA, nor of anything."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch  # noqa: F401  before ONNX Runtime: its libraries are the real ones, which look for more than the stand-in has

__all__ = ["StandInError", "install"]

RUNS = ("run", "run_async", "run_with_iobinding", "run_with_ort_values", "run_with_ortvaluevector")
CUDA = "CUDAExecutionProvider"


class StandInError(RuntimeError):
    """A session on the stand-in was asked for values."""


def install() -> None:
    """Make every way of running a session raise where the session is on CUDA.

    Raises:
        StandInError: if this process was not started with the stand-in.
    """
    if "CUDA_STANDIN_DEVICES" not in os.environ:
        raise StandInError("start the process by parity_tests.cuda_standin.python")
    import onnxruntime  # after torch
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    for kind in (onnxruntime.InferenceSession, state.InferenceSession):
        for name in RUNS:
            own = kind.__dict__.get(name) or getattr(kind, name, None)
            if own is not None:
                setattr(kind, name, _guarded(own, name))


def _guarded(own: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(own)
    def refusing(session: Any, *args: Any, **options: Any) -> Any:
        if CUDA in session.get_providers():
            raise StandInError(
                f"{name}: this session is on a stand-in for CUDA, which places nodes and computes nothing"
            )
        return own(session, *args, **options)

    return refusing
