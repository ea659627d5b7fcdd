"""The benchmark harness checks before it times, reports spread and environment, and writes whole files.

Nothing here asserts how fast anything is.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import compilers, forms, growth, page
from benchmarks.__main__ import main
from benchmarks.agreement import same_leaves
from benchmarks.environment import environment
from benchmarks.harness import QUICK, Comparison, Contender, Measurement, Timing, measure, paired_ratio
from benchmarks.report import digits, print_measurement, unit, write_json
from pure import tree

X = torch.arange(1.0, 9.0)
TIMING_KEYS = {
    "name",
    "median_seconds",
    "lower_quartile_seconds",
    "upper_quartile_seconds",
    "ratio",
    "ratio_interval_95",
    "rounds",
    "calls_a_sample",
    "seconds",
}


def trivial(second: Callable[[], object] = lambda: X + X) -> Comparison:
    return Comparison("double", (Contender("2x", lambda: 2 * X), Contender("x + x", second)), same_leaves, {"size": 8})


def test_json_holds_every_number_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    write_json([measure(trivial(), QUICK)], environment(), path)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert {"date", "python", "platform", "cpu", "cpu_count", "torch_threads", "versions"} <= data["environment"].keys()
    assert data["environment"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    (measurement,) = data["measurements"]
    assert (measurement["name"], measurement["notes"]) == ("double", {"size": 8})
    assert [timing["name"] for timing in measurement["timings"]] == ["2x", "x + x"]
    for timing in measurement["timings"]:
        assert timing.keys() == TIMING_KEYS
        assert len(timing["seconds"]) == timing["rounds"] == QUICK.rounds
        assert min(timing["seconds"]) > 0
        assert timing["lower_quartile_seconds"] <= timing["median_seconds"] <= timing["upper_quartile_seconds"]
        low, high = timing["ratio_interval_95"]
        assert low <= timing["ratio"] <= high
    assert measurement["timings"][0]["ratio"] == 1.0
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: X + X + 1e-3, "root mean square error"),
        (lambda: X * torch.nan, "root mean square error nan"),
        (lambda: (X + X)[:4], r"\(8,\) against torch.float32 \(4,\)"),
        (lambda: (X + X).double(), "against torch.float64"),
        (lambda: (X + X, X), "1 leaves against 2"),
    ],
)
def test_contenders_that_differ_are_not_timed(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        measure(trivial(wrong), QUICK)


def test_a_comparison_needs_two() -> None:
    with pytest.raises(ValueError, match="needs two or more"):
        measure(Comparison("alone", trivial().contenders[:1], same_leaves), QUICK)


def test_ratio_is_paired_by_round() -> None:
    reference = np.array([1.0, 10.0, 100.0, 1.0, 5.0])
    ratio, (low, high) = paired_ratio(0.5 * reference, reference)
    assert (ratio, low, high) == (0.5, 0.5, 0.5)


def test_ratio_interval_covers_the_spread_and_is_reproducible() -> None:
    random = np.random.default_rng(1)
    reference, other = random.uniform(1, 2, 40), random.uniform(1, 2, 40)
    ratio, (low, high) = paired_ratio(other, reference)
    assert low < ratio < high
    assert paired_ratio(other, reference) == (ratio, (low, high))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 µs"), (8e-8, "80 ns"), (1e-11, "0.01 ns")],
)
def test_durations_read_in_the_unit_that_fits(seconds: float, text: str) -> None:
    name = unit(seconds)
    assert f"{digits(seconds, name)} {name}" == text


def test_the_table_shows_medians_and_intervals() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    print_measurement(measure(trivial(), QUICK), console)
    text = console.export_text()
    assert all(part in text for part in ("double", "x + x", "quartiles", "95 % interval", "size 8"))


def test_the_command_runs_and_writes_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "blocks.json"
    main(["blocks", "--quick", "--json", str(path)])
    assert "pure block" in capsys.readouterr().out
    names = [measurement["name"] for measurement in json.loads(path.read_text(encoding="utf-8"))["measurements"]]
    assert [name.partition(":")[0] for name in names] == ["call", "gradient", "floor of func.grad"]


@pytest.mark.parametrize("name", page.TABLES)
def test_the_page_shows_the_committed_results(name: str, root: Path) -> None:
    text = (root / page.PAGE).read_text(encoding="utf-8")
    data = json.loads((root / page.RESULTS / page.FILES[name]).read_text(encoding="utf-8"))
    assert page.drawn(text, name, data) == text, "draw it again: python -m benchmarks.page"


def test_the_summary_of_the_page_is_drawn_from_the_results(root: Path) -> None:
    text = (root / page.PAGE).read_text(encoding="utf-8")
    assert page.filled(text, root) == text, "draw it again: python -m benchmarks.page"
    figure = page.summary(
        {
            name: json.loads((root / page.RESULTS / file).read_text(encoding="utf-8"))
            for name, file in {**page.FILES, "blocks": page.FILES["speed"]}.items()
        }
    )
    assert figure in text
    assert page.filled(text.replace(figure, "?"), root) == text


@pytest.mark.parametrize("name", ["interpolate bilinear ×2", "attention"])
def test_files_of_single_operators_are_held_against_pytorch(name: str, tmp_path: Path) -> None:
    found = forms.compared(name, tmp_path)
    kinds = ["forward", "jvp", "gradient"]
    assert [contender.name for contender in found.contenders] == [forms.TORCH, *kinds, *(f"eager, {k}" for k in kinds)]
    path = tmp_path / "forward.onnx"
    operator, inputs = forms.OPERATORS[name]
    with pytest.raises(AssertionError, match="forward is off by"):
        forms.caller(path, lambda *given: 1.01 * operator(*given), inputs)


def timed(name: str, *seconds: float) -> Timing:
    return Timing(name, seconds, 1, 1.0, (1.0, 1.0))


def test_the_mean_of_the_compilers_leaves_out_what_only_one_can_run() -> None:
    notes = {"seconds to compile, export.jit": 1.0, "seconds to compile, torch.compile": 10.0}
    twice = Measurement("a", notes, (timed("torch.compile", 2.0, 2.0), timed("export.jit", 1.0, 1.0)))
    eighth = Measurement("b", notes, (timed("torch.compile", 8.0, 8.0), timed("export.jit", 1.0, 1.0)))
    alone = Measurement("c", {"torch.compile fails": "no"}, (timed("eager", 1.0), timed("export.jit", 1.0)))
    (mean,) = compilers.summary([twice, eighth, alone])
    assert mean.notes["cells"] == 2
    assert mean.notes["left out"] == ["c"]
    assert mean.notes["run time, geometric mean of the ratios"] == pytest.approx(1 / 4)
    assert mean.notes["compile time, geometric mean of the ratios"] == pytest.approx(1 / 10)
    assert compilers.from_dict(twice.to_dict()) == twice
    assert not list(compilers.summary([alone]))


@pytest.mark.parametrize("network", compilers.NETWORKS)
def test_the_transforms_of_a_cell_are_those_that_they_are_called(network: str) -> None:
    found = {name: compilers.cell(network, name) for name in ("forward", "gradient", "jvp")}
    (run, args), (slope, _), (push, pushed) = (found[name] for name in ("forward", "gradient", "jvp"))
    params, x = args
    gradient = slope(*tree.cast((params, x[:1]), torch.float64))
    direction = tree.cast(pushed[1], torch.float64)
    y, moved = push(*tree.cast((params, direction, x[:1]), torch.float64))
    torch.testing.assert_close(y, run(*tree.cast((params, x[:1]), torch.float64)))
    by_gradient = sum((g * d).sum() for g, d in zip(tree.leaves(gradient), tree.leaves(direction), strict=True))
    torch.testing.assert_close((2 * y * moved).mean(), by_gradient, rtol=1e-9, atol=0)


def test_a_cell_that_torch_compile_does_not_end_is_run_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        compilers.NETWORKS,
        "mlp",
        compilers.Network("tiny", lambda: compilers.nets.residual_mlp(4, 4, 1), (2, 4)),
    )
    found = compilers.run_cell("mlp", "gradient", QUICK, alone=True)
    assert [timing.name for timing in found.timings] == ["eager", "export.jit"]
    assert list(compilers.summary([found])) == []


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says what a process's peak was")
def test_the_growth_of_each_side_has_every_quantity() -> None:
    for side in ("eager", "export.jit", "export.jit, Repeat"):
        expected = {"call", "peak"} if side == "eager" else set(growth.QUANTITIES)
        found = growth.isolated(side, {"depth": 2, "width": 8, "batch": 4})
        assert found.keys() == expected
        assert min(found.values()) > 0


def test_exponents_are_of_the_largest_sizes() -> None:
    line = {size: 3.0 + size**1.5 / 1e4 for size in (1, 10, 10**4, 10**5, 10**6)}
    assert growth.exponent(line) == pytest.approx(1.5, abs=0.01)
    assert growth.exponent({1: 1.0, 2: 2.0}) is None


@pytest.mark.parametrize("quantity", growth.QUANTITIES)
def test_a_picture_of_growth_shows_the_exponents_of_the_table(quantity: str) -> None:
    root = Path(__file__).parents[1]
    data = json.loads((root / growth.RESULTS).read_text(encoding="utf-8"))
    drawn = growth.drawn(data, quantity).decode()
    committed = (root / growth.PICTURES / f"growth-{quantity}.svg").read_text(encoding="utf-8")
    for measurement in data["measurements"]:
        for side in growth.SIDES:
            slope = measurement["notes"].get(f"exponent of {growth.QUANTITIES[quantity]}, {side}")
            if slope is not None:
                assert f"{side}: {slope:.2f}" in drawn
                assert f"{side}: {slope:.2f}" in committed
