"""The typed error for what a module's forward raises: the cause, the submodule, the line, and a way out."""

from __future__ import annotations

import os
import re
import traceback
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from pure import tree
from pure.block import Block, Params, State, check_params
from pure.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    ForwardError,
    PureError,
    PureExportError,
    ShapeError,
    UnsupportedError,
)
from pure.leaf import LEAF_ERRORS, about_shapes, describe

__all__ = ["CAUGHT", "explain_call", "is_typed"]

CAUGHT = (*LEAF_ERRORS, AssertionError)
"""What is explained; other exceptions pass as they are."""

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep

_WAYS_OUT = {
    r"setup_context": (
        "a custom autograd.Function without setup_context by a name bound to its apply, or a backward hook, which "
        "torch.func's transforms cannot follow: call it as Name.apply(x), or give it setup_context; remove the hook by "
        "handle.remove(); or take the derivative by pure.grad or pure.value_and_grad alone, which run plain autograd"
    ),
    r"[Bb]atching rule not implemented": "an operator that vmap does not know: compute it outside of vmap, or loop",
    r"data-dependent control flow|\.item\(\) on a Tensor": (
        "Python code that looks at a tensor's value, which differs between vmap's samples: select by torch.where, or "
        "take the samples in a loop"
    ),
    r"mutate a captured Tensor": (
        "a write to a tensor that is neither a parameter nor a buffer, under a transform: make it a buffer by "
        "register_buffer, which becomes state"
    ),
}
"""{pattern of PyTorch's message: what it means for a module, and a way out}."""

_DTYPE = re.compile(r"dtype|same type|scalar type", re.IGNORECASE)


def is_typed(error: BaseException) -> bool:
    """Return whether an error needs no explanation: this project's own, and PyTorch's with a class of its own."""
    return isinstance(error, PureExportError) or type(error).__module__.partition(".")[0] in ("torch", "export")


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    return list(traceback.walk_tb(error.__traceback__))


def _place(module: nn.Module, error: BaseException) -> str:
    """Return the innermost submodule that was running, and the innermost line outside of PyTorch and this package."""
    names = {id(part): name for name, part in module.named_modules()}
    name, kind, line = "", type(module).__name__, ""
    for frame, number in _frames(error):
        held = frame.f_locals.get("self")
        if isinstance(held, nn.Module) and id(held) in names:
            name, kind = names[id(held)], type(held).__name__
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE)) and not file.startswith("<"):
            line = f"{os.path.join(*file.split(os.sep)[-2:])}:{number} in {frame.f_code.co_name}"
    return f"in {f'{name!r} ' if name else ''}({kind})" + (f", {line}" if line else "")


def explain_call(
    block: Block, module: nn.Module, params: Params, state: State, x: Any, cause: BaseException
) -> PureError:
    """Return the typed error for what a module's forward raised.

    Args:
        block: the block of the module, for the message.
        module: the module that ran.
        params: the parameters that it was given.
        state: the buffers.
        x: the input.
        cause: what it raised.
    """
    check_params(block, params, state)
    text, place = str(cause), _place(module, cause)
    for pattern, way_out in _WAYS_OUT.items():
        if re.search(pattern, text):
            return UnsupportedError(f"{block}: forward uses {way_out} [{place}: {text.splitlines()[0][:300]}]")
    floats = isinstance(x, Tensor) and x.is_floating_point()
    if _DTYPE.search(text):
        other = [name for name, leaf in tree.flatten(params).items() if floats and leaf.dtype != x.dtype]
        way_out = f": params {other[0]!r} is another: cast one of them, as by pure.cast" if other else ""
        return DtypeError(f"{block}: input {describe(x)} does not fit{way_out}: {text} [{place}]")
    if "device" in text and isinstance(cause, RuntimeError):
        return DeviceError(f"{block}: input {describe(x)}: {text} [{place}]")
    if isinstance(cause, TypeError) and re.search(r"forward\(\) (takes|missing|got)", text):
        return ArgumentError(
            f"{block}: forward takes other arguments: {text}; x is the first, or a tuple of several, and extras are "
            "given by name"
        )
    if isinstance(x, Tensor) and about_shapes(cause):
        return ShapeError(f"{block}: input {describe(x)} does not fit: {text} [{place}]")
    return ForwardError(f"{block}: forward failed {place}: {type(cause).__name__}: {text}")
