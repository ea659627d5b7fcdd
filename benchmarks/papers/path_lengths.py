"""Veit et al. 2016 (1605.06431): a trained residual network's gradient comes through short paths, counted exactly."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.papers.drawing import law, line, panels
from benchmarks.papers.finding import Estimate, Finding, Reproduction, band, exact, mean
from benchmarks.papers.training import SOURCE, Batches, Params, accuracies, initial, load, train
from pure import Activation, Block, LayerNorm, Linear, Sequential, flow, tree
from pure.flow import theory
from pure.initializers import Constant, KaimingNormal
from pure.optim import adamw
from pure.skips.scaled.norm_placement import pre_norm

PAPER = "Veit et al. 2016 (1605.06431), sections 3, 4.2 and 4.3, figure 6"
HE, LINEAR, ZERO = KaimingNormal(), KaimingNormal(nonlinearity="linear"), Constant()
SHORTEST, LONGEST = 5, 17
"""Branches: what the paper calls effective, 10 to 34 layers of its 110."""
WHEN = ("before training", "after training")


@dataclass(frozen=True)
class Sizes:
    """How much is computed; `orders` is the longest length at which single paths are measured."""

    seeds: int = 5
    blocks: int = 54
    width: int = 48
    steps: int = 200
    digits: int = 48
    signs: int = 48
    orders: int = 24


SIZES = {
    "full": Sizes(),
    "quick": Sizes(4, 54, 24, 10, 8, 8, 18),
    "tiny": Sizes(4, 20, 24, 4, 4, 16, 10),
}
RATE, BATCH = 1e-3, 64


def network(width: int, blocks: int) -> Block:
    """Stem of unit variance, x ← x + W₂ relu(W₁ LN(x)) so many times, norm and head."""
    branch = Sequential(
        fc1=Linear(width, width, weight_init=HE, bias_init=ZERO),
        act=Activation("relu"),
        fc2=Linear(width, width, weight_init=LINEAR, bias_init=ZERO),
    )
    return Sequential(
        stem=Sequential(linear=Linear(64, width, weight_init=LINEAR), norm=LayerNorm(width, affine=False)),
        layers=Sequential(*[pre_norm(branch, LayerNorm(width))] * blocks),
        norm=LayerNorm(width),
        head=Linear(width, 10),
    )


def shares(block: Block, params: Params, data: Batches, digits: int) -> np.ndarray:
    """(blocks + 1,): squared norm of the exact part of ∂loss/∂x₀ that passed through k branches, as a part of all."""
    parts = block.children()
    behind = Sequential(**{name: part for name, part in parts.items() if name != "stem"})

    def loss(params: Params, h: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(behind({name: params[name] for name in behind.children()}, h), y)

    h = parts["stem"](params["stem"], data.test_x[:digits])
    return flow.path_spectrum_of_loss(loss, params, h, data.test_y[:digits], dtype=torch.float64).shares.numpy()


def single_paths(block: Block, params: Params, data: Batches, sizes: Sizes, seed: int) -> np.ndarray:
    """(orders + 1,): root mean square magnitude of one path of length k, for a random tangent of norm 1 a digit."""
    generator = torch.Generator().manual_seed(seed)
    h = block.children()["stem"](params["stem"], data.test_x[: min(sizes.digits, 8)])
    v = torch.randn(h.shape, generator=generator)
    layers = block.children()["layers"]
    found = flow.path_coherence(
        layers,
        params["layers"],
        h,
        v,
        orders=sizes.orders,
        generator=generator,
        samples=sizes.signs,
        dtype=torch.float64,
    )
    counts = torch.tensor(found.paths, dtype=torch.float64)
    return ((found.energies / counts).sqrt() / torch.linalg.vector_norm(v)).numpy()


def centre(parts: np.ndarray) -> np.ndarray:
    """(seeds,) mean length, for (seeds, lengths) parts that are made to sum to 1."""
    return (parts / parts.sum(1, keepdims=True)) @ np.arange(parts.shape[1])


def reached(parts: np.ndarray, level: float) -> np.ndarray:
    """(seeds,) the least length up to which lies this much of the whole."""
    return (np.cumsum(parts / parts.sum(1, keepdims=True), 1) < level).sum(1).astype(np.float64)


def run(size: str = "full") -> Reproduction:
    """Measure."""
    sizes, data = SIZES[size], load()
    block = network(sizes.width, sizes.blocks)
    start = initial(block, sizes.seeds)
    end = train(block, start, adamw(RATE, weight_decay=0.0), data, sizes.steps, BATCH).params
    gradient, path = {}, {}
    for when, stacked in zip(WHEN, (start, end), strict=True):
        each = tree.unstack(stacked)
        gradient[when] = np.stack([shares(block, params, data, sizes.digits) for params in each])
        path[when] = np.stack([single_paths(block, params, data, sizes, seed) for seed, params in enumerate(each)])
    before, after = WHEN
    counts = np.array([math.comb(sizes.blocks, k) for k in range(sizes.blocks + 1)], dtype=np.float64)
    lengths = np.arange(1, sizes.orders + 1)
    logs = np.log(path[after][:, 1:])
    slope = np.array([np.polyfit(lengths, row, 1)[0] for row in logs])
    straight = np.array([np.corrcoef(lengths, row)[0, 1] ** 2 for row in logs])
    product = {when: counts[: sizes.orders + 1] * path[when] for when in WHEN}
    short = mean(gradient[after][:, : LONGEST + 1].sum(1))
    window = mean(product[after][:, SHORTEST : LONGEST + 1].sum(1) / product[after].sum(1))
    longer = mean(centre(product[after]) - centre(gradient[after]))
    gains = [1 / layer for layer in range(1, sizes.blocks + 1)]
    law_shares = np.array(theory.path_energies(gains)) / sum(theory.path_energies(gains))
    law_mean = theory.mean_path_length(gains)
    at_first = mean(centre(gradient[before]))
    long = reached(gradient[after], 0.95)
    used = [theory.path_share(sizes.blocks, 0, int(most)) for most in long]
    fall = mean(np.exp(slope))
    findings = (
        Finding(
            "exponential",
            "The magnitude of a path's gradient falls exponentially with its length, in the trained network.",
            "a line through the logarithms explains more than 95 % of their variance, and falls",
            {"factor a branch": fall, "R² of the line": mean(straight)},
            fall.high < 1 and mean(straight).low > 0.95,
        ),
        Finding(
            "short paths",
            f"Nearly all of the gradient comes through paths of at most {LONGEST} of {sizes.blocks} branches.",
            f"exact share of the squared norm at most {LONGEST} branches long above 0.95",
            {
                f"share, 0 to {LONGEST} branches": short,
                "mean length, branches": mean(centre(gradient[after])),
                "95 % within, branches": mean(long),
            },
            short.low > 0.95,
        ),
        Finding(
            "few paths",
            "The paths that carry it are a tiny part of all paths: 0.45 % in the paper.",
            "the paths that hold 95 % of the squared norm are below 0.45 % of all",
            {
                "part of all paths": mean(used),
                f"{SHORTEST} to {LONGEST} branches, part of 54 blocks' paths": PAPER_SHARE,
            },
            mean(used).high < 0.0045,
        ),
        Finding(
            "five to seventeen",
            f"By count × magnitude, the paths that contribute are {SHORTEST} to {LONGEST} branches long.",
            f"more than 0.9 of the product there (lengths up to {sizes.orders})",
            {"part of count × magnitude": window, "mean length by it": mean(centre(product[after]))},
            window.low > 0.9,
        ),
        Finding(
            "unrelated directions",
            "Paths of one length point in unrelated directions, so that their sum is below count × magnitude and "
            "the gradient is made of shorter paths than that says.",
            "mean length by count × magnitude minus the exact one above 0",
            {"difference, branches": longer},
            longer.low > 0,
            ours=True,
        ),
        Finding(
            "law at the start",
            "Before training the length follows the Poisson-binomial law of pre-norm, gains 1/l, mean H(L+1) − 1.",
            "mean length within 10 % of the law, or the law within the interval",
            {"mean length": at_first, "law": exact(law_mean)},
            abs(at_first.value / law_mean - 1) < 0.1 or law_mean in at_first,
            ours=True,
        ),
    )
    trained: Estimate = mean(accuracies(block, end, data.test_x, data.test_y))
    return Reproduction(
        name="path_lengths",
        paper=PAPER,
        setup={
            "data": SOURCE,
            "network": f"{sizes.blocks} blocks x + W₂ relu(W₁ LN(x)) of width {sizes.width}, {sizes.seeds} seeds",
            "training": f"Adam, rate {RATE}, batch {BATCH}, {sizes.steps} steps; held-out accuracy {trained}",
            "gradient": f"split exactly by length (flow.path_spectrum_of_loss), {sizes.digits} held-out digits",
            "single paths": f"energy by {sizes.signs} draws of signs (flow.path_coherence), to length {sizes.orders}",
        },
        findings=findings,
        deviations=(
            "fully connected blocks with LayerNorm on digits; the paper's are convolutions with batch normalisation",
            "the stem's output is normalised, so that the law before training has no free number",
            "no sampling of paths: all 2^L of them at once, by one sweep",
            "the share is of the squared norm of the sum over a length's paths, which counts "
            "directions too; the paper multiplies count and magnitude, drawn beside it",
        ),
        curves={
            "counts": (counts / counts.sum()).tolist(),
            "path": {when: band(path[when]) for when in WHEN},
            "shares": {when: band(gradient[when], mean) for when in WHEN},
            "product": {when: band(product[when] / product[when].sum(1, keepdims=True), mean) for when in WHEN},
            "law": law_shares.tolist(),
        },
        size=size,
    )


PAPER_SHARE = exact(theory.path_share(54, SHORTEST, LONGEST))


def draw(curves: Mapping[str, Any]) -> Figure:
    """The triptych: number of paths, magnitude of one, and what part of the gradient each length carries."""
    with panels("paths of each length", "magnitude of one path", "part of the gradient") as (figure, row):
        lengths = range(len(curves["counts"]))
        row[0].bar(lengths, curves["counts"], color="#999999")
        row[0].set_ylabel("part of all paths")
        for index, (when, curve) in enumerate(curves["path"].items()):
            line(row[1], range(len(curve["value"])), curve, index, when)
        row[1].set_yscale("log")
        row[1].set_ylabel("root mean square over paths")
        shown = min(len(curves["counts"]), 1 + len(curves["path"][WHEN[0]]["value"]))
        for index, (when, curve) in enumerate(curves["shares"].items()):
            kept = {key: values[:shown] for key, values in curve.items()}
            line(row[2], range(shown), kept, index, f"{when}, exact")
        product = curves["product"][WHEN[1]]
        line(row[2], range(len(product["value"])), product, 3, "count × magnitude, after", linestyle=":")
        law(row[2], range(shown), curves["law"][:shown], "law before training")
        row[2].set_ylabel("part of the squared norm")
        row[2].legend(fontsize=7)
        row[1].legend(fontsize=7)
        for axes in row:
            axes.set_xlabel("length k (branches passed)")
    return figure
