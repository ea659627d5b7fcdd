"""The pictures of theory: drawn from results, laws beside measurements, nothing cut off or overlapping."""

import pytest
import torch

import pure
from parity_tests import theory_ensembles as ensembles
from parity_tests.test_flow_plots import check_layout
from pure.errors import ArgumentError
from pure.flow import theory


def test_predictions_and_checks() -> None:
    block = ensembles.residual(100, 100, [0.3] * 4)
    said = theory.predict(block)
    check_layout(said.plot())
    found = theory.check(block, torch.Generator().manual_seed(0), draws=60)
    figure = found.plot()
    check_layout(figure)
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(found)
    nothing = pure.Conv2d(3, 3, 3)
    with pytest.raises(ArgumentError, match="nothing to draw"):
        theory.predict(nothing).plot()
    with pytest.raises(ArgumentError, match="nothing to draw"):
        theory.check(nothing, torch.Generator().manual_seed(0)).plot()
