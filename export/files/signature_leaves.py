"""The tensors of a file's signature, and whether given ones fit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from export.files.tensor_values import Kind, kind_of

__all__ = ["Leaf", "check_leaves", "element", "sizes"]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A tensor of the file's signature: name, dtype, sizes (numbers, or names of dynamic sizes)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


def check_leaves(
    leaves: Sequence[Leaf],
    found: Mapping[int, Any],
    bound: Mapping[int, Any],
    kind: Kind,
    problems: list[str],
    *,
    strict: bool,
) -> Kind:
    """Check dtypes and shapes of given tensors; dynamic sizes of one name must agree.

    Args:
        leaves: the signature.
        found: the given tensors by position.
        bound: tensors given earlier, whose sizes count as well.
        kind: what those were.
        problems: filled with one line a problem.
        strict: whether sizes of one name must agree (in a file from elsewhere, a name may mean nothing).

    Returns:
        What the tensors are, torch or numpy.
    """
    known: dict[str, tuple[int, str]] = {}
    for i, leaf in enumerate(leaves):
        if i in bound:
            for wanted, size in zip(leaf.shape, _shape(bound[i]), strict=True):
                if isinstance(wanted, str):
                    known.setdefault(wanted, (size, leaf.name))
            continue
        own = kind_of(found[i], leaf.name, problems) if i in found else None
        if own is None:
            continue
        kind = kind.joined(own)
        if own.dtype and own.dtype != leaf.dtype:
            problems.append(f"{leaf.name}: expected {leaf.dtype}, got {own.dtype}")
        if len(own.shape) != len(leaf.shape):
            problems.append(f"{leaf.name}: expected shape ({', '.join(map(str, leaf.shape))}), got {own.shape}")
            continue
        for axis, (wanted, size) in enumerate(zip(leaf.shape, own.shape, strict=True)):
            if isinstance(wanted, int):
                if wanted != size:
                    problems.append(f"{leaf.name}: axis {axis} must be {wanted}, got {size} in {own.shape}")
            elif strict:
                first, where = known.setdefault(wanted, (size, leaf.name))
                if first != size:
                    problems.append(f"{leaf.name}: axis {axis} ({wanted}) is {size}, but {where} has {first}")
    return kind


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape() if callable(value.shape) else value.shape)


ELEMENTS = {"float": "float32", "double": "float64"}


def element(kind: str) -> str:
    """Return `float32` for ONNX Runtime's `tensor(float)`."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return ELEMENTS.get(inner, inner)


def sizes(shape: list[Any]) -> tuple[int | str, ...]:
    """Return a shape as ONNX Runtime gives it, with "?" for a size that has no name."""
    return tuple(size if isinstance(size, (int, str)) else "?" for size in shape)
