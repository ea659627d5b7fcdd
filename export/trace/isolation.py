"""Restore PyTorch's state after a trace: a failed one leaves levels and modes active.

An exception inside a functorch transform can leave its level on the interpreter stack; the next random call then fails
with an unrelated message. The same holds for dispatch modes and for tracing's own patches.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

import torch
from torch._C import _functorch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode

__all__ = ["functorch_depth", "restored", "tracing_lock", "uncollected"]

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep

tracing_lock = threading.RLock()
"""Held during a trace: some of PyTorch's tracing state belongs to the process, not to the thread."""


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep the cyclic garbage collector off for a moment: a trace makes many objects at once and drops few."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def functorch_depth() -> int:
    """Return the number of live functorch levels (grad, vmap, functionalize) in this thread."""
    stack = _functorch.get_interpreter_stack()
    return 0 if stack is None else len(stack)


def _release(error: BaseException | None) -> None:
    """Free what PyTorch's own frames in an error's tracebacks hold."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        step = error.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename.startswith(_TORCH):
                with contextlib.suppress(RuntimeError):  # a frame that still runs
                    step.tb_frame.clear()
            step = step.tb_next
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Run the body; on the way out, pop every functorch level and dispatch mode that the body left behind.

    An error inside several functorch levels also leaves dispatch keys excluded, that of Python among them: PyTorch's
    guards live in the frames of the error's traceback and set the keys once more when these are freed. So they are
    freed here.
    """
    levels = functorch_depth()
    modes = len(_get_current_dispatch_mode_stack())
    gradients = torch.is_grad_enabled()
    included, excluded = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded):
        try:
            yield
        except BaseException as error:
            _release(error)
            raise
        finally:
            while functorch_depth() > levels:
                _functorch.pop_dynamic_layer_stack()
            while len(_get_current_dispatch_mode_stack()) > modes:
                _pop_mode()
            if torch.is_grad_enabled() != gradients:
                torch.set_grad_enabled(gradients)
