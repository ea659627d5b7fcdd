"""The reproductions of papers run, say what they found completely, and find at small size what small size can show."""

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from benchmarks.papers import tables
from benchmarks.papers.__main__ import REPRODUCTIONS, write
from benchmarks.papers.finding import Finding, Reproduction, exact, exponents, geometric, mean, ratio, scaled
from benchmarks.papers.highway import highway, plain
from benchmarks.papers.rezero import steps_to
from benchmarks.papers.shattered import LAGS, autocorrelation
from benchmarks.papers.training import initial, load, order, train
from pure import flow, tree
from pure.optim import sgd

# What already shows in seconds, by an interval and not by a mean; training claims need the full size.
SHOWN = {
    "shattered": {
        "shallow": True,
        "plain with norm": True,
        "residual": True,
        "coins": True,
        "halves": False,
        "arc-cosine": True,
    },
    "path_lengths": {"exponential": True, "short paths": True, "law at the start": True},
    "rezero": {"identity": True, "in training": True},
    "layernorm": {"gap": True},
    "highway": {"negative bias": True, "biases fall": True},
    "deepnorm": {"post-norm's step": True, "every parameter": True, "early updates": True},
}
SEEDLESS = {"value", "low", "high", "standard_error", "probes"}


@lru_cache
def tiny(name: str) -> Reproduction:
    found: Reproduction = REPRODUCTIONS[name].run("tiny")
    return found


def plain_data(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(tiny(name).to_dict(), allow_nan=False))
    return data


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_the_claims_that_small_sizes_can_show(name: str) -> None:
    holds = {finding.name: finding.holds for finding in tiny(name).findings}
    assert {claim: holds[claim] for claim in SHOWN[name]} == SHOWN[name]


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_the_result_is_complete_and_draws_from_its_file(name: str) -> None:
    data = plain_data(name)
    assert all(data[key] for key in ("name", "paper", "verdict", "setup", "findings", "deviations", "curves"))
    for finding in data["findings"]:
        assert finding["claim"]
        assert finding["rule"]
        assert finding["found"]
        for value in finding["found"].values():
            assert set(value) == SEEDLESS
            assert value["low"] <= value["value"] <= value["high"]
            assert value["probes"] == 0 or value["low"] < value["high"] or value["standard_error"] == 0
    figure = REPRODUCTIONS[name].draw(data["curves"])
    assert isinstance(figure, Figure)
    assert len(figure.axes) >= 3


def committed(root: Path) -> list[dict[str, Any]]:
    return tables.load(root)


def test_the_committed_results_are_of_full_size_and_the_page_shows_them(root: Path) -> None:
    results = committed(root)
    assert tuple(REPRODUCTIONS) == tables.NAMES
    assert {result["size"] for result in results} == {"full"}
    for result in results:
        assert (root / tables.RESULTS / f"{result['name']}.png").stat().st_size > 10_000
        assert [f["name"] for f in result["findings"]] == [f.name for f in tiny(result["name"]).findings]
    text = (root / tables.PAGE).read_text(encoding="utf-8")
    assert tables.page(results) == text, "write it again: python -m benchmarks.papers.tables"


def finding(holds: bool, ours: bool = False) -> Finding:
    return Finding("a", "b", "c", {"d": exact(1.0)}, holds, ours)


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((finding(True), finding(True)), "agrees"),
        ((finding(True), finding(False)), "agrees in part"),
        ((finding(False), finding(False)), "does not agree"),
        ((finding(False), finding(True, ours=True)), "does not agree"),
        ((finding(True), finding(False, ours=True)), "agrees"),
    ],
)
def test_the_verdict_counts_the_papers_claims_alone(findings: tuple[Finding, ...], verdict: str) -> None:
    assert Reproduction("n", "p", {}, findings, (), {}).verdict == verdict


def test_intervals_cover_what_they_estimate() -> None:
    random = np.random.default_rng(0)
    draws = random.exponential(size=(2000, 40))
    covered = [3.0 in scaled(mean(row), 3.0) for row in draws]
    assert 0.91 < np.mean(covered) < 0.97
    paired = [2.0 in ratio(2 * row + random.normal(0, 0.3, 40), row) for row in draws]
    assert 0.91 < np.mean(paired) < 0.97
    assert geometric([1.0, 1.0, 4.0, 4.0]).value == pytest.approx(2.0)
    assert exponents([1, 2, 4], [[3.0, 12.0, 48.0], [5.0, 5.0, 5.0]]) == pytest.approx([2.0, 0.0])
    with pytest.raises(ValueError, match="at least 4 seeds"):
        mean([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="one finite number"):
        mean([1.0, 2.0, 3.0, math.nan])


def test_the_autocorrelation_is_that_of_white_and_brown_noise() -> None:
    noise = np.random.default_rng(1).standard_normal((400, 256))
    white, brown = autocorrelation(noise).mean(0), autocorrelation(noise.cumsum(1)).mean(0)
    assert white.shape == (LAGS + 1,)
    assert white[0] == brown[0] == 1
    assert np.abs(white[1:]).max() < 0.02
    assert (np.diff(brown) < 0).all()
    assert brown[10] > 0.6


def test_the_networks_of_the_stack_train_as_they_would_alone() -> None:
    data, block = load(), plain(3)
    params, rates = initial(block, 3), torch.tensor([0.01, 0.02, 0.04])
    together = train(block, params, sgd, data, 4, 16, rates)
    chosen = order(len(data.x), 3, 4, 16)
    for seed, rate in enumerate(rates.tolist()):
        alone = tree.tree_map(lambda leaf, seed=seed: leaf[seed], params)
        optimizer = sgd(rate)
        state = optimizer.init(alone)
        for step in range(4):
            x, y = data.x[chosen[step, seed]], data.y[chosen[step, seed]]
            norms = flow.gradient_norms(lambda p, x, y: torch.nn.functional.cross_entropy(block(p, x), y), alone, x, y)
            assert norms.loss == pytest.approx(float(together.losses[step, seed]), rel=1e-4)
            slope = torch.func.grad(lambda p, x=x, y=y: torch.nn.functional.cross_entropy(block(p, x), y))(alone)
            alone, state = optimizer.step(slope, state, alone)
        for name, leaf in tree.flatten(alone).items():
            torch.testing.assert_close(tree.flatten(together.params)[name][seed], leaf, rtol=1e-4, atol=1e-6)


def test_every_seed_has_an_order_of_its_own_without_repeats_in_a_pass() -> None:
    chosen = order(50, 2, 6, 16)
    assert chosen.shape == (6, 2, 16)
    assert not torch.equal(chosen[:, 0], chosen[:, 1])
    for passes in chosen.unfold(0, 3, 3).movedim(-1, 1):
        for seed in range(2):
            assert len(passes[:, seed].unique()) == 48


def test_steps_to_a_loss_counts_the_window() -> None:
    losses = torch.tensor([[4.0, 1.0], [2.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert steps_to(losses, 1.2, window=2).tolist() == [4.0, 2.0]
    assert steps_to(losses, 0.1, window=2).tolist() == [5.0, 5.0]


def test_the_gate_bias_is_where_the_paper_puts_it() -> None:
    params = initial(highway(2, -3.0), 4)
    assert (params["layers"]["1"]["gate"]["bias"] == -3.0).all()


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write({"a": 1.0}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1.0}
    with pytest.raises(ValueError, match="JSON compliant"):
        write({"a": math.inf}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1.0}
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]
