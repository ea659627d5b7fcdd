"""The pictures of theory: drawn from results, laws beside measurements, nothing cut off or overlapping."""

import math

import pytest
import torch

import pure
from parity_tests.test_flow_plots import check_layout
from parity_tests.theory_laws import jacobians
from pure.errors import ArgumentError
from pure.flow import plot, theory
from pure.flow.shared.estimate import Estimate
from pure.flow.theory import ensembles


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


def test_path_lengths() -> None:
    depth = 12
    laws = {
        "Binomial, α² = 1/L": theory.path_energies([1 / depth] * depth),
        "Poisson(1)": theory.poisson_path_lengths(1.0, depth + 1),
        "Poisson-binomial, α² = 1/l": theory.path_energies([1 / layer for layer in range(1, depth + 1)]),
    }
    measured = [Estimate(e, 0.9 * e, 1.1 * e, 0.05 * e, 100) for e in laws["Binomial, α² = 1/L"]]
    figure = plot.path_lengths(laws, {"measured": measured})
    check_layout(figure)
    assert sum(figure.axes[0].lines[0].get_ydata()) == pytest.approx(1.0)
    with pytest.raises(ArgumentError, match="no law"):
        plot.path_lengths({})


def test_the_limit_spectrum_beside_a_measured_one() -> None:
    found = jacobians(ensembles.residual(64, 64, [0.25] * 16), 64, 4, 0)
    figure = plot.residual_spectrum(1.0, torch.linalg.svdvals(found))
    check_layout(figure)
    line = figure.axes[0].lines[0]
    low, high = theory.residual_limit_edges(1.0)
    assert line.get_xdata()[0] == pytest.approx(math.log10(low))
    assert line.get_xdata()[-1] == pytest.approx(math.log10(high))
    check_layout(plot.residual_spectrum(0.2))
