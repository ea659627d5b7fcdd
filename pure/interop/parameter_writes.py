"""Find out, before it happens, that a module's forward writes to its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pure.interop.one_path import SeesThrough

__all__ = ["ParameterWrite", "WatchWrites", "storage_of", "unwrapped", "written_to"]

_WRITING_DUNDERS = frozenset(
    {"__setitem__", "__set__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ifloordiv__"}
    | {"__imod__", "__ipow__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"}
)


class ParameterWrite(BaseException):
    """Ends a call that is about to write to its parameters; not an Exception, which a forward might catch."""


def unwrapped(leaf: Tensor) -> Tensor:
    """Return the tensor below the wrappers of functorch's transforms."""
    while torch._C._functorch.is_functorch_wrapped_tensor(leaf):
        leaf = torch._C._functorch.get_unwrapped(leaf)
    return leaf


def storage_of(leaf: Tensor) -> int | None:
    """Return a number of the memory that a tensor shares with its views; None for sparse and nested tensors."""
    try:
        return unwrapped(leaf).untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return None


def written_to(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return what a function of PyTorch writes to, by its name and arguments."""
    out = kwargs.get("out")
    targets = [out] if isinstance(out, Tensor) else list(out or ())
    if (name.endswith("_") and not name.endswith("__")) or name in _WRITING_DUNDERS:
        first = args[0] if args else kwargs.get("input")
        targets += first if isinstance(first, list | tuple) else [first]
    return targets


class WatchWrites(SeesThrough):
    """Raises `ParameterWrite` before a function of PyTorch writes to one of the given tensors, or to a view of one."""

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        super().__init__()
        self._storages = {storage_of(leaf) for leaf in leaves} - {None}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function unless it writes to a watched tensor."""
        kwargs = kwargs or {}
        for target in written_to(getattr(func, "__name__", ""), args, kwargs):
            if isinstance(target, Tensor) and storage_of(target) in self._storages:
                raise ParameterWrite
        return func(*args, **kwargs)
