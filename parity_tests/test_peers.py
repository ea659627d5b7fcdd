"""The calls of other libraries that docs/coming-from.md names: those installed here run, and the page lists all."""

import re

import pytest

from parity_tests.peers import __main__ as peers
from parity_tests.peers.comparison import COMPARISONS, Comparison

HERE = [row for row in COMPARISONS if row.package in ("jax", "optax", "timm", "torch")]


@pytest.mark.parametrize("row", HERE, ids=lambda row: re.sub(r"\W+", "_", row.theirs))
def test_their_call_and_ours_agree(row: Comparison) -> None:
    assert row.run() <= row.tolerance


def test_the_page_says_what_was_run() -> None:
    page = peers.PAGE.read_text(encoding="utf-8")
    shown = peers.TABLE.search(page)
    assert shown is not None
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in shown[1].splitlines()}
    assert set(lines) == {row.package for row in COMPARISONS}
    for row in COMPARISONS:
        assert f"`{row.theirs}`" in lines[row.package]


def test_a_run_replaces_its_own_rows_alone() -> None:
    page = peers.PAGE.read_text(encoding="utf-8")
    new = peers.merged(page, {"flax": "| flax | 99 | `nn.scan` | equal |"})
    changed = [pair for pair in zip(page.splitlines(), new.splitlines(), strict=True) if pair[0] != pair[1]]
    assert [after for _, after in changed] == ["| flax | 99 | `nn.scan` | equal |"]
