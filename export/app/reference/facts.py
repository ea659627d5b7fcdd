"""What a row's page entry says: shapes, leaves, tags, extras, found by making the block and running it once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import Block, Reading, Shape
from pure.catalogue import Case
from pure.tags import observe

__all__ = ["Entry", "Facts", "extras_of", "facts", "listed", "shape_text"]

OPTIONAL = "optional"
"""The kind of a key of extras that the example leaves out."""


@dataclass(frozen=True)
class Entry:
    """One line of a list: a name, perhaps of several alike, with its shape."""

    name: str
    shape: str
    kind: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of a row.

    Attributes:
        block: the block.
        x: the input's shape, as text.
        y: the output's shape, as text.
        parameters: number of values in the parameters.
        leaves: the parameters by name.
        state: the state by name.
        tags: what the block makes visible.
        extras: what it reads beside its input.
        noise: whether training draws noise.
    """

    block: Block
    x: str
    y: str
    parameters: int
    leaves: tuple[Entry, ...]
    state: tuple[Entry, ...]
    tags: tuple[Entry, ...]
    extras: tuple[Entry, ...]
    noise: bool


def facts(case: Case) -> Facts:
    """Make the row's block, run it once on its example, and write down what was seen."""
    block, params, state, x, extras = case.example()
    read = Reading(extras, complete=False)
    with torch.no_grad():
        y, seen = observe(block.__call__)(params, x, state, read)
    tagged = ((tag.path, tag.kind, tag.value) for tag in seen)
    return Facts(
        block,
        shape_text(x),
        shape_text(y),
        tree.count(params),
        listed((name, shape_text(leaf), "") for name, leaf in tree.flatten(params).items()),
        listed((name, shape_text(leaf), "") for name, leaf in tree.flatten(state).items()),
        listed((path, shape_text(value), kind) for path, kind, value in tagged),
        tuple(_extra(name, extras) for name in dict.fromkeys([*extras, *read.asked])),
        block.stochastic,
    )


def extras_of(case: Case) -> tuple[str, ...]:
    """Return the keys that a row's block reads of extras, those in brackets that its example leaves out.

    >>> from pure import catalogue
    >>> extras_of(catalogue.case("layer_post_norm"))
    ('mask',)
    """
    return tuple(f"[{entry.name}]" if entry.kind == OPTIONAL else entry.name for entry in facts(case).extras)


def _extra(name: str, extras: Mapping[str, Any]) -> Entry:
    if name not in extras:
        return Entry(name, "", OPTIONAL)
    value = extras[name]
    return Entry(name, shape_text(value) if isinstance(value, Tensor) else type(value).__name__)


def shape_text(value: Any) -> str:
    """Return the shapes of a tensor, or of a tree of them, as text.

    >>> shape_text(torch.zeros(2, 3)), shape_text((torch.zeros(2), torch.zeros(()))), shape_text(0.5)
    ('(2, 3)', '(2,), ()', '()')
    """
    shapes: list[Shape] = [tuple(leaf.shape) if isinstance(leaf, Tensor) else () for leaf in tree.leaves(value)]
    return ", ".join(str(shape) for shape in shapes)


def listed(rows: Iterable[tuple[str, str, str]]) -> tuple[Entry, ...]:
    """Return names with their shapes, where names that differ in one running number become one line.

    >>> [entry.name for entry in listed((f"layers.{i}.weight", "(2,)", "") for i in range(4))]
    ['layers.0…3.weight']
    """
    alike: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    for name, shape, kind in rows:
        template = re.sub(r"(?<![A-Za-z_])\d+(?![A-Za-z_])", "{}", name)
        numbers = tuple(re.findall(r"(?<![A-Za-z_])\d+(?![A-Za-z_])", name))
        alike.setdefault((template, shape, kind), []).append(numbers)
    entries = []
    for (template, shape, kind), found in alike.items():
        entries += [Entry(template.format(*numbers), shape, kind) for numbers in _ranges(found)]
    return tuple(entries)


def _ranges(found: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Give the numbers of names that are alike, as one range if one of the numbers runs and the others stay."""
    columns = list(zip(*found, strict=True))
    running = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    if len(running) == 1:
        values = [int(number) for number in columns[running[0]]]
        step = values[1] - values[0]
        if len(values) > 2 and values == list(range(values[0], values[-1] + step, step)) and step > 0:
            middle = "…" if step == 1 else f",{values[1]}…"
            ends = f"{values[0]}{middle}{values[-1]}"
            yield tuple(ends if place == running[0] else found[0][place] for place in range(len(columns)))
            return
    yield from found
