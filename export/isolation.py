"""Leave the process as it was: whatever a failed trace left switched on is switched off again.

An exception inside a functorch transform can leave its level on the interpreter stack; the next random call then fails
with an unrelated message. The same holds for dispatch modes and for tracing's own patches.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch._C import _functorch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode

tracing_lock = threading.RLock()
"""Held during a trace: some of PyTorch's tracing state belongs to the process, not to the thread."""


def functorch_depth() -> int:
    """Number of live functorch levels (grad, vmap, functionalize) in this thread."""
    stack = _functorch.get_interpreter_stack()
    return 0 if stack is None else len(stack)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Run the body; on the way out, pop every functorch level and dispatch mode that the body left behind."""
    levels = functorch_depth()
    modes = len(_get_current_dispatch_mode_stack())
    gradients = torch.is_grad_enabled()
    try:
        yield
    finally:
        while functorch_depth() > levels:
            _functorch.pop_dynamic_layer_stack()
        while len(_get_current_dispatch_mode_stack()) > modes:
            _pop_mode()
        if torch.is_grad_enabled() != gradients:
            torch.set_grad_enabled(gradients)
