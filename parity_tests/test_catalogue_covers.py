"""Every layer, combinator and skip that the packages offer is used by a row of the catalogue, and so tested there."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

from pure import catalogue, compose, layers, skips
from pure.block import Block
from pure.tree import leaves

WITHOUT_A_ROW = {
    "Checkpoint": "a wrapper of any block: test_remat.py",
    "Function": "a function that is given: test_compose.py",
    "MixedPrecision": "a wrapper of any block: test_compose.py",
    "Sharded": "a wrapper of any block: test_spmd.py",
    "Shortcut": "the base of the shortcuts",
}
"""Classes that are no block of their own, and where they are tested."""


def within(block: Block) -> Iterator[type[Block]]:
    """Yield the classes of a block, of its children and of the blocks that it was given."""
    yield type(block)
    given = [value for value in vars(block).values() if isinstance(value, (Block, tuple, list, dict))]
    for inner in (*block.children().values(), *leaves(given)):
        if isinstance(inner, Block):
            yield from within(inner)


@pytest.fixture(scope="module")
def used() -> set[type[Block]]:
    return {kind for row in catalogue.CASES for kind in within(row.make())}


@pytest.mark.parametrize("package", [layers, skips, compose], ids=lambda package: package.__name__)
def test_every_class_is_used_by_a_row(package: ModuleType, used: set[type[Block]]) -> None:
    offered = [getattr(package, name) for name in package.__all__]
    kinds = [kind for kind in offered if isinstance(kind, type) and issubclass(kind, Block)]
    assert len(kinds) > 5
    missing = [kind.__name__ for kind in kinds if kind not in used and kind.__name__ not in WITHOUT_A_ROW]
    assert not missing, f"add a row to pure/catalogue/ for {missing}"


def test_what_has_no_row_is_used_by_none(used: set[type[Block]]) -> None:
    assert not {kind.__name__ for kind in used} & WITHOUT_A_ROW.keys()
