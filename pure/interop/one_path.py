"""A module's forward on one code path: whatever the grad mode, on the plain kernels, without checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint as torch_checkpoint

__all__ = ["ONE_PATH", "OnePath"]


class _PlainCheckpoint:
    """Stands in for `CheckpointFunction`, the reentrant kind, and calls the function as it is."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """Return `function(*args)`."""
        return function(*args)


def _no_recomputation(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Stand in for the generator around the function of the other kind; it does nothing before and after."""
    yield


# Names inside `torch.utils.checkpoint`, since libraries hold `checkpoint` itself under names of their own.
_REPLACED = {
    name: value
    for name, value in {
        "CheckpointFunction": _PlainCheckpoint,
        "_checkpoint_without_reentrant_generator": _no_recomputation,
        "_checkpoint_without_reentrant_generator_impl": _no_recomputation,  # PyTorch 2.12 on
    }.items()
    if hasattr(torch_checkpoint, name)
}
_ORIGINAL = {name: getattr(torch_checkpoint, name) for name in _REPLACED}


class OnePath:
    """A context in which a module computes what it computes under autograd, in grad mode or not.

    - `torch.is_grad_enabled()` is True, for forwards that look at it. The caller detaches what goes in where it is not.
    - `nn.TransformerEncoder` and `nn.MultiheadAttention` do not take the fused kernels that they take in evaluation
      where nothing requires a gradient: those zero the padded positions.
    - `torch.utils.checkpoint` calls its function once. Its second call, in the backward pass, would run after the
      module's parameters are no longer those of the call.

    These switches are global to the process; they are set while at least one call of any thread is in the context.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._fast_path = True

    def __enter__(self) -> None:
        with self._lock:
            self._calls += 1
            if self._calls == 1:
                self._fast_path = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
                vars(torch_checkpoint).update(_REPLACED)

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls == 0:
                torch.backends.mha.set_fastpath_enabled(self._fast_path)
                vars(torch_checkpoint).update(_ORIGINAL)


ONE_PATH = OnePath()
