"""Buffers that a module's forward makes and its state does not hold: caches, or what later calls would build on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import Tensor, nn

from pure import tree
from pure.errors import UnsupportedError
from pure.interop.one_path import SeesThrough
from pure.interop.parameter_writes import storage_of, written_to
from pure.interop.replaced.random_draws import ALWAYS_DRAW

__all__ = ["raise_unless_remade"]


class _Derived(SeesThrough):
    """Follows which tensors are computed from the values of given ones, or drawn."""

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        super().__init__()
        self._held = list(leaves)  # alive, so that no storage's address is used again
        self._storages = {storage_of(leaf) for leaf in self._held}

    def holds(self, leaf: Tensor) -> bool:
        """Return whether a tensor was computed from the values of the given ones, or drawn."""
        return storage_of(leaf) in self._storages

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and note its result if it is given a followed tensor."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        out = func(*args, **kwargs)
        if name in ALWAYS_DRAW or any(map(self.holds, _tensors((args, kwargs)))):
            found = _tensors((out, written_to(name, args, kwargs)))
            self._held += found
            self._storages.update(map(storage_of, found))
        return out


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree.leaves(value) if isinstance(leaf, Tensor)]


def raise_unless_remade(
    module: nn.Module, made: Collection[str], given: Iterable[Tensor], call: Callable[[], Any]
) -> None:
    """Raise if the buffers that a call makes must be kept for the next: it would compute something else without them.

    A buffer that the sizes of the input and the parameters alone decide, as an attention bias for each pair of
    positions, is made again by every call that starts from the module as it was given. One that a second call writes
    to, as a counter, or one computed from the input's values, as a statistic of the first batch, is state.

    Args:
        module: the module, as it was given; the calls change it.
        made: names of the buffers.
        given: the call's input tensors.
        call: calls the module.

    Raises:
        UnsupportedError: a buffer of the second kind.
    """
    derived = _Derived(given)
    with derived:
        call()
    first = dict(module.named_buffers())
    from_values = [name for name in made if name in first and derived.holds(first[name])]
    versions = {name: leaf._version for name, leaf in first.items() if not leaf.is_inference()}
    call()
    second = dict(module.named_buffers())
    kept = [
        name
        for name in made
        if second.get(name) is not first.get(name) or (name in versions and second[name]._version != versions[name])
    ]
    state = sorted({*from_values, *kept})
    if state:
        raise UnsupportedError(
            f"{type(module).__name__}: the call made buffers {state}, which later calls would build on and the state "
            "does not hold: register them with a tensor before from_module, as by calling the module once"
        )
