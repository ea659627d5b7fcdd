"""Balduzzi et al. 2017 (1702.08591): gradients of a deep plain network along a line of inputs look like white noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import grad, vmap

from benchmarks.papers.drawing import law, line, panels
from benchmarks.papers.finding import Estimate, Finding, Reproduction, band, mean, ratio, scaled
from benchmarks.papers.training import Params, initial
from pure import Activation, BatchNorm, Block, Linear, Residual, Sequential
from pure.flow import theory
from pure.flow.plot.style import COLOURS
from pure.initializers import KaimingNormal, Normal

PAPER = "Balduzzi et al. 2017 (1702.08591), figure 1 and theorem 1"
LAGS, JUDGED = 15, 10
HE, LINEAR = KaimingNormal(), KaimingNormal(nonlinearity="linear")


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    seeds: int = 24
    width: int = 200
    grid: int = 256
    plain_depth: int = 24
    residual_depth: int = 50
    pairs: int = 32
    tangents: int = 32
    pair_width: int = 1000
    pair_depth: int = 10
    coin_pairs: int = 400
    coin_width: int = 200


SIZES = {
    "full": Sizes(),
    "quick": Sizes(seeds=10, width=100, pairs=20, pair_width=800, coin_pairs=100),
    "tiny": Sizes(8, 64, 256, 24, 50, 16, 32, 500, 6, 60),
}


def around(width: int, layers: list[Block]) -> Block:
    """The layers between a scalar input and a scalar output; the first bias spreads the kinks along the line."""
    stem = Linear(1, width, weight_init=HE, bias_init=Normal(std=math.sqrt(2)))
    return Sequential(stem=stem, layers=Sequential(*layers), head=Linear(width, 1, bias=False, weight_init=LINEAR))


def plain(width: int, depth: int, norm: bool = False) -> Block:
    """`depth` hidden relu layers, the stem's among them; `norm` for batch normalisation before each relu."""
    linear, act = Linear(width, width, bias=False, weight_init=HE), Activation("relu")
    before: list[Block] = [BatchNorm(width)] if norm else []
    return around(width, [*before, act, *[linear, *before, act] * (depth - 1)])


def residual(width: int, depth: int) -> Block:
    """x ← x + W₂ relu(W₁ x), as the paper's resnets without batch normalisation."""
    branch = Sequential(
        fc1=Linear(width, width, bias=False, weight_init=HE),
        act=Activation("relu"),
        fc2=Linear(width, width, bias=False, weight_init=LINEAR),
    )
    return around(width, [Residual(branch)] * depth)


def normalised(width: int, depth: int, scale: float = 0.1) -> Block:
    """x ← x + β W relu(BN(x)), β = 0.1, statistics over the grid."""
    linear = Linear(width, width, bias=False, weight_init=HE)
    branch = Sequential(norm=BatchNorm(width), act=Activation("relu"), linear=linear)
    return around(width, [Residual(branch, scale=scale)] * depth)


def gradients(block: Block, seeds: int, grid: int) -> np.ndarray:
    """(seeds, grid): the derivative of each network's summed output by each input."""
    state = block.init(torch.Generator().manual_seed(0))[1]
    x = torch.linspace(-2, 2, grid)[:, None]

    def total(x: Tensor, params: Params) -> Tensor:
        return block.apply(params, x, state, {}, True)[0].sum()

    slope = vmap(grad(total), in_dims=(None, 0), chunk_size=8)
    return slope(x, initial(block, seeds))[..., 0].double().numpy()


def autocorrelation(series: np.ndarray) -> np.ndarray:
    """(seeds, LAGS + 1) from (seeds, length), each series about its own mean."""
    centred = series - series.mean(1, keepdims=True)
    products = [(centred[:, lag:] * centred[:, : centred.shape[1] - lag]).sum(1) for lag in range(LAGS + 1)]
    return np.stack(products, 1) / products[0][:, None]


def tangents(sizes: Sizes, angle: float, independent: bool) -> tuple[Tensor, Tensor]:
    """⟨t, t′⟩ and (‖t‖² + ‖t′‖²)/2, each (depth, draws): tangents sent through both inputs' relu masks.

    Args:
        sizes: How many draws and tangents (whose mean is one sample), how wide, how deep.
        angle: Between the two inputs.
        independent: Whether each input's masks are coins of their own instead of its relus; 2⁻ᴸ is then exact at any
            width, so that narrow networks do, and more of them.
    """
    generator = torch.Generator().manual_seed(2 if independent else 1)
    n, draws = (sizes.coin_width, sizes.coin_pairs) if independent else (sizes.pair_width, sizes.pairs)
    products, squares = torch.zeros(2, sizes.pair_depth, draws, dtype=torch.float64)
    for draw in range(draws):
        basis = torch.linalg.qr(torch.randn(n, 2, generator=generator))[0].T
        h = torch.stack([basis[0], math.cos(angle) * basis[0] + math.sin(angle) * basis[1]])
        t = torch.randn(sizes.tangents, 1, n, generator=generator).expand(-1, 2, n)
        for layer in range(sizes.pair_depth):
            weight = torch.randn(n, n, generator=generator) * math.sqrt(2 / n)
            h, t = h @ weight.T, t @ weight.T
            mask = torch.randint(2, (2, n), generator=generator) if independent else h > 0
            h, t = h.relu(), t * mask
            wide = t.double()
            products[layer, draw], squares[layer, draw] = (wide[:, 0] * wide[:, 1]).sum(), wide.square().sum() / 2
    return products, squares


def by_depth(sizes: Sizes, angle: float, independent: bool = False) -> list[Estimate]:
    """The correlation of the two gradients after 1, 2, … layers."""
    return [ratio(a, b) for a, b in zip(*(part.numpy() for part in tangents(sizes, angle, independent)), strict=True)]


def drawable(estimates: list[Estimate]) -> dict[str, list[float]]:
    """Estimates as a line with its band."""
    return {key: [getattr(estimate, key) for estimate in estimates] for key in ("value", "low", "high")}


def run(size: str = "full") -> Reproduction:
    """Measure."""
    sizes = SIZES[size]
    measured = partial(gradients, seeds=sizes.seeds, grid=sizes.grid)
    random = np.random.default_rng(0)
    noise = random.standard_normal((max(sizes.seeds, 100), sizes.grid))
    series = {
        "brown noise": noise.cumsum(1),
        "plain, 1 layer": measured(plain(sizes.width, 1)),
        f"residual, {sizes.residual_depth} blocks, BN": measured(normalised(sizes.width, sizes.residual_depth)),
        f"residual, {sizes.residual_depth} blocks": measured(residual(sizes.width, sizes.residual_depth)),
        f"plain, {sizes.plain_depth} layers": measured(plain(sizes.width, sizes.plain_depth)),
        f"plain, {sizes.plain_depth} layers, BN": measured(plain(sizes.width, sizes.plain_depth, norm=True)),
        "white noise": noise,
    }
    acf = {name: autocorrelation(values) for name, values in series.items()}
    at = {name: mean(values[:, JUDGED]) for name, values in acf.items()}
    brown, shallow, batch, bare, kept, deep, white = acf
    middle = (at[brown].value + at[white].value) / 2

    angle = math.pi / 3
    relus, coins = by_depth(sizes, angle), by_depth(sizes, angle, independent=True)
    expected = [theory.plain_correlation(angle, depth) for depth in range(1, sizes.pair_depth + 1)]
    halves = [0.5**depth for depth in range(1, sizes.pair_depth + 1)]
    off = [estimate.value / value - 1 for estimate, value in zip(relus, expected, strict=True)]
    last = sizes.pair_depth
    small = min(5, last)
    findings = (
        Finding(
            "shallow",
            "Gradients of a shallow network along a line of inputs look like brown noise.",
            f"autocorrelation at lag {JUDGED} above the midpoint of brown and white noise, {middle:.2f}",
            {name: at[name] for name in (shallow, brown)},
            at[shallow].low > middle,
        ),
        Finding(
            "plain with norm",
            "Those of a deep plain network with batch normalisation look like white noise.",
            f"autocorrelation at lag {JUDGED} below the midpoint",
            {name: at[name] for name in (deep, white)},
            at[deep].high < middle,
        ),
        Finding(
            "plain",
            "So do those of a deep plain network without it.",
            f"autocorrelation at lag {JUDGED} below the midpoint",
            {name: at[name] for name in (kept, bare)},
            at[kept].high < middle,
        ),
        Finding(
            "residual",
            "Those of a residual network of twice the depth lie between.",
            "with batch normalisation in both: above the deep plain network's, below brown noise's, intervals apart",
            {name: at[name] for name in (batch, deep)},
            at[batch].low > at[deep].high and at[batch].high < at[brown].low,
        ),
        Finding(
            "coins",
            "Where relus of two inputs are on independently of each other, the correlation is 2⁻ᴸ (theorem 1).",
            f"2⁻ᴸ within the interval at L = {small}, masks drawn as coins",
            {f"measured × 2ᴸ, L = {small}": scaled(coins[small - 1], 2.0**small)},
            coins[small - 1].low <= halves[small - 1] <= coins[small - 1].high,
        ),
        Finding(
            "halves",
            "So it is 2⁻ᴸ in a plain relu network at initialisation.",
            f"2⁻ᴸ within the interval at L = {last}, inputs at 60°",
            {f"measured × 2ᴸ, L = {last}": scaled(relus[-1], 2.0**last)},
            relus[-1].low <= halves[-1] <= relus[-1].high,
        ),
        Finding(
            "arc-cosine",
            "It is Π(1 − θ_l/π), the angles by the arc-cosine map, so that it falls as a power of the depth.",
            "the law within 5 % of the measurement, or within its interval, at every depth",
            {f"measured / law, L = {last}": scaled(relus[-1], 1 / expected[-1])},
            all(
                abs(gap) < 0.05 or estimate.low <= value <= estimate.high
                for gap, estimate, value in zip(off, relus, expected, strict=True)
            ),
            ours=True,
        ),
    )
    shown = (shallow, batch, deep)
    pairs = f"{sizes.pairs} draws of {sizes.tangents} tangents, width {sizes.pair_width}, inputs at 60°, L ≤ {last}"
    return Reproduction(
        name="shattered",
        paper=PAPER,
        setup={
            "inputs": f"{sizes.grid} points on [−2, 2]",
            "width": sizes.width,
            "seeds": sizes.seeds,
            "initialisation": "He's; bias in the first layer only, of variance 2",
            "pairs": pairs,
            "pairs with masks as coins": f"{sizes.coin_pairs} draws, width {sizes.coin_width}",
            "residual branch": "β W relu(BN(x)), β = 0.1; without normalisation W₂ relu(W₁ x)",
            "data": "none, random networks",
        },
        findings=findings,
        deviations=(
            "biases in the first layer only, so that the closed form applies to the same networks",
            f"the autocorrelation is judged at lag {JUDGED} of {LAGS}, where noise of the two kinds is far apart",
        ),
        curves={
            "traces": {name: series[name][0].tolist() for name in shown},
            "acf": {name: band(values, mean) for name, values in acf.items()},
            "correlation": drawable(relus),
            "independent": drawable(coins),
            "law": expected,
        },
        size=size,
    )


def draw(curves: Mapping[str, Any]) -> Figure:
    """Traces, autocorrelation by lag, and the correlation of two inputs by depth beside the laws."""
    with panels("gradient along a line of inputs", "autocorrelation", "two inputs at 60°, by depth") as (figure, row):
        for index, (name, trace) in enumerate(curves["traces"].items()):
            x = np.linspace(-2, 2, len(trace))
            centred = np.asarray(trace) - np.mean(trace)
            row[0].plot(
                x, centred / np.abs(centred).max() - 2.6 * index, color=COLOURS[(0, 2, 1)[index]], linewidth=0.8
            )
            row[0].annotate(name, (-2, 1.05 - 2.6 * index), fontsize=7.5, va="bottom")
        row[0].set_yticks([])
        row[0].set_xlabel("input")
        colours = {"brown noise": 4, "white noise": 6}
        rest = iter((0, 2, 3, 5, 1))
        for name, curve in curves["acf"].items():
            line(row[1], range(len(curve["value"])), curve, colours.get(name) or next(rest), name)
        row[1].set_xlabel("lag (points of the grid)")
        row[1].set_ylim(-0.6, 1.05)
        row[1].legend(fontsize=6.5, loc="lower left", ncols=2, columnspacing=0.8, handlelength=1.4)
        depth = range(1, len(curves["law"]) + 1)
        line(row[2], depth, curves["correlation"], 0, "relu masks, measured", linestyle="none")
        law(row[2], depth, curves["law"], "Π(1 − θ/π), arc-cosine map")
        shown = [d for d, low in zip(depth, curves["independent"]["low"], strict=True) if low > 0]
        coins = {key: [values[d - 1] for d in shown] for key, values in curves["independent"].items()}
        line(row[2], shown, coins, 1, "independent masks, measured", linestyle="none")
        law(row[2], depth, [0.5**d for d in depth], "$2^{-L}$", ":")
        row[2].set_yscale("log")
        row[2].set_xlabel("depth L")
        row[2].legend(fontsize=7)
    return figure
