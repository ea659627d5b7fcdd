"""Following a parameter through a function: which tensor is a leaf, or one layer's slice of a stacked leaf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pure.tags import current_path

__all__ = ["UNBIND", "Origin", "Provenance", "by_prefix", "part_name", "prefixes"]

UNBIND = (torch.unbind, Tensor.unbind)


class Origin(NamedTuple):
    """Where a tensor comes from: the leaf's dotted name and the indices taken along its first axes."""

    name: str
    path: tuple[int, ...] = ()


class Provenance(TorchFunctionMode):
    """While it is active, knows the leaves it was given, and the slices that `unbind` and `leaf[i]` take from them.

    `pure.Repeat` unbinds its stacked leaves, so that each depth's parameters are known by name: a leaf
    `layers.branch.weight` that is unbound inside the block `layers` has the parts `layers.0.branch.weight`, ….

    Args:
        leaves: {dotted name: the very tensor that the function will see}.

    Attributes:
        parts: {origin of a slice: its dotted name}, for leaves that were unbound as a whole.
    """

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.parts: dict[Origin, str] = {}
        self._known: dict[int, tuple[Tensor, Origin]] = {}  # holds the tensor, so that its id stays its own
        for name, leaf in leaves.items():
            self._register(leaf, Origin(name))

    def _register(self, tensor: Tensor, origin: Origin) -> None:
        self._known[id(tensor)] = (tensor, origin)

    def origin(self, value: object) -> Origin | None:
        """Return where a tensor comes from, None if it is neither a leaf nor a followed slice of one."""
        found = self._known.get(id(value))
        return found[1] if found else None

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function; if it slices a known tensor, know the slices too."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        origin = self.origin(args[0]) if args else None
        if origin is None:
            return out
        if func in UNBIND and (args[1] if len(args) > 1 else kwargs.get("dim", 0)) == 0:
            whole = self.parts.get(origin, origin.name)
            for index, part in enumerate(out):
                slice_of = Origin(origin.name, (*origin.path, index))
                self._register(part, slice_of)
                self.parts[slice_of] = part_name(whole, current_path(), index)
        elif func is Tensor.__getitem__ and type(args[1]) is int:
            index = args[1] % args[0].shape[0]
            self._register(out, Origin(origin.name, (*origin.path, index)))
        return out


def part_name(name: str, block: str, index: int) -> str:
    """Return the name of one part of a stacked leaf, as the block at that depth alone would call it.

    Args:
        name: the stacked leaf's dotted name.
        block: dotted path of the block that takes it apart; "" for the outermost.
        index: which part.

    Example:
        >>> part_name("layers.branch.weight", "layers", 2), part_name("weight", "", 0), part_name("a.weight", "b", 1)
        ('layers.2.branch.weight', '0.weight', 'a.weight[1]')
    """
    if not block:
        return f"{index}.{name}"
    return f"{block}.{index}{name[len(block) :]}" if name.startswith(block + ".") else f"{name}[{index}]"


def prefixes(name: str) -> list[str]:
    """Return the blocks that hold a leaf, outermost first; "" is the whole network.

    >>> prefixes("layers.3.branch.weight")
    ['', 'layers', 'layers.3', 'layers.3.branch']
    """
    found = [""]
    end = name.find(".")
    while end >= 0:
        found.append(name[:end])
        end = name.find(".", end + 1)
    return found


def by_prefix(leaves: Iterable[str], parts: Iterable[str] = ()) -> dict[str, list[str]]:
    """Return the names below every prefix.

    Args:
        leaves: dotted names.
        parts: dotted names of parts of stacked leaves, which count only where no whole leaf does.

    >>> by_prefix(["layers.weight"], ["layers.0.weight"])
    {'': ['layers.weight'], 'layers': ['layers.weight'], 'layers.0': ['layers.0.weight']}
    """
    found: dict[str, list[str]] = {}
    for name in leaves:
        for prefix in prefixes(name):
            found.setdefault(prefix, []).append(name)
    own = set(found)
    for name in parts:
        for prefix in prefixes(name):
            if prefix not in own:
                found.setdefault(prefix, []).append(name)
    return found
