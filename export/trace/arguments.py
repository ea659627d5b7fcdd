"""A function's example arguments, taken apart into structures, named leaves and dynamic axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from export.errors import ArgumentError
from export.files.pytree_structure import Structure, describe, rebuild
from export.trace.signature import argument_names, check_callable, function_name
from export.trace.symbolic_sizes import Axes, dynamic_axes
from pure.tree.plain import plain_tensor

__all__ = ["Arguments", "is_tensor", "resized", "shifted", "take_apart"]


@dataclass(frozen=True)
class Arguments:
    """A function's example arguments, taken apart.

    Attributes:
        names: one name per argument.
        structures: one structure per argument; leaf numbers count over all arguments.
        leaves: all tensor leaves, detached.
        leaf_names: their dotted names.
        owner: for each leaf the position of its argument.
        axes: for each leaf its dynamic axes.
    """

    names: tuple[str, ...]
    structures: tuple[Structure, ...]
    leaves: tuple[torch.Tensor, ...]
    leaf_names: tuple[str, ...]
    owner: tuple[int, ...]
    axes: tuple[Axes, ...]

    @property
    def out_root(self) -> str:
        """The name in front of the outputs: `out`, unless an argument is called that."""
        return "out" if "out" not in self.names else "output"

    def rebuild(self, leaves: Sequence[Any]) -> list[Any]:
        """Put leaves back into the arguments' containers."""
        return [rebuild(structure, leaves) for structure in self.structures]


def is_tensor(value: object) -> bool:
    """Tell a tensor leaf from a container or a static value."""
    return isinstance(value, torch.Tensor)


def take_apart(fn: Callable[..., Any], args: Sequence[Any], dynamic: Sequence[Any] | None) -> Arguments:
    """Split example arguments into structures, named leaves and dynamic axes; of a DTensor all of it is taken.

    Raises:
        ArgumentError: if `fn` cannot be called, `args` is not a tuple, holds something that is no pytree of tensors
            and static values, or `dynamic` does not fit.
    """
    check_callable(fn)
    if not isinstance(args, (tuple, list)):
        raise ArgumentError(
            f"args must be the tuple of {function_name(fn)}'s arguments, got a {type(args).__name__}; write (x,)"
        )
    names = argument_names(fn, len(args))
    structures: list[Structure] = []
    leaves: list[torch.Tensor] = []
    leaf_names: list[str] = []
    owner: list[int] = []
    for position, (name, arg) in enumerate(zip(names, args, strict=True)):
        structure, found, found_names = describe(arg, is_tensor, name)
        structures.append(shifted(structure, len(leaves)))
        leaves += [plain_tensor(leaf, path).detach() for leaf, path in zip(found, found_names, strict=True)]
        leaf_names += found_names
        owner += [position] * len(found)
    axes = dynamic_axes(dynamic, structures, names, leaves)
    return Arguments(tuple(names), tuple(structures), tuple(leaves), tuple(leaf_names), tuple(owner), tuple(axes))


def shifted(structure: Structure, by: int) -> Structure:
    """Add `by` to a structure's leaf numbers."""
    (kind, content), *_ = structure.items()
    if kind == "leaf":
        return {"leaf": content + by}
    if kind == "dict":
        return {"dict": {key: shifted(value, by) for key, value in content.items()}}
    if kind in ("list", "tuple"):
        return {kind: [shifted(value, by) for value in content]}
    if kind in ("namedtuple", "record"):
        return {kind: {**content, "items": [shifted(value, by) for value in content["items"]]}}
    return structure


def resized(arguments: Arguments, chosen: Mapping[str, int], jitter: float = 0.05) -> list[torch.Tensor]:
    """Return the example leaves with other dynamic sizes, by cyclic repetition, floats slightly varied along the axis.

    The variation keeps statistics over a repeated axis from hiding a wrong size.
    """
    result = []
    for leaf, axes in zip(arguments.leaves, arguments.axes, strict=True):
        for axis, name in axes.items():
            size = leaf.shape[axis]
            index = torch.arange(chosen[name], device=leaf.device) % max(size, 1)
            leaf = leaf.index_select(axis, index)
            if leaf.is_floating_point() and jitter:
                wave = 1 + jitter * torch.cos(torch.arange(chosen[name], dtype=torch.float64, device=leaf.device))
                shape = [-1 if i == axis else 1 for i in range(leaf.dim())]
                leaf = (leaf * wave.reshape(shape)).to(leaf.dtype)
        result.append(leaf)
    return result
