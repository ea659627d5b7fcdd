"""The registry's rules put in force while a function is recorded: decompositions, and kernels in Python.

PyTorch computes some derivatives and batching rules in C++ with sizes as numbers, which would fix a symbolic size.
Some composite operators look at a tensor's values or at its memory layout, which a graph has not. While PyTorch's
Python dispatcher is on, an operator asks for a kernel in Python first; `installed` puts them there.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch.backends.opt_einsum
from torch._C import DispatchKey
from torch._decomp import core_aten_decompositions
from torch._dispatch.python import enable_python_dispatcher

from export.ops.losses import FUNCTIONS
from export.ops.registry import (
    ABSENT,
    BATCHING,
    COMPOSITES,
    DECOMPOSITIONS,
    DERIVED_WHOLE,
    FORWARD_MODE,
)
from export.ops.shared.kernels import under_jvp
from export.ops.shared.library_operators import library_operators

__all__ = ["KERNELS", "decompositions", "installed", "left_to_right", "without_views"]

KERNELS: dict[tuple[Any, DispatchKey], Any] = {
    **{(op, DispatchKey.FuncTorchBatched): kernel for op, kernel in BATCHING.items()},
    **{(op, DispatchKey.CompositeImplicitAutograd): kernel for op, kernel in COMPOSITES.items()},
    **{(op, DispatchKey.FuncTorchDynamicLayerFrontMode): kernel for op, kernel in COMPOSITES.items()},
    **{(op, DispatchKey.Autograd): under_jvp(op, kernel) for op, kernel in FORWARD_MODE.items()},
    **{(op, DispatchKey.Autograd): kernel for op, kernel in DERIVED_WHOLE.items()},
}
"""{(operator, dispatch key): kernel}."""


@contextlib.contextmanager
def installed(symbolic: bool = True) -> Iterator[None]:
    """Turn the Python dispatcher on, with this package's kernels; the caller holds `isolation.tracing_lock`.

    Args:
        symbolic: whether sizes are symbolic; if not, the kernels of `vmap` are PyTorch's own where it has any.
    """
    needed = COMPOSITES.keys() | ABSENT.keys() | DERIVED_WHOLE.keys()
    chosen = {
        (op, key): kernel
        for (op, key), kernel in KERNELS.items()
        if symbolic or op in needed or key == DispatchKey.Autograd
    }
    chosen |= {(op, DispatchKey.FuncTorchDynamicLayerFrontMode): same for op, same in library_operators().items()}
    before = {place: place[0].py_kernels.get(place[1]) for place in chosen}
    try:
        for (op, key), kernel in chosen.items():
            op.py_kernels[key] = kernel
            op._dispatch_cache.clear()
        with enable_python_dispatcher(), mock.patch.multiple(torch.nn.functional, **FUNCTIONS):
            yield
    finally:
        for (op, key), kernel in before.items():
            if kernel is None:
                del op.py_kernels[key]
            else:
                op.py_kernels[key] = kernel
            op._dispatch_cache.clear()


def left_to_right() -> contextlib.AbstractContextManager[None]:
    """Multiply an einsum's tensors from left to right: `opt_einsum`, if there, orders them by sizes as numbers."""
    chosen = torch.backends.opt_einsum
    return chosen.flags(enabled=False) if chosen.enabled else contextlib.nullcontext()


def decompositions(whole: frozenset[Any]) -> dict[Any, Callable[..., Any]]:
    """Return the rules to trace with: PyTorch's, the registry's, and those of other libraries' operators.

    Args:
        whole: operators to leave whole, because they have an ONNX form.
    """
    return {**_decompositions(whole), **library_operators()}


@functools.lru_cache(maxsize=8)
def _decompositions(whole: frozenset[Any]) -> dict[Any, Callable[..., Any]]:
    rules = {**core_aten_decompositions(), **DECOMPOSITIONS}
    return {op: rule for op, rule in rules.items() if op not in whole}


def without_views(rules: dict[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """Leave out operators whose result shares memory with an argument: a copy in its place would lose later writes."""
    return {op: rule for op, rule in rules.items() if not _is_view(op)}


def _is_view(op: Any) -> bool:
    schema = getattr(op, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)
