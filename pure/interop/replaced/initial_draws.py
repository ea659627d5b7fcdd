"""Initial values of parameters that a forward makes, drawn only if something reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pure import tree
from pure.interop.parameter_writes import storage_of, written_to

__all__ = ["InitialDraws"]

_METADATA = frozenset(
    {"size", "dim", "numel", "stride", "is_floating_point", "is_complex", "element_size", "storage_offset", "__hash__"}
    | {
        "is_contiguous",
        "requires_grad_",
        "__len__",
        "get_device",
        "data_ptr",
        "untyped_storage",
        "ndimension",
        "nelement",
        "__set__",
    }
)
_READING_PROPERTIES = frozenset({"T", "H", "mT", "mH", "real", "imag"})
_ALIASES = frozenset({"detach", "data"})
_OVERWRITING = frozenset({"copy_", "zero_", "fill_"})


class InitialDraws:
    """Draws into new parameters that are put off until a function reads them.

    A forward that builds a module and then gives it the weights of another, draws initial values that nothing reads.
    """

    def __init__(self) -> None:
        self._put_off: dict[int, tuple[Tensor, Callable[[], Any]]] = {}

    def put_off(self, target: Any, draw: Callable[[], Any]) -> bool:
        """Return whether a draw into a tensor is put off: into the whole of a parameter, not one of the call's own."""
        storage = storage_of(target) if isinstance(target, Tensor) else None
        if storage is None:
            return False
        if isinstance(target, nn.Parameter):
            self._put_off[storage] = target, draw
            return True
        if storage in self._put_off and self._put_off[storage][0].numel() == target.numel():  # an alias, as its `.data`
            self._put_off[storage] = self._put_off[storage][0], draw
            return True
        return False

    def settle(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Draw what a function is about to read."""
        if not self._put_off or name in _METADATA or name in _ALIASES:
            return
        if name == "__get__" and getattr(func.__self__, "__name__", "") not in _READING_PROPERTIES:
            return
        if name in _OVERWRITING:
            for target in written_to(name, args, kwargs):
                held = self._put_off.get(storage_of(target) or 0)
                if held is not None and held[0].numel() == target.numel():
                    del self._put_off[storage_of(target) or 0]
        for leaf in tree.leaves((args, kwargs)):
            held = self._put_off.pop(storage_of(leaf) or 0, None) if isinstance(leaf, Tensor) else None
            if held is not None:
                with torch.no_grad():
                    held[1]()
