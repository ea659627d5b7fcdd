"""The table of cases, one row per block, for tests, export, benchmarks, docs and the CLI."""

from __future__ import annotations

from typing import Final

from pure.catalogue import (
    additive,
    basic,
    convolutional,
    dynamic,
    gated,
    layers,
    placement,
    resnets,
    reversible,
    scaled,
    streams,
    transformer,
    tutorial,
)
from pure.catalogue.cases import FAMILIES, Case
from pure.errors import ArgumentError, nearest

__all__ = ["CASES", "FAMILIES", "Case", "case", "names"]

SECTIONS: Final = (
    layers,
    basic,
    additive,
    convolutional,
    scaled,
    gated,
    placement,
    streams,
    resnets,
    reversible,
    dynamic,
    transformer,
    tutorial,
)
CASES: Final[tuple[Case, ...]] = tuple(
    sorted((row for section in SECTIONS for row in section.CASES), key=lambda row: FAMILIES.index(row.family))
)


def names() -> list[str]:
    """Return the names of the rows."""
    return [row.name for row in CASES]


def case(name: str) -> Case:
    """Return the row of that name.

    Raises:
        ArgumentError: an unknown name.
    """
    by_name = {row.name: row for row in CASES}
    if name not in by_name:
        raise ArgumentError(f"case {name!r} is unknown{nearest(name, by_name)}: one of {', '.join(by_name)}")
    return by_name[name]
