"""Wang et al. 2022 (2203.00555): DeepNorm bounds what a step changes at any depth, and trains at hundreds of layers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import grad, jvp, vmap

from benchmarks.papers.drawing import law, line, panels
from benchmarks.papers.finding import Finding, Reproduction, band, exponents, geometric, mean
from benchmarks.papers.layernorm import gradient_by_layer
from benchmarks.papers.training import SOURCE, Batches, Params, cross_entropy, initial, train
from benchmarks.papers.transformers import TOKENS, load_rows, reader
from pure import Block, tree
from pure.optim import adamw

PAPER = "Wang et al. 2022 (2203.00555), sections 3 and 4, figures 3 and 4, theorem 4.2"
KINDS = {"post": "post-norm", "deep": "DeepNorm"}
PARTS = {"weights": "weights", "all": "all"}


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    seeds: int = 6
    trained_seeds: int = 4
    features: int = 32
    depths: tuple[int, ...] = (6, 12, 25, 50, 100)
    trained_depth: int = 100
    steps: int = 30
    moments: tuple[int, ...] = (1, 2, 5, 10, 20, 30)


SIZES = {
    "full": Sizes(),
    "quick": Sizes(6, 4, 16, (4, 8, 16, 24), 24, 8, (1, 4, 8)),
    "tiny": Sizes(4, 4, 16, (4, 8, 16), 8, 3, (1, 3)),
}
RATE, BATCH, PROBE = 1e-3, 16, 32


def features(block: Block, params: Params, x: Tensor) -> Tensor:
    """What the last layer gives: (digits, tokens, features)."""
    parts = block.children()
    return parts["layers"](params["layers"], parts["stem"](params["stem"], x))


def first_step(block: Block, params: Params, data: Batches) -> dict[str, np.ndarray]:
    """How far a step of gradient descent moves the last layer F, per unit of rate: root mean square, (networks,).

    It is the derivative of F along −∇loss, by a Jacobian-vector product; once along the weight matrices of the layers,
    which the theorem counts, and once along all parameters, with the norms' gains, the biases, stem and head.
    """
    loss = cross_entropy(block)
    x, y = data.x[:PROBE], data.y[:PROBE]

    def change(params: Params) -> dict[str, Tensor]:
        slope = grad(loss)(params, x, y)
        matrices = {
            name: leaf if name.startswith("layers.") and leaf.ndim == 2 else torch.zeros_like(leaf)
            for name, leaf in tree.flatten(slope).items()
        }
        directions = {"weights": tree.unflatten(matrices), "all": slope}
        together = tree.stack(list(directions.values()))
        moved = vmap(lambda along: jvp(lambda p: features(block, p, x), (params,), (along,))[1])(together)
        return dict(zip(directions, moved.square().flatten(1).mean(1).sqrt(), strict=True))

    return {name: value.double().numpy() for name, value in vmap(change)(params).items()}


def run(size: str = "full") -> Reproduction:
    """Measure."""
    sizes, data = SIZES[size], load_rows()
    rows: dict[str, list[np.ndarray]] = {f"{kind}, {of}": [] for kind in KINDS for of in PARTS}
    by_layer = {}
    for kind in KINDS:
        for depth in sizes.depths:
            block = reader(kind, sizes.features, 4, depth)
            params = initial(block, sizes.seeds)
            for of, moved in first_step(block, params, data).items():
                rows[f"{kind}, {of}"].append(moved)
        by_layer[kind] = gradient_by_layer(block, params, data, PROBE)
    change = {name: np.stack(values, 1) for name, values in rows.items()}
    slopes = {name: mean(exponents(sizes.depths, values)) for name, values in change.items()}
    spread = {kind: mean(np.log(norms.max(1) / norms.min(1))) for kind, norms in by_layer.items()}

    updates, losses = {}, {}
    x = data.test_x[:PROBE]
    for kind in KINDS:
        block = reader(kind, sizes.features, 4, sizes.trained_depth)
        params = initial(block, sizes.trained_seeds)

        def outputs(params: Params, block: Block = block) -> Tensor:
            with torch.no_grad():
                return vmap(lambda p: features(block, p, x))(params)

        out = train(
            block,
            params,
            adamw(RATE, weight_decay=0.0),
            data,
            sizes.steps,
            BATCH,
            watch=outputs,
            watch_at=(0, *sizes.moments),
        )
        moved = [(out.watched[m] - out.watched[0]).square().flatten(1).mean(1).sqrt() for m in sizes.moments]
        updates[kind] = torch.stack(moved, 1).double().numpy()
        losses[kind] = out.losses.double().T.numpy()
    early = {kind: geometric(values[:, 0]) for kind, values in updates.items()}
    end = {kind: mean(values[:, -max(2, sizes.steps // 6) :].mean(1)) for kind, values in losses.items()}
    deepest = sizes.depths[-1]
    findings = (
        Finding(
            "first step",
            "With DeepNorm, what a gradient step of the layers' weights changes does not grow with depth.",
            "exponent of the last layer's change in the number of layers, at initialisation: below 0.15 (no growth)",
            {"exponent, DeepNorm": slopes["deep, weights"]},
            slopes["deep, weights"].high < 0.15,
        ),
        Finding(
            "post-norm's step",
            "With post-norm it grows with depth.",
            "exponent above 0",
            {"exponent, post-norm": slopes["post, weights"]},
            slopes["post, weights"].low > 0,
        ),
        Finding(
            "every parameter",
            "The norms' gains and the biases, which the theorem leaves out, make a whole step's change grow.",
            "exponent with DeepNorm, all parameters, above 0.15",
            {"exponent, DeepNorm": slopes["deep, all"], "exponent, post-norm": slopes["post, all"]},
            slopes["deep, all"].low > 0.15,
            ours=True,
        ),
        Finding(
            "gradients",
            "DeepNorm's gradients are of one size over the layers, post-norm's are not.",
            f"ln(largest/smallest) ‖∂loss/∂W₂‖ over {deepest} layers: below ln 2 and post-norm's, intervals apart",
            {f"ln(largest/smallest), {KINDS[kind]}": value for kind, value in spread.items()},
            spread["deep"].high < min(math.log(2), spread["post"].low),
        ),
        Finding(
            "early updates",
            "Without warm-up, the first step sweeps post-norm's output away; DeepNorm's moves less.",
            "root mean square change of the last layer after the first step of Adam, intervals apart",
            {
                f"{KINDS[kind]}, after {sizes.moments[at]} steps": geometric(updates[kind][:, at])
                for at in (0, len(sizes.moments) // 2)
                for kind in KINDS
            },
            early["deep"].high < early["post"].low,
        ),
        Finding(
            "trains",
            f"At {2 * sizes.trained_depth} sub-layers DeepNorm trains where post-norm does not.",
            "mean loss of the last sixth of the steps, intervals apart",
            {KINDS[kind]: value for kind, value in end.items()},
            end["deep"].high < end["post"].low,
        ),
    )
    return Reproduction(
        name="deepnorm",
        paper=PAPER,
        setup={
            "data": SOURCE + f", read as {TOKENS} tokens",
            "networks": f"width {sizes.features}, layers of two sub-layers",
            "at initialisation": f"{', '.join(map(str, sizes.depths))} layers, {sizes.seeds} seeds",
            "training": f"{sizes.trained_seeds} seeds, {sizes.trained_depth} layers, Adam, rate {RATE}, no warm-up, "
            f"batch {BATCH}, {sizes.steps} steps",
            "constants": "α = (2N)^¼, β = (8N)^−¼, Xavier's rule (pure.skips.deep_norm_constants)",
        },
        findings=findings,
        deviations=(
            "encoders of small width that classify digits, instead of translation",
            "the change of a step is its exact derivative by the rate (a Jacobian-vector product), not a difference",
        ),
        curves={
            "depths": list(sizes.depths),
            "change": {f"{KINDS[kind]}, {PARTS[of]}": band(change[f"{kind}, {of}"]) for kind in KINDS for of in PARTS},
            "by_layer": {name: band(by_layer[kind]) for kind, name in KINDS.items()},
            "moments": list(sizes.moments),
            "updates": {name: band(updates[kind]) for kind, name in KINDS.items()},
            "losses": {name: band(losses[kind]) for kind, name in KINDS.items()},
        },
        size=size,
    )


def draw(curves: Mapping[str, Any]) -> Figure:
    """A step's change by depth, gradients by layer, updates and losses in training."""
    titles = ("a step's change, by depth", "gradient, by layer", "moved since the start", "training loss")
    with panels(*titles) as (figure, row):
        depths = curves["depths"]
        for index, (name, curve) in zip((0, 3, 1, 2), curves["change"].items(), strict=True):
            line(row[0], depths, curve, index, name)
        flat = curves["change"][f"{KINDS['deep']}, {PARTS['weights']}"]["value"]
        law(row[0], depths, [float(np.exp(np.mean(np.log(flat))))] * len(depths), "no growth")
        row[0].set_xscale("log")
        row[0].set_xticks(depths, [str(depth) for depth in depths])
        row[0].minorticks_off()
        row[0].set_xlabel("layers")
        row[0].set_ylabel("change of the last layer per rate (RMS)\nby the step of the weights, or of all")
        for index, (name, curve) in enumerate(curves["by_layer"].items()):
            line(row[1], range(1, len(curve["value"]) + 1), curve, index, name)
        row[1].set_xlabel("layer")
        row[1].set_ylabel(r"$\Vert\partial\,\mathrm{loss}/\partial W_2\Vert$")
        for index, (name, curve) in enumerate(curves["updates"].items()):
            line(row[2], curves["moments"], curve, index, name)
        row[2].set_xlabel("step of Adam")
        row[2].set_ylabel("change of the last layer (RMS)")
        for index, (name, curve) in enumerate(curves["losses"].items()):
            line(row[3], range(1, len(curve["value"]) + 1), curve, index, name)
        row[3].set_xlabel("step of Adam")
        row[3].set_ylabel("loss of the batch")
        for axes in row:
            axes.set_yscale("log")
            axes.legend(fontsize=6)
        row[0].set_ylim(None, 3e3 * max(max(curve["value"]) for curve in curves["change"].values()))
    return figure
