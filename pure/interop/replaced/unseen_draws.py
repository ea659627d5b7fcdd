"""Operators that draw from a generator, seen below PyTorch's functions and in this thread alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["UnseenDraws"]


class UnseenDraws(TorchDispatchMode):
    """Notes the names of the operators that draw.

    That the global generator has changed says only that some thread has drawn from it, as one that loads data does.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operator, and note its name if it draws."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.names.append(func.overloadpacket.__name__)
        call: Callable[..., Any] = func
        return call(*args, **kwargs or {})
