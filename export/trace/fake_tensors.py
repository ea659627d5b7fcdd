"""Fake tensors in the place of a function's arguments, with shapes found at once for the commonest operators.

PyTorch finds the shape of an activation or a normalisation by running its decomposition on fake tensors, operator by
operator. The registry's `FAKES` say it without that, for a contiguous first argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import py_sym_types
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from export.ops.registry import FAKES
from export.trace.symbolic_sizes import Axes, Sizes

__all__ = ["fake_leaves", "fake_mode"]

_READS = (torch.ops.aten._local_scalar_dense.default,)
"""Operators by which Python reads a tensor's only element."""


def fake_mode(shape_env: ShapeEnv | None = None) -> FakeTensorMode:
    """Return PyTorch's fake mode, which lets tensors that are not fake be captured, with shortcuts."""
    mode = FakeTensorMode(shape_env=shape_env, allow_non_fake_inputs=True)
    found_out = mode._dispatch_impl

    def dispatch(func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        shortcut = FAKES.get(func)
        if shortcut is not None and not kwargs:
            x = args[0]
            if type(x) is FakeTensor and x.fake_mode is mode and x.constant is None and x.is_contiguous():
                return shortcut(mode, *args)
        found = found_out(func, types, args, kwargs)
        if func in _READS and isinstance(shape_env, Sizes) and isinstance(found, py_sym_types):
            shape_env.read.update(dict.fromkeys(found.node.expr.free_symbols, (args[0], args[0]._version)))
        return found

    # On this one mode; higher-order operators know PyTorch's class only, so that a class of its own would not do.
    mode._dispatch_impl = dispatch  # type: ignore[method-assign]
    return mode


def fake_leaves(
    leaves: Sequence[torch.Tensor], axes: Sequence[Axes], hints: Mapping[str, int]
) -> tuple[FakeTensorMode, Sizes, list[torch.Tensor]]:
    """Make a contiguous fake tensor for each leaf, with named symbolic sizes on its dynamic axes."""
    sizes = Sizes()
    mode = fake_mode(sizes)
    fakes = []
    with mode:
        for leaf, dims in zip(leaves, axes, strict=True):
            shape = [sizes.size(dims[i], hints[dims[i]]) if i in dims else int(n) for i, n in enumerate(leaf.shape)]
            strides: list[int | torch.SymInt] = []
            step: int | torch.SymInt = 1
            for size in reversed(shape):
                strides.insert(0, step)
                step = step * size if isinstance(size, torch.SymInt) or size > 1 else step
            fakes.append(torch.empty_strided(shape, strides, dtype=leaf.dtype, device=leaf.device))
    return mode, sizes, fakes
