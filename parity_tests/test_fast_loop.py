"""The fast tests come from every file, and the tables that choose them name tests that exist."""

import ast
from pathlib import Path

import pytest

from parity_tests import fast_loop
from parity_tests.sources import ROOT, parse

FILES = sorted((ROOT / "parity_tests").glob("test_*.py"))


def names_of_tests(path: Path) -> list[str]:
    """Return the names of a file's tests, `Class::name` for a method."""
    found = []
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef):
            found += [f"{node.name}::{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)]
        elif isinstance(node, ast.FunctionDef):
            found.append(node.name)
    return [name for name in found if name.rpartition(":")[2].startswith("test_")]


def test_every_file_has_a_fast_test_or_is_left_out_by_name() -> None:
    named = {name for names in fast_loop.LEFT_OUT.values() for name in names}
    slow = [path.name for path in FILES if path.name not in named and fast_loop.untouched(path, names_of_tests(path))]
    assert not slow, f"no test of these files is fast: name the whole file in LEFT_OUT, with its reason: {slow}"


def test_the_tables_name_tests_that_exist() -> None:
    exist = {path.name for path in FILES} | {f"{path.name}::{test}" for path in FILES for test in names_of_tests(path)}
    named = [name for names in fast_loop.LEFT_OUT.values() for name in names]
    assert len(named) == len(set(named))
    assert not {*named, *fast_loop.WHOLE, *fast_loop.COSTLY} - exist
    assert not fast_loop.WHOLE & fast_loop.COSTLY
    assert not [name for name in fast_loop.WHOLE | fast_loop.COSTLY if fast_loop.is_left_out(name)]


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (6, [0, 1, 2, 3, 4, 5]), (13, [0, 2, 4, 6, 8, 10])]
)
def test_rows_are_evenly_spaced(count: int, expected: list[int]) -> None:
    assert list(fast_loop.rows("test_x.py::test_y", count)) == expected


def test_a_family_is_a_test_with_all_its_rows() -> None:
    assert fast_loop.family("parity_tests/test_x.py::TestZ::test_y[a[0]-b]") == "test_x.py::TestZ::test_y"
    assert fast_loop.family("pure/block.py::pure.block.Block") == "pure/block.py::pure.block.Block"
