"""A few planted defects of each kind: every visible one is caught, and its operator is named first."""

from __future__ import annotations

from parity_tests.planted_defects import planted, summary


def test_every_visible_defect_of_some_functions_is_caught() -> None:
    results = list(planted(seed=3, limit=12))
    assert sum(result.visible for result in results) >= 40
    assert all(result.caught["verify"] for result in results if result.visible), summary(results)
