"""`flow.watch`, its page, TensorBoard's names, and what notebooks are shown."""

import html
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import pure
from pure import flow, nets, tree
from pure.block_html import block_html
from pure.errors import ArgumentError
from pure.flow.plot.html_lines import Panel, line_page
from pure.flow.shared.terminal import Bars
from pure_export_shared import html_text

NET = nets.residual_mlp(6, 8, 3)


def loss(params: Any, x: Tensor) -> Tensor:
    return NET(params, x[None]).square().sum()


def step(params: Any, rate: float, x: Tensor) -> tuple[Any, Tensor]:
    value, gradient = pure.value_and_grad(lambda p: NET(p, x).square().sum(1).mean())(params)
    return tree.tree_map(lambda leaf, g: leaf - rate * g, params, gradient), value


@pytest.fixture(scope="module")
def run() -> list[flow.Observation]:
    params, _ = NET.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    measures = {"noise scale": lambda params, rate, x: flow.noise_scale(loss, params, x)}
    watched = flow.watch(step, every=3, measures=measures)
    seen = []
    for number in range(7):
        (params, _), observation = watched(number, params, 0.01, x)
        seen.append(observation)
    assert [entry is not None for entry in seen] == [True, False, False, True, False, False, True]
    return [entry for entry in seen if entry is not None]


def test_norms_are_those_of_the_trees_before_and_after() -> None:
    params, _ = NET.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.ones(2, 6, dtype=torch.float64)
    (after, value), seen = flow.watch(step, levels=1)(0, params, 0.1, x)
    plain, expected = step(params, 0.1, x)
    assert torch.equal(value, expected)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(after), tree.leaves(plain), strict=True))
    assert seen is not None
    for name, found in seen.blocks.items():
        before, new = (torch.cat([leaf.flatten() for leaf in tree.leaves(part[name])]) for part in (params, after))
        assert found.weight == pytest.approx(float(before.norm()), rel=1e-6)
        assert found.update == pytest.approx(float((new - before).norm()), rel=1e-6)
        assert found.ratio == pytest.approx(found.update / found.weight)


def test_the_noise_scale_is_that_of_the_samples_gradients() -> None:
    params, _ = NET.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = [tree.leaves(torch.func.grad(loss)(params, sample)) for sample in x]
    gradients = torch.stack([torch.cat([leaf.flatten() for leaf in row]) for row in rows])
    variance = gradients.var(0).sum()
    signal = gradients.mean(0).square().sum() - variance / len(x)
    assert flow.noise_scale(loss, params, x) == pytest.approx(float(variance / signal), rel=1e-9)
    with pytest.raises(ArgumentError, match="at least 2"):
        flow.noise_scale(loss, params, x[:1])


def test_a_run_becomes_one_page_without_anything_from_elsewhere(run: list[flow.Observation], tmp_path: Path) -> None:
    flow.watch_page(run, tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4
    assert "noise scale" in page
    assert not any(word in page for word in ("http://", "https://", "src=", "<link"))
    with pytest.raises(ArgumentError, match="no observation"):
        flow.watch_page([], tmp_path / "none.html")


def test_what_is_no_step_is_refused() -> None:
    with pytest.raises(ArgumentError, match="every=0"):
        flow.watch(step, every=0)
    with pytest.raises(ArgumentError, match="noise is int"):
        flow.watch(step, measures={"noise": 3})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="new_params"):
        flow.watch(lambda params: torch.ones(1))(0, {"w": torch.ones(1)})


def test_results_go_to_tensorboard_by_name(run: list[flow.Observation]) -> None:
    scalars: dict[str, float] = {}
    histograms: dict[str, Tensor] = {}
    writer = SimpleNamespace(
        add_scalar=lambda name, value, step: scalars.update({name: value}),
        add_histogram=lambda name, values, step: histograms.update({name: values}),
    )
    flow.to_tensorboard(writer, run[0], step=0)
    block = next(iter(run[0].blocks))
    assert scalars[f"flow/blocks/{block}/ratio"] == run[0].blocks[block].ratio
    params, _ = NET.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    norms = flow.per_sample_norms(loss, params, x)
    flow.to_tensorboard(writer, norms, step=0, prefix="norms")
    torch.testing.assert_close(histograms["norms/total"], norms.total)
    assert all(map(math.isfinite, scalars.values()))
    with pytest.raises(ArgumentError, match="add_scalar"):
        flow.to_tensorboard(object(), norms)
    with pytest.raises(ArgumentError, match="result is dict"):
        flow.to_tensorboard(writer, {})  # type: ignore[arg-type]


def test_an_audit_s_page_has_gaps_where_nothing_was_measured(tmp_path: Path) -> None:
    params, _ = NET.init(torch.Generator().manual_seed(0), torch.float64)
    flow.write_html(flow.audit(NET, params, torch.ones(3, 6, dtype=torch.float64)), tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "branch over stream" in page
    assert "nan" not in page.partition("<script>")[0].lower().replace("finance", "")
    empty = line_page("x", [Panel("none", "depth", [0.0, 1.0], {"a": [math.nan, -math.inf]}, log=True)])
    assert "nothing was measured" in empty


def test_a_path_spectrum_s_page_holds_its_numbers(tmp_path: Path) -> None:
    net = nets.residual_mlp(features=6, hidden_features=8, depth=4)
    params, _ = net.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.ones(3, 6, dtype=torch.float64)
    found = flow.path_spectrum(net, params, x, x)
    flow.write_html(found, tmp_path / "paths.html", title="a < b")
    page = (tmp_path / "paths.html").read_text(encoding="utf-8")
    assert "<title>a &lt; b</title>" in page
    points = json.loads(html.unescape(page.split('data-points="')[1].split('"')[0]))
    shares = [value for _, _, name, _, value in points if name == "share"]
    assert shares == pytest.approx(found.shares.tolist())
    assert f"mean path length {found.mean_path_length:.4g} of 4 branches" in page
    assert "http" not in page
    with pytest.raises(ArgumentError, match="result is int: expected an Audit or a PathSpectrum"):
        flow.write_html(3, tmp_path / "no.html")  # type: ignore[arg-type]
    assert not (tmp_path / "no.html").exists()


def test_notebooks_show_blocks_as_trees_and_results_as_tables(run: list[flow.Observation]) -> None:
    shown = NET._repr_html_()
    assert shown.startswith("<details open")
    deep = pure.Sequential(stem=pure.Linear(2, 2), blocks=pure.Sequential(*[nets.residual_mlp_block(2, 3)] * 60))
    assert "0 … 59 (60 ×)" in block_html(deep)
    assert block_html(deep).count("<details") < 10
    assert "update norm" in run[0]._repr_html_()
    assert "parameters" in pure.summary(NET, (2, 6))._repr_html_()
    assert "#D55E00" in html_text("no", passed=False)


def test_a_picture_shows_without_a_magic(run: list[flow.Observation]) -> None:
    pytest.importorskip("matplotlib")
    params, _ = NET.init(torch.Generator().manual_seed(0), torch.float64)
    figure: Any = flow.gradient_norms(lambda p, x: NET(p, x).square().sum(), params, torch.ones(2, 6).double()).plot()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_bar_in_a_notebook_counts_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    module: Any = ModuleType("IPython.display")

    def display(data: dict[str, str], **options: bool) -> SimpleNamespace:
        assert options == {"raw": True, "display_id": True}
        seen.append(data)
        return SimpleNamespace(update=lambda data, raw: seen.append(data))

    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with Bars(True) as track:
        assert list(track(range(200), "forward")) == list(range(200))
    assert seen[0] == {"text/plain": "forward"}
    assert seen[-2] == {"text/plain": "forward 200/200"}
    assert seen[-1] == {}
    assert len(seen) < 30
