"""Srivastava et al. 2015 (1505.00387, 1507.06228): very deep highway networks train where plain ones do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import vmap

from benchmarks.papers.drawing import law, line, panels
from benchmarks.papers.finding import Finding, Reproduction, band, geometric, mean
from benchmarks.papers.training import SOURCE, Batches, Params, accuracies, initial, load, losses_of, train
from pure import Block, Initialize, capture, nets, tree
from pure.initializers import KaimingNormal
from pure.optim import adamw

PAPER = "Srivastava et al. 2015 (1505.00387, figures 1 and 2; 1507.06228, figures 1 and 2)"
HIGHWAY_WIDTH, PLAIN_WIDTH = 50, 71
WORST = 1e3


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    seeds: int = 4
    depths: tuple[int, ...] = (10, 20, 50)
    steps: int = 120
    biases: tuple[float, ...] = (-1.0, -2.0, -3.0, -4.0)
    rates: tuple[float, ...] = (1e-3, 3e-3)


SIZES = {
    "full": Sizes(),
    "quick": Sizes(depths=(5, 20), steps=40, biases=(-2.0, -4.0), rates=(3e-3,)),
    "tiny": Sizes(depths=(2, 12), steps=6, biases=(-2.0, -4.0), rates=(3e-3,)),
}
BATCH = 32
HE = KaimingNormal()


def plain(depth: int) -> Block:
    """x ← relu(W x + b), He's initialisation."""
    return nets.plain_mlp(64, PLAIN_WIDTH, 10, depth)


def highway(depth: int, gate_bias: float) -> Block:
    """x ← T ⊙ relu(W x + b) + (1 − T) ⊙ x, He's initialisation for W."""
    block = nets.highway_mlp(64, HIGHWAY_WIDTH, 10, depth, gate_bias)
    return Initialize(block, {"layers.*.transform.linear.weight": HE})


def adam(rate: Tensor) -> Any:
    """Adam at one network's own rate."""
    return adamw(rate, weight_decay=0.0)  # type: ignore[arg-type]


class Fitted(NamedTuple):
    """Networks before and after training, with loss and accuracy of each: (choices, seeds)."""

    before: Params
    after: Params
    losses: np.ndarray
    accuracies: np.ndarray

    def best(self, among: slice = slice(None)) -> int:
        """The choice whose mean training loss is the lowest."""
        places = range(len(self.losses))[among]
        return min(places, key=lambda choice: self.losses[choice].mean())


def fit(blocks: Sequence[Block], rates: Sequence[float], sizes: Sizes, data: Batches) -> Fitted:
    """Train a network for each choice (a block at a rate) and seed, all at once; blocks differ in initial values."""
    before = tree.tree_map(lambda *leaves: torch.cat(leaves), *[initial(block, sizes.seeds) for block in blocks])
    each = torch.tensor(rates).repeat_interleave(sizes.seeds)
    out = train(blocks[0], before, adam, data, sizes.steps, BATCH, each)
    losses = losses_of(blocks[0], out.params, data.x, data.y).double().nan_to_num(nan=WORST, posinf=WORST)
    read = accuracies(blocks[0], out.params, data.test_x, data.test_y)
    shape = (len(blocks), sizes.seeds)
    return Fitted(before, out.params, losses.clamp_max(WORST).reshape(shape).numpy(), read.reshape(shape).numpy())


def gates(block: Block, params: Params, x: Tensor) -> np.ndarray:
    """(networks, layers): transform gates T, the mean over digits and features."""

    def means(params: Params, x: Tensor) -> Tensor:
        seen = capture(block, "gate")(params, x)[1]
        return torch.stack([gate.mean() for gate in seen.values()])

    with torch.no_grad():
        return vmap(means, in_dims=(0, None))(params, x).double().numpy()


def bias_of(params: Params, layers: int) -> np.ndarray:
    """(networks, layers): the gates' biases, the mean over features."""
    biases = [params["layers"][str(layer)]["gate"]["bias"].mean(1) for layer in range(layers)]
    return torch.stack(biases, 1).double().numpy()


def run(size: str = "full") -> Reproduction:
    """Measure."""
    sizes, data = SIZES[size], load()
    plains = [fit([plain(depth)] * len(sizes.rates), sizes.rates, sizes, data) for depth in sizes.depths]
    tried = len(sizes.rates)
    gated = [
        fit(
            [highway(depth, bias) for bias in sizes.biases for _ in sizes.rates],
            sizes.rates * len(sizes.biases),
            sizes,
            data,
        )
        for depth in sizes.depths
    ]
    losses = {name: [run.losses[run.best()] for run in runs] for name, runs in (("plain", plains), ("highway", gated))}
    ends = {
        f"{name}, {sizes.depths[at]} layers": geometric(values[at]) for name, values in losses.items() for at in (0, -1)
    }
    plain_first, plain_last, first, last = ends.values()
    deepest, depth = gated[-1], sizes.depths[-1]
    accuracy = mean(deepest.accuracies[deepest.best()])
    by_bias = [deepest.best(slice(tried * i, tried * (i + 1))) for i in range(len(sizes.biases))]

    block, probe = highway(depth, 0.0), data.test_x[:128]
    shape = (-1, sizes.seeds, depth)
    before, after = (gates(block, params, probe).reshape(shape)[by_bias] for params in (deepest.before, deepest.after))
    moved = (bias_of(deepest.after, depth) - bias_of(deepest.before, depth)).reshape(shape)[by_bias]
    two, four = sizes.biases.index(-2.0), sizes.biases.index(-4.0)
    shift = mean(moved[two].mean(1))
    activity = {
        f"mean T after training, bias {bias:g}": mean(a.mean(1)) for bias, a in zip(sizes.biases, after, strict=True)
    }
    reached = deepest.losses[by_bias]
    easier = mean(np.log(reached[two] / reached[four]))
    third = max(1, depth // 3)
    early_late = mean(after[four][:, :third].mean(1) - after[four][:, -third:].mean(1))
    findings = (
        Finding(
            "plain",
            "A plain network is optimised worse the deeper it is.",
            f"training loss at {sizes.depths[-1]} layers above that at {sizes.depths[0]}, intervals apart",
            {name: ends[name] for name in list(ends)[:2]},
            plain_last.low > plain_first.high,
        ),
        Finding(
            "highway",
            "Highway networks of the deepest kind are optimised where plain ones of that depth are not.",
            "training loss below the plain network's of that depth, intervals apart",
            {
                list(ends)[3]: last,
                list(ends)[1]: plain_last,
                f"held-out accuracy, highway, {sizes.depths[-1]} layers": accuracy,
            },
            last.high < plain_last.low,
        ),
        Finding(
            "no harder with depth",
            "Their optimisation hardly depends on depth.",
            "training loss of the deepest at most twice that of the shallowest",
            {name: ends[name] for name in list(ends)[2:]},
            last.high < 2 * first.low,
        ),
        Finding(
            "negative bias",
            "A strongly negative gate bias at first, so that layers copy, is what lets deep ones train.",
            f"at {depth} layers ln(loss with bias −2 / loss with bias −4) above 0",
            {"ln(loss at −2 / loss at −4)": easier},
            easier.low > 0,
        ),
        Finding(
            "biases fall",
            "Gate biases that start at −2 mostly fall further in training.",
            "mean change of the biases below 0",
            {"mean change of the bias": shift},
            shift.high < 0,
        ),
        Finding(
            "closed",
            "Trained gates are mostly closed: a digit passes through few of the features' transforms.",
            "mean T below 0.5 for every bias at first",
            activity,
            all(estimate.high < 0.5 for estimate in activity.values()),
        ),
        Finding(
            "activity falls",
            "Gates are more active in the first layers than in the last ones.",
            "mean T of the first third of the layers minus that of the last third above 0 (bias −4)",
            {"first third − last third": early_late},
            early_late.low > 0,
        ),
    )
    return Reproduction(
        name="highway",
        paper=PAPER,
        setup={
            "data": SOURCE,
            "networks": f"highway of width {HIGHWAY_WIDTH}, plain of width {PLAIN_WIDTH} (about as many parameters), "
            f"depths {', '.join(map(str, sizes.depths))}, He's initialisation",
            "training": f"Adam, batch {BATCH}, {sizes.steps} steps, {sizes.seeds} seeds; at every "
            f"depth the better of the rates {', '.join(map(str, sizes.rates))}, and for highway the best gate bias",
            "gates": f"{depth} layers, bias {', '.join(f'{b:g}' for b in sizes.biases)} at first",
        },
        findings=findings,
        deviations=(
            "scikit-learn's digits instead of MNIST, 50 layers at most instead of 100, and few steps of Adam instead "
            "of many of gradient descent with momentum",
            "a grid of rates and gate biases instead of a random search of 40 runs",
            "gate activity is the mean over 128 held-out digits and all features",
        ),
        curves={
            "depths": list(sizes.depths),
            "losses": {name: band(np.stack(values, 1)) for name, values in losses.items()},
            "before": {f"{bias:g}": band(a, mean) for bias, a in zip(sizes.biases, before, strict=True)},
            "after": {f"{bias:g}": band(a, mean) for bias, a in zip(sizes.biases, after, strict=True)},
            "loss_by_bias": {f"{bias:g}": values.tolist() for bias, values in zip(sizes.biases, reached, strict=True)},
        },
        size=size,
    )


def draw(curves: Mapping[str, Any]) -> Figure:
    """Training loss by depth, and mean transform gates by layer before and after training."""
    with panels("training loss after training", "transform gates before training", "and after") as (figure, row):
        for index, (name, curve) in enumerate(curves["losses"].items()):
            line(row[0], curves["depths"], curve, index, name)
        law(row[0], curves["depths"], [float(np.log(10))] * len(curves["depths"]), "guessing, ln 10", ":")
        row[0].set_xscale("log")
        row[0].set_yscale("log")
        row[0].set_xticks(curves["depths"], [str(depth) for depth in curves["depths"]])
        row[0].minorticks_off()
        row[0].set_xlabel("layers")
        row[0].set_ylabel("training loss (geometric mean of seeds)")
        row[0].legend()
        for axes, key in ((row[1], "before"), (row[2], "after")):
            for index, (bias, curve) in enumerate(curves[key].items()):
                layers = range(1, len(curve["value"]) + 1)
                line(axes, layers, curve, index, f"bias {bias} at first")
                if key == "before":
                    closed = 1 / (1 + np.exp(-float(bias)))
                    law(axes, layers, [closed] * len(layers), "σ(bias)" if index == 0 else "_")
            axes.set_ylim(0, 1.35 * max(max(curve["high"]) for curve in curves[key].values()))
            axes.set_xlabel("layer")
            axes.set_ylabel("mean T over digits and features")
            axes.legend(fontsize=6.5, ncols=2, loc="upper left")
    return figure
