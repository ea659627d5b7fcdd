"""The tensors of a file's signature, and whether given ones fit them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from export.files.element_types import element
from export.files.tensor_values import Kind, kind_of

__all__ = ["Leaf", "check_leaves", "declared"]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A value of the file's signature.

    Attributes:
        name: its name.
        dtype: its elements, such as "float32" or "string".
        shape: numbers, or names of dynamic sizes; () where a container leaves them open.
        container: empty for a tensor; in files from elsewhere also "sequence" (a list of tensors), "optional" (a tensor
            or None), "optional sequence", or "other" (such as a list of dicts, which is passed as it is).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    container: str = ""

    def __str__(self) -> str:
        if self.container:
            return f"{self.name}: {self.container.replace('sequence', 'sequence of')} {self.dtype}"
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
        if leaf.container and i in found:
            kind = _check_container(leaf, found[i], kind, problems)
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


def _check_container(leaf: Leaf, value: Any, kind: Kind, problems: list[str]) -> Kind:
    if leaf.container == "other" or (value is None and leaf.container.startswith("optional")):
        return kind
    if not leaf.container.endswith("sequence"):
        items = [(leaf.name, value)]
    elif isinstance(value, (list, tuple)):
        items = [(f"{leaf.name}[{i}]", item) for i, item in enumerate(value)]
    else:
        problems.append(f"{leaf.name}: expected a list of {leaf.dtype} tensors, got a {type(value).__name__}")
        return kind
    for name, item in items:
        own = kind_of(item, name, problems)
        if own is not None:
            kind = kind.joined(own)
            if own.dtype and own.dtype != leaf.dtype:
                problems.append(f"{name}: expected {leaf.dtype}, got {own.dtype}")
    return kind


def declared(name: str, kind: str, shape: list[Any]) -> Leaf:
    """Return what ONNX Runtime says of an input or output, whose kind it writes as `seq(tensor(float))`.

    >>> str(declared("x", "tensor(float)", [2, "n"])), str(declared("y", "optional(seq(tensor(int64)))", []))
    ('x: float32[2, n]', 'y: optional sequence of int64')
    """
    found = re.fullmatch(r"(optional\(|)(seq\(|)tensor\((\w+)\)+", kind)
    if found is None:
        return Leaf(name, kind, (), "other")
    container = " ".join(word for word, there in (("optional", found[1]), ("sequence", found[2])) if there)
    sizes = tuple(size if isinstance(size, (int, str)) else "?" for size in shape)
    return Leaf(name, element(found[3]), () if container else sizes, container)
