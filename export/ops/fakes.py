"""Fake tensors whose commonest operators find their shapes at once.

PyTorch finds the shape of an activation or a normalisation by running its decomposition on fake tensors, operator by
operator. Their results are as large as their argument, which is known without that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

aten: Any = torch.ops.aten


def fake_mode(shape_env: ShapeEnv | None = None) -> FakeTensorMode:
    """Return PyTorch's fake mode, which lets tensors that are not fake be captured, with shortcuts."""
    mode = FakeTensorMode(shape_env=shape_env, allow_non_fake_inputs=True)
    found_out = mode._dispatch_impl

    def dispatch(func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        shortcut = SHORTCUTS.get(func)
        if shortcut is not None and not kwargs:
            x = args[0]
            if type(x) is FakeTensor and x.fake_mode is mode and x.constant is None and x.is_contiguous():
                return shortcut(mode, *args)
        return found_out(func, types, args, kwargs)

    # On this one mode; higher-order operators know PyTorch's class only, so that a class of its own would not do.
    mode._dispatch_impl = dispatch  # type: ignore[method-assign]
    return mode


def _like(mode: FakeTensorMode, x: FakeTensor, *_: Any) -> FakeTensor:
    return _made(mode, x, x.shape, x.dtype)


def _batch_norm(
    mode: FakeTensorMode, x: FakeTensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *_: Any
) -> tuple[FakeTensor, FakeTensor, FakeTensor]:
    """The result, and what its derivative needs: the batch's statistics in training, nothing in evaluation."""
    saved = (x.shape[1] if training else 0,)
    wide = torch.promote_types(x.dtype, torch.float32) if training else x.dtype
    return _made(mode, x, x.shape, x.dtype), _made(mode, x, saved, wide), _made(mode, x, saved, wide)


def _made(mode: FakeTensorMode, x: FakeTensor, shape: Any, dtype: torch.dtype) -> FakeTensor:
    return FakeTensor(mode, torch.empty(shape, dtype=dtype, device="meta"), x.fake_device)


SHORTCUTS: dict[Any, Callable[..., Any]] = {
    aten.relu.default: _like,
    aten.native_batch_norm.default: _batch_norm,
}
"""Rules for a contiguous first argument."""
