"""Bachlechner et al. 2020 (2003.04887): singular values of deep networks' Jacobians; ReZero starts at exactly 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import jacrev

from benchmarks.papers.drawing import panels
from benchmarks.papers.finding import Estimate, Finding, Reproduction, exact, geometric, mean
from benchmarks.papers.training import SOURCE, Batches, Params, initial, load, train
from benchmarks.papers.transformers import TOKENS, load_rows, reader
from pure import Activation, Block, Linear, Residual, Sequential, tree
from pure.flow.plot.style import COLOURS
from pure.initializers import KaimingNormal
from pure.optim import adamw
from pure.skips import rezero

PAPER = "Bachlechner et al. 2020 (2003.04887), equation 1, sections 4 and 5 and the figures of singular values"
PRECISION = float(torch.finfo(torch.float32).eps)
HE = KaimingNormal()
FLOOR = 1e-30


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    seeds: int = 4
    features: int = 32
    depths: tuple[int, ...] = (4, 12, 64)
    steps: int = 60
    snapshots: tuple[int, ...] = (10, 60)
    mlp_depth: int = 32
    mlp_width: int = 64
    mlp_steps: int = 300


SIZES = {
    "full": Sizes(),
    "quick": Sizes(4, 12, (4, 16), 4, (2, 4), 32, 48, 80),
    "tiny": Sizes(4, 8, (2, 16), 3, (1, 3), 16, 32, 30),
}
RATE, BATCH, TARGET = 3e-3, 32, 0.3


def singular_values(block: Block, params: Params, x: Tensor) -> Tensor:
    """(networks, values): of the Jacobian of the stack of layers, in float64, at one digit behind the stem."""
    stem, layers = block.children()["stem"], block.children()["layers"]

    def jacobian(params: Params) -> Tensor:
        h = stem(params["stem"], x)
        return jacrev(lambda h: layers(params["layers"], h), chunk_size=256)(h).reshape(h.numel(), h.numel())

    wide = tree.cast(params, torch.float64)
    return torch.stack([torch.linalg.svdvals(jacobian(each)) for each in tree.unstack(wide)])


def mlp(kind: str, sizes: Sizes) -> Block:
    """A deep fully connected classifier: relu(W x), x + relu(W x), or x + a · relu(W x) with a = 0 at first."""
    width, depth = sizes.mlp_width, sizes.mlp_depth
    branch = Sequential(linear=Linear(width, width, weight_init=HE), act=Activation("relu"))
    block = {"plain": branch, "residual": Residual(branch), "ReZero": rezero(branch)}[kind]
    return Sequential(
        stem=Linear(64, width, weight_init=HE), layers=Sequential(*[block] * depth), head=Linear(width, 10)
    )


def steps_to(losses: Tensor, target: float, window: int = 10) -> np.ndarray:
    """(networks,) the first step at which the mean loss of the last `window` batches is below the target."""
    smooth = losses.unfold(0, window, 1).mean(-1)
    below = smooth < target
    first = below.int().argmax(0)
    return torch.where(below.any(0), first, len(smooth)).double().numpy() + window


def spectra(sizes: Sizes, data: Batches) -> tuple[dict[str, Tensor], bool]:
    """Singular values by network, and whether ReZero's Jacobian is the identity at first, bit for bit."""
    x = data.test_x[:1].double()
    found: dict[str, Tensor] = {}
    for kind in ("post", "pre"):
        for depth in sizes.depths:
            block = reader(kind, sizes.features, 4, depth)
            found[f"{kind}-norm, {depth} layers"] = singular_values(block, initial(block, sizes.seeds), x)
    block = reader("rezero", sizes.features, 4, sizes.depths[-1])
    params = initial(block, sizes.seeds)
    found["ReZero, before training"] = singular_values(block, params, x)
    first = tree.cast(tree.unstack(params)[0], torch.float64)
    h = block.children()["stem"](first["stem"], x)
    full = jacrev(lambda h: block.children()["layers"](first["layers"], h))(h).reshape(h.numel(), h.numel())
    watch = train(
        block,
        params,
        adamw(RATE, weight_decay=0.0),
        data,
        sizes.steps,
        BATCH,
        watch=lambda params: singular_values(block, params, x),
        watch_at=sizes.snapshots,
    ).watched
    for step in sizes.snapshots:
        found[f"ReZero, step {step}"] = watch[step]
    return found, torch.equal(full, torch.eye(len(full), dtype=full.dtype))


def run(size: str = "full") -> Reproduction:
    """Measure."""
    sizes = SIZES[size]
    found, identity = spectra(sizes, load_rows())
    shallow, deep = sizes.depths[0], sizes.depths[-1]

    def lost(name: str) -> Estimate:
        values = found[name]
        return mean((values / values[:, :1] < PRECISION).double().mean(1).numpy())

    def middle(name: str) -> Estimate:
        return geometric(found[name].clamp_min(FLOOR).median(1).values.numpy())

    def edges(name: str) -> tuple[Estimate, Estimate]:
        quantiles = torch.quantile(found[name], torch.tensor([0.05, 0.95], dtype=torch.float64), dim=1)
        return geometric(quantiles[0].numpy()), geometric(quantiles[1].numpy())

    tails = {
        f"{q} % at step {step}": e
        for step in sizes.snapshots
        for q, e in zip((5, 95), edges(f"ReZero, step {step}"), strict=True)
    }
    start = float((found["ReZero, before training"] - 1).abs().max())
    plain_data = load()
    reached = {}
    curves = {}
    for kind in ("plain", "residual", "ReZero"):
        block = mlp(kind, sizes)
        out = train(
            block, initial(block, sizes.seeds), adamw(RATE, weight_decay=0.0), plain_data, sizes.mlp_steps, BATCH
        )
        reached[kind] = steps_to(out.losses, TARGET)
        curves[kind] = out.losses.double().unfold(0, 10, 5).mean(-1).T.tolist()
    post = "post-norm, {} layers"
    faster = geometric(reached["plain"] / reached["ReZero"])
    findings = (
        Finding(
            "vanishing",
            "Singular values of a shallow Transformer's Jacobian stand around 1; of a deep one many vanish.",
            "the median falls with depth and the part below float32 precision grows, intervals apart (LayerNorm itself "
            "takes away about two directions a token at any depth)",
            {
                f"median, {shallow} layers": middle(post.format(shallow)),
                f"median, {deep} layers": middle(post.format(deep)),
                f"part below σ₁ · 1.2e-7, {shallow} layers": lost(post.format(shallow)),
                f"part below σ₁ · 1.2e-7, {deep} layers": lost(post.format(deep)),
            },
            middle(post.format(deep)).high < middle(post.format(shallow)).low
            and lost(post.format(deep)).low > lost(post.format(shallow)).high,
        ),
        Finding(
            "identity",
            "With ReZero every singular value is exactly 1 before training, at any depth.",
            "the Jacobian is the identity, bit for bit",
            {f"largest |σ − 1|, {deep} layers": exact(start)},
            identity,
        ),
        Finding(
            "in training",
            "During training ReZero's singular values stay around 1.",
            "5 % and 95 % quantiles between 0.1 and 10 at every snapshot",
            tails,
            all(estimate.low > 0.1 and estimate.high < 10 for estimate in tails.values()),
        ),
        Finding(
            "fully connected",
            f"A {sizes.mlp_depth}-layer fully connected ReZero network trains several times faster than a plain one.",
            f"steps to a training loss of {TARGET}: plain over ReZero above 2 (a network that never gets there counts "
            f"as {sizes.mlp_steps})",
            {
                "plain / ReZero": faster,
                "residual / ReZero": geometric(reached["residual"] / reached["ReZero"]),
                "ReZero, steps": mean(reached["ReZero"]),
            },
            faster.low > 2,
        ),
    )
    return Reproduction(
        name="rezero",
        paper=PAPER,
        setup={
            "data": SOURCE + f", read as {TOKENS} tokens",
            "Transformer": f"width {sizes.features}, 4 heads, depths {', '.join(map(str, sizes.depths))}",
            "fully connected": f"{sizes.mlp_depth} layers of width {sizes.mlp_width}",
            "seeds": sizes.seeds,
            "training": f"Adam, rate {RATE}, batch {BATCH}, no warm-up",
            "Jacobian": f"of all layers together, {TOKENS * sizes.features} values in and out, at one digit, float64",
        },
        findings=findings,
        deviations=(
            "handwritten digits instead of enwiki8 and CIFAR-10, and small widths",
            "one ReZero scalar a branch; the paper's Transformer shares one between a layer's two branches",
            "all singular values are exact; no dropout",
        ),
        curves={
            "logs": {name: _histogram(values) for name, values in found.items()},
            "losses": curves,
            "precision": PRECISION,
            "deep": deep,
        },
        size=size,
    )


def _histogram(values: Tensor) -> dict[str, list[float]]:
    """Density of log₁₀ σ over all seeds; what is below 1e-30 counts at 1e-30."""
    logs = values.clamp_min(FLOOR).log10().flatten().numpy()
    low, high = float(logs.min()) - 0.05, float(logs.max()) + 0.05
    counts, bounds = np.histogram(logs, bins=40, range=(low, high))
    return {"part": (counts / counts.sum()).tolist(), "edges": bounds.tolist()}


def draw(curves: Mapping[str, Any]) -> Figure:
    """Histograms of log σ of Transformers at initialisation, of ReZero in training, and losses by step."""
    with panels("Transformers at initialisation", "ReZero, before and in training", "fully connected") as (figure, row):
        colours = dict.fromkeys(curves["logs"])
        for index, name in enumerate(n for n in colours if not n.startswith("ReZero")):
            _steps(row[0], curves["logs"][name], index, name)
        for index, name in enumerate(n for n in colours if n.startswith("ReZero")):
            _steps(row[1], curves["logs"][name], index, name)
        row[0].axvline(
            np.log10(curves["precision"]), color="#000000", linestyle=":", linewidth=1, label="float32 precision"
        )
        for axes in row[:2]:
            axes.set_xlabel(r"$\log_{10}\sigma$")
            axes.set_ylabel("part of the singular values")
            axes.set_yscale("log")
            axes.set_ylim(7e-4, 30)
            axes.legend(fontsize=6.5, loc="upper left", ncols=2, columnspacing=0.8, handlelength=1.2)
        for index, (name, losses) in enumerate(curves["losses"].items()):
            values = np.asarray(losses)
            steps = 5 * np.arange(values.shape[1])
            row[2].fill_between(steps, values.min(0), values.max(0), color=COLOURS[index], alpha=0.2, linewidth=0)
            row[2].plot(steps, np.median(values, 0), color=COLOURS[index], label=name)
        row[2].set_yscale("log")
        row[2].set_xlabel("step")
        row[2].set_ylabel("training loss (median and range of seeds)")
        row[2].legend(fontsize=7)
    return figure


def _steps(axes: Any, histogram: Mapping[str, Any], index: int, label: str) -> None:
    parts = np.asarray(histogram["part"])
    axes.stairs(
        np.where(parts > 0, parts, np.nan), histogram["edges"], color=COLOURS[index % 7], label=label, linewidth=1.2
    )
