"""A few planted defects of each kind: every visible one is caught, its node is named first, and it is reproduced."""

from __future__ import annotations

from parity_tests.planted_defects import planted, summary

CHOSEN = frozenset(
    {
        "softplus of a product", "layer_norm", "max pool", "top 5 of masked logits", "channels of all sizes",
        "gradient of cross entropy", "branches", "nested branches", "loop", "integer arithmetic", "logic",
    }
)  # fmt: skip
"""Functions with values of all sizes, branches, loops, integers."""


def test_every_visible_defect_of_some_functions_is_caught() -> None:
    results = list(planted(seed=3, only=CHOSEN.__contains__))
    visible = [result for result in results if result.visible]
    assert {result.function for result in visible} == CHOSEN
    assert len(visible) >= 50
    assert all(result.caught["verify"] for result in visible), summary(results)
    assert sum(result.is_located for result in visible) >= 0.9 * len(visible), summary(results)
    assert all(result.reproduced for result in visible), summary(results)
