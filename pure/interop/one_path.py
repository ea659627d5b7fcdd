"""A module's forward on one code path: whatever the grad mode, on the plain kernels, without checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
import torch.backends.mha
import torch.overrides
import torch.utils.checkpoint as torch_checkpoint
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from pure.interop.replaced.old_functions import APPLY
from pure.layers.one_sample import with_flat_space

__all__ = ["GRAPH_CODE", "ONE_PATH", "SEEN_THROUGH", "SeesThrough", "Switched"]

_CHECKS = "has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"


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


def _ignoring_modes(plain: Callable[..., bool]) -> Callable[..., bool]:
    """Return `has_torch_function` without the modes of this package, which so see what a Python function calls."""

    def overridden(*args: Any) -> bool:
        mode = _get_current_function_mode()
        if not isinstance(mode, SeesThrough):
            return plain(*args)
        given = args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args
        kinds = {type(value) for value in given if hasattr(value, "__torch_function__")}
        disabled = torch._C._disabled_torch_function_impl
        return any(kind is not Tensor and kind.__torch_function__ is not disabled for kind in kinds)

    return overridden


class SeesThrough(TorchFunctionMode):
    """A mode that sees what `torch.nn.functional` calls, and not only that it was called.

    A mode is off while it handles a function, so that what a Python function does inside would escape it.
    """


class Switched:
    """A context with other values of global names, while at least one call of any thread is in it.

    Args:
        replaced: (module or class, {name: value}) pairs.
    """

    def __init__(self, *replaced: tuple[ModuleType | type, dict[str, Any]]) -> None:
        self._replaced = replaced
        self._lock = threading.Lock()
        self._calls = 0
        self._before: list[dict[str, Any]] = []

    def __enter__(self) -> None:
        with self._lock:
            self._calls += 1
            if self._calls == 1:
                self._before = [{name: vars(module)[name] for name in values} for module, values in self._replaced]
                for module, values in self._replaced:
                    _set(module, values)

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls == 0:
                for (module, _), values in zip(self._replaced, self._before, strict=True):
                    _set(module, values)


def _set(module: ModuleType | type, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(module, name, value)


ONE_PATH = Switched(
    (torch_checkpoint, _REPLACED),
    (torch.backends.mha, {"_is_fastpath_enabled": False}),
    (torch, {name: with_flat_space(getattr(torch, name)) for name in ("batch_norm", "instance_norm")}),
    APPLY,
)
"""A context in which a module computes what it computes under autograd, on the plain kernels.

- `nn.TransformerEncoder` and `nn.MultiheadAttention` do not take the fused kernels that they take in evaluation where
  nothing requires a gradient: those zero the padded positions.
- `torch.utils.checkpoint` calls its function once. Its second call, in the backward pass, would run after the module's
  parameters are no longer those of the call.
- Custom `autograd.Function`s of the old style have every transform; see `old_functions`.
- Batch statistics of one sample have right gradients; see `pure.layers.one_sample`.
"""

SEEN_THROUGH = Switched(
    (F, {name: _ignoring_modes(getattr(F, name)) for name in _CHECKS}),
    (torch.overrides, {name: _ignoring_modes(getattr(torch.overrides, name)) for name in _CHECKS[2:]}),  # torch.nn.init
)
"""A context for the modes of `SeesThrough`."""

GRAPH_CODE = Switched((torch.compiler, {"_is_compiling_flag": True, "_is_exporting_flag": True}))
"""A context in which `torch.compiler.is_compiling()` and `is_exporting()` are true, as `torch.export` makes them.

By these libraries choose code without branches on tensors' values, such as transformers for attention masks. They also
look for a `FakeTensor`, but the wrapper of a `torch.func` transform hides that from them. Whether TorchDynamo is
compiling, which takes other code here, is `torch.compiler.is_dynamo_compiling()`.
"""
