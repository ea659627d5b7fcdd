"""The report's sentences follow from the numbers by rule, and its charts put values where the axis says."""

import itertools
import re

import pytest
import torch

from export.app.report.measuring import Flow
from export.app.report.page import chart, wording


def flow_of(*median: float) -> Flow:
    return Flow(median, median, median, torch.ones(len(median), 4), median, 1.0)


@pytest.mark.parametrize(
    ("median", "said"),
    [
        ((1e-9, 1.0), "falls by a factor of 1.0 × 10⁹"),
        ((30.0, 1.0), "grows by a factor of 30"),
        ((0.9, 1.0), "stays within a factor of 1.1"),
        ((0.0, 1.0), "falls by a factor of inf"),
    ],
)
def test_trends_are_said_by_rule(median: tuple[float, ...], said: str) -> None:
    assert wording.trend(flow_of(*median)) == said


def test_a_log_chart_places_decades_evenly() -> None:
    line = chart.Line("plain", "plain", (1, 2, 3), (1e-4, 1e-2, 1.0))
    drawn = chart.draw([line], chart.Axes("layer", chart.limits([line]), log=True), title="t", description="d")
    (points,) = re.findall(r'<polyline class="line s-plain" points="([^"]+)"', drawn)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert heights[0] == chart.HEIGHT - chart.BOTTOM
    assert heights[2] == chart.TOP


def test_labels_do_not_overlap_or_leave_the_frame() -> None:
    lines = [chart.Line("plain", f"line {i}", (0.0, 1.0), (0.5, 0.0 if i % 2 else 1e-3)) for i in range(6)]
    drawn = chart.draw(lines, chart.Axes("x", (0.0, 1.0)), title="t", description="d")
    heights = sorted(float(y) for y in re.findall(r'class="name" x="[\d.]+" y="([\d.]+)"', drawn))
    assert len(heights) == 6
    assert all(b - a >= chart.GAP - 0.1 for a, b in itertools.pairwise(heights))
    assert heights[0] > chart.TOP
    assert heights[-1] <= chart.HEIGHT - chart.BOTTOM + 9
