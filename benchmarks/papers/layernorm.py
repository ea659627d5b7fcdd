"""Xiong et al. 2020 (2002.04745): where the norm stands decides the last layers' gradients and whether to warm up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.func import grad, vmap

from benchmarks.papers.drawing import law, line, panels
from benchmarks.papers.finding import Finding, Reproduction, band, exponents, mean
from benchmarks.papers.training import SOURCE, Batches, Params, cross_entropy, initial, train
from benchmarks.papers.transformers import TOKENS, load_rows, reader
from pure import Block, tree
from pure.flow.plot.panels import whole_numbers
from pure.flow.plot.style import COLOURS
from pure.optim import GradientTransformation, adamw

PAPER = "Xiong et al. 2020 (2002.04745), theorem 1, figures 2 and 3"
KINDS = ("post", "pre")


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    seeds: int = 10
    features: int = 64
    depths: tuple[int, ...] = (4, 6, 8, 12, 16, 24, 32)
    batch: int = 32
    trained_seeds: int = 4
    trained_features: int = 32
    trained_depth: int = 12
    steps: int = 100
    warm_up: int = 50


SIZES = {
    "full": Sizes(),
    "quick": Sizes(6, 32, (4, 8, 16), 32, 4, 16, 6, 20, 10),
    "tiny": Sizes(8, 32, (4, 8, 16), 16, 4, 8, 2, 3, 2),
}
RATE, TRAIN_BATCH = 3e-3, 32


def gradient_by_layer(block: Block, params: Params, data: Batches, batch: int) -> np.ndarray:
    """(networks, layers): ‖∂loss/∂W₂‖ of each feed-forward branch, for the mean loss of a batch."""
    slope = vmap(grad(cross_entropy(block)), in_dims=(0, None, None))
    flat = tree.flatten(slope(params, data.x[:batch], data.y[:batch]))
    weights = [leaf for name, leaf in flat.items() if ".mlp." in name and name.endswith("fc2.weight")]
    norms = [torch.linalg.vector_norm(leaf.flatten(1), dim=1, dtype=torch.float64) for leaf in weights]
    return torch.stack(norms, 1).numpy()


def warmed(steps: int) -> Any:
    """A function that makes Adam from a rate that rises linearly for so many steps; 0 for none."""

    def make(rate: torch.Tensor) -> GradientTransformation:
        rule = (lambda step: rate * ((step + 1) / steps).clamp(max=1.0)) if steps else rate
        return adamw(rule, betas=(0.9, 0.98), weight_decay=0.0)

    return make


def run(size: str = "full") -> Reproduction:
    """Measure."""
    sizes, data = SIZES[size], load_rows()
    by_layer: dict[str, np.ndarray] = {}
    last: dict[str, np.ndarray] = {}
    for kind in KINDS:
        rows = []
        for depth in sizes.depths:
            block = reader(kind, sizes.features, 4, depth)
            norms = gradient_by_layer(block, initial(block, sizes.seeds), data, sizes.batch)
            rows.append(norms[:, -1])
            by_layer[kind] = norms  # the deepest one is kept
        last[kind] = np.stack(rows, 1)
    slopes = {kind: mean(exponents(sizes.depths, last[kind])) for kind in KINDS}
    first_to_last = {kind: mean(np.log(by_layer[kind][:, -1] / by_layer[kind][:, 0])) for kind in KINDS}
    gap = mean(exponents(sizes.depths, last["post"]) - exponents(sizes.depths, last["pre"]))

    losses: dict[str, np.ndarray] = {}
    rates = torch.full((sizes.trained_seeds,), RATE)
    for kind in KINDS:
        for steps in (0, sizes.warm_up):
            block = reader(kind, sizes.trained_features, 4, sizes.trained_depth)
            params = initial(block, sizes.trained_seeds)
            out = train(block, params, warmed(steps), data, sizes.steps, TRAIN_BATCH, rates)
            losses[f"{kind}-norm, {'warm-up' if steps else 'no warm-up'}"] = out.losses.double().T.numpy()
    end = {name: values[:, -max(2, sizes.steps // 8) :].mean(1) for name, values in losses.items()}
    cost = {kind: mean(end[f"{kind}-norm, no warm-up"] - end[f"{kind}-norm, warm-up"]) for kind in KINDS}
    ends = {f"final loss, {name}": mean(values) for name, values in end.items()}
    findings = (
        Finding(
            "post-norm",
            "Post-norm: the last layer's gradient does not fall with the number of layers L.",
            "exponent of ‖∂loss/∂W₂‖ in L at initialisation: not below −0.1",
            {"exponent": slopes["post"]},
            slopes["post"].low > -0.1,
        ),
        Finding(
            "pre-norm",
            "Pre-norm: it falls as 1/√L.",
            "exponent within −0.5 ± 0.15",
            {"exponent": slopes["pre"]},
            slopes["pre"].low > -0.65 and slopes["pre"].high < -0.35,
        ),
        Finding(
            "gap",
            "The last layers' gradients are larger by √L with post-norm than with pre-norm.",
            "difference of the two exponents above 0.35",
            {"difference of exponents": gap},
            gap.low > 0.35,
        ),
        Finding(
            "by layer",
            "Over the layers of one network, the gradient grows towards the output with post-norm, not with pre-norm.",
            f"log of last over first layer at {sizes.depths[-1]} layers: above 0, and not above 0",
            {f"ln(last/first), {kind}-norm": first_to_last[kind] for kind in KINDS},
            first_to_last["post"].low > 0 and first_to_last["pre"].high < 0,
        ),
        Finding(
            "post-norm needs warm-up",
            "Without warm-up a post-norm Transformer trains badly.",
            "final loss without warm-up minus with it, same seeds: above 0",
            {"loss, no warm-up − warm-up": cost["post"], **{n: e for n, e in ends.items() if "post" in n}},
            cost["post"].low > 0,
        ),
        Finding(
            "pre-norm needs none",
            "A pre-norm Transformer trains well without it.",
            "final loss without warm-up below that of post-norm with it, intervals apart",
            {n: e for n, e in ends.items() if n != "final loss, post-norm, no warm-up"},
            ends["final loss, pre-norm, no warm-up"].high < ends["final loss, post-norm, warm-up"].low,
        ),
    )
    return Reproduction(
        name="layernorm",
        paper=PAPER,
        setup={
            "data": SOURCE + f", read as {TOKENS} tokens",
            "gradients": f"width {sizes.features}, {min(sizes.depths)} to {max(sizes.depths)} layers, "
            f"batch {sizes.batch}, {sizes.seeds} seeds, Xavier's initialisation",
            "training": f"{sizes.trained_depth} layers of width {sizes.trained_features}, {sizes.trained_seeds} seeds, "
            f"Adam (0.9, 0.98), rate {RATE}, batch {TRAIN_BATCH}, {sizes.steps} steps, warm-up over {sizes.warm_up}",
        },
        findings=findings,
        deviations=(
            "encoders that classify digits instead of translation and masked language modelling",
            "queries and keys start by Xavier's rule; the theorem sets them to 0",
            "one learning rate",
        ),
        curves={
            "depths": list(sizes.depths),
            "last": {kind: band(last[kind]) for kind in KINDS},
            "by_layer": {kind: band(by_layer[kind]) for kind in KINDS},
            "losses": {name: values.tolist() for name, values in losses.items()},
        },
        size=size,
    )


def draw(curves: Mapping[str, Any]) -> Figure:
    """The last layer's gradient by L, gradients over the layers of the deepest networks, and losses by step."""
    deepest = curves["depths"][-1]
    with panels("last layer, at initialisation", f"over {deepest} layers", "training") as drawn:
        figure, row = drawn
        depths = curves["depths"]
        for index, (kind, curve) in enumerate(curves["last"].items()):
            line(row[0], depths, curve, index, f"{kind}-norm")
        start = curves["last"]["pre"]["value"][0]
        law(row[0], depths, [start * (depth / depths[0]) ** -0.5 for depth in depths], "$1/\\sqrt{L}$")
        for index, (kind, curve) in enumerate(curves["by_layer"].items()):
            line(row[1], range(1, len(curve["value"]) + 1), curve, index, f"{kind}-norm")
        row[0].set_xscale("log", base=2)
        row[0].set_xlabel("layers L")
        row[1].set_xlabel("layer")
        row[1].xaxis.set_major_locator(whole_numbers())
        for axes in row[:2]:
            axes.set_yscale("log")
            axes.set_ylabel(r"$\Vert\partial\,\mathrm{loss}/\partial W_2\Vert$")
            axes.legend()
        for index, (name, losses) in enumerate(curves["losses"].items()):
            values = np.asarray(losses)
            window = max(1, values.shape[1] // 12)
            smooth = np.stack([np.convolve(seed, np.ones(window) / window, "valid") for seed in values])
            steps = np.arange(smooth.shape[1]) + window
            row[2].fill_between(steps, smooth.min(0), smooth.max(0), color=COLOURS[index], alpha=0.15, linewidth=0)
            row[2].plot(steps, np.median(smooth, 0), color=COLOURS[index], label=name)
        row[2].set_yscale("log")
        row[2].set_xlabel("step")
        row[2].set_ylabel("training loss (median and range of seeds)")
        row[2].legend(fontsize=7)
    return figure
