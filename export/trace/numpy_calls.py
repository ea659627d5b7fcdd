"""`Tensor.numpy` inside a recorded function: allowed for captured tensors, an error for recorded ones.

A fake tensor has no values, but PyTorch hands its uninitialised memory to numpy with a warning at most. A captured
tensor's values are constants of the function, and are read as they are.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch._dispatch.python import no_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from export.errors import TracingError
from export.trace.source_lines import user_line

__all__ = ["watched"]


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Read captured tensors for numpy outside of all modes, and refuse recorded ones, in this thread."""
    original = torch.Tensor.numpy
    thread = threading.get_ident()

    def numpy(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(self, *args, **kwargs)
        if isinstance(self, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(self):
            raise TracingError(
                "the function turns a tensor that is recorded into a numpy array, whose operations no graph can hold; "
                f"use torch's operations, which are named much the same\n  source: {user_line()}"
            )
        with _disable_current_modes(), no_python_dispatcher():
            return original(self, *args, **kwargs)

    torch.Tensor.numpy = numpy  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del torch.Tensor.numpy
