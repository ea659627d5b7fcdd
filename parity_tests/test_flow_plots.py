"""The pictures are drawn without pyplot, nothing in them overlaps or is cut off, and matplotlib is not needed else."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import pure
from pure import flow, nets
from pure.errors import ArgumentError
from pure.flow import plot
from pure.flow.shared.result import Result

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


def untagged(network: pure.Block) -> pure.Block:
    """The plain network without the tags of its layers."""
    parts = network.children()
    layers = [
        pure.Sequential(**{n: b for n, b in layer.children().items() if n != "out"})
        for layer in parts["layers"].children().values()
    ]
    return pure.Sequential(stem=parts["stem"], layers=pure.Sequential(*layers), head=parts["head"])


NETS = {
    "plain": untagged(nets.plain_mlp(16, 12, 4, 20)),
    "residual": nets.skip_mlp(16, 12, 4, 20),
    "gated": nets.highway_mlp(16, 12, 4, 20),
    "dense": nets.dense_mlp(16, 12, 4, 20),
}


def measured(block: pure.Block) -> tuple[flow.GradientNorms, flow.PerSampleNorms]:
    generator = torch.Generator().manual_seed(0)
    params, _ = block.init(generator)
    x, y = torch.randn(12, 16, generator=generator), torch.arange(12) % 4
    whole = flow.gradient_norms(lambda p, x, y: F.cross_entropy(block(p, x), y), params, x, y)
    return whole, flow.per_sample_norms(lambda p, x, y: F.cross_entropy(block(p, x[None]), y[None]), params, x, y)


@pytest.fixture(scope="module")
def results() -> dict[str, tuple[flow.GradientNorms, flow.PerSampleNorms]]:
    return {name: measured(block) for name, block in NETS.items()}


def check_layout(figure: Figure) -> None:
    """Draws the figure; every text lies inside it, and no two texts cover one another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip() and t.get_visible()]
    shown = []
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        hidden = {t for tick in ticks if not low <= tick.get_loc() <= high for t in (tick.label1, tick.label2)}
        texts = [t for t in texts if t not in hidden]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    for text, box in boxes:
        assert box.x0 >= -1, f"{text!r} is cut off at the left"
        assert box.y0 >= -1, f"{text!r} is cut off below"
        assert box.x1 <= figure.bbox.x1 + 1, f"{text!r} is cut off at the right"
        assert box.y1 <= figure.bbox.y1 + 1, f"{text!r} is cut off above"
        for other, other_box in shown:
            width = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
            height = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
            assert width <= 1 or height <= 1, f"{text!r} covers {other!r}"
        shown.append((text, box))


def test_every_picture_of_every_network(results: dict[str, Any]) -> None:
    for name, (whole, samples) in results.items():
        for figure in (whole.plot(), samples.plot(), plot.leaves(whole), plot.heat(samples, of="blocks")):
            assert isinstance(figure, Figure), name
            check_layout(figure)


def test_several_networks_in_one_picture(results: dict[str, Any]) -> None:
    tagged = {name: whole for name, (whole, _) in results.items() if name != "plain"}
    figure = plot.by_depth(tagged)
    check_layout(figure)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert [line.get_label() for line in axes.lines] == list(tagged)
    assert all(len(line.get_xdata()) == 20 for line in axes.lines)
    assert len({to_hex(line.get_color()) for line in axes.lines} | {line.get_marker() for line in axes.lines}) == 6
    assert list(axes.lines[0].get_ydata()) == [
        a.median for p, a in tagged["residual"].activations.items() if "stream" in p
    ]
    assert len(axes.collections) == 3, "one band a network"


def test_parameters_by_depth_need_no_tags(results: dict[str, Any]) -> None:
    wholes = {name: whole for name, (whole, _) in results.items()}
    figure = plot.by_depth(wholes)
    check_layout(figure)
    assert list(figure.axes[0].lines[0].get_ydata()) == [wholes["plain"].blocks[f"layers.{i}"].l2 for i in range(20)]
    banded = plot.by_depth({name: samples for name, (_, samples) in results.items()})
    check_layout(banded)
    assert len(banded.axes[0].collections) == 4
    with pytest.raises(
        ArgumentError, match=r"'plain' has no value tagged as stream: draw of='parameters', or pure\.tag it"
    ):
        plot.by_depth(wholes, of="stream")


def test_small_and_degenerate_results() -> None:
    block = nets.simple_block(16, 3, 4)
    params, _ = block.init(torch.Generator().manual_seed(0))
    one = torch.ones(1, 16)
    whole = flow.gradient_norms(lambda p, x: block(p, x).sum(), params, one)
    samples = flow.per_sample_norms(lambda p, x: block(p, x[None]).sum(), params, one)
    dead = flow.gradient_norms(lambda p, x: (block(p, x) * 0).sum(), params, one)
    dead_samples = flow.per_sample_norms(lambda p, x: (block(p, x[None]) * 0).sum(), params, one)
    for figure in (plot.leaves(whole), samples.plot(), plot.leaves(dead), dead_samples.plot()):
        check_layout(figure)
    with pytest.raises(ArgumentError, match="no numbered blocks"):
        plot.by_depth(whole)
    deep = nets.skip_mlp(16, 3, 4, 1)
    params, _ = deep.init(torch.Generator().manual_seed(0))
    check_layout(flow.gradient_norms(lambda p, x: deep(p, x).sum(), params, one).plot())
    flat = plot.by_depth(flow.gradient_norms(lambda p, x: (deep(p, x) * 0).sum(), params, one))
    assert "1 values are 0" in flat.axes[0].texts[0].get_text()
    check_layout(flat)


def test_a_deep_network_names_only_some_rows() -> None:
    block = nets.skip_mlp(16, 4, 4, 100)
    whole, samples = measured(block)
    assert len(whole) == 204
    for figure in (plot.leaves(whole), samples.plot(), whole.plot()):
        check_layout(figure)


def test_nothing_to_draw_is_an_error() -> None:
    empty = flow.gradient_norms(lambda p, x: x.sum(), {}, torch.ones(2))
    with pytest.raises(ArgumentError, match="nothing to draw"):
        plot.leaves(empty)
    with pytest.raises(ArgumentError, match="no results"):
        plot.by_depth({})


def test_the_style_is_not_left_behind_and_pyplot_is_never_imported(root: Path, tmp_path: Path) -> None:
    code = f"""
import sys, torch, matplotlib
from pure import flow
before = dict(matplotlib.rcParams)
norms = flow.gradient_norms(lambda p, x: (p["w"] * x).sum(), {{"w": torch.ones(3)}}, torch.ones(3))
norms.plot().savefig({str(tmp_path / "norms.png")!r})
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "norms.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_error_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = flow.gradient_norms(lambda p, x: (p["w"] * x).sum(), {"w": torch.ones(3)}, torch.ones(3))
    for name in [name for name in sys.modules if name == "matplotlib" or name.startswith("matplotlib.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(flow.PlotError, match=r'pip install "pure-export\[report\]"'):
        norms.plot()


def results_of(base: type) -> set[type]:
    """All subclasses that are dataclasses, at any depth."""
    below: list[type] = type.__subclasses__(base)
    return {cls for cls in below if dataclasses.is_dataclass(cls)}.union(*map(results_of, below))


def test_every_result_has_one_drawing() -> None:
    named = {value for value in vars(flow).values() if isinstance(value, type) and issubclass(value, Result)}
    drawn = set(plot.DRAWINGS)
    assert named <= drawn
    assert drawn == {cls for cls in results_of(Result) if cls.__module__.startswith("pure.flow")}
    assert {drawing.__name__ for drawing in plot.DRAWINGS.values()} <= set(plot.__all__)
