"""The first half of the page: the question, gradients by depth, training, and gradients digit by digit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from export.app.pages.markup import details, figure, key, table, text
from export.app.pages.numbers import number, percent
from export.app.report.measuring import Flow
from export.app.report.page import chart, picture, wording
from export.app.report.page.chart import Axes, Line
from export.app.report.results import NetworkResult, Results

__all__ = ["all_of"]

LAYER = "layer (1 is next to the input)"


def all_of(results: Results) -> Iterator[str]:
    """Yield the sections as HTML."""
    yield question(results)
    yield gradients(results)
    yield training(results)
    yield samples(results)


def question(results: Results) -> str:
    """Say what is compared and on what."""
    s, data = results.settings, results.digits
    total, trained, held = len(data.train_y) + len(data.test_y), len(data.train_y), len(data.test_y)
    rows = [
        [text(r.network.title), f"{r.parameters:,}", f"<code>{text(r.network.formula)}</code>"]
        for r in results.networks
    ]
    shown = picture.digits(data.pictures)
    labels = ", ".join(str(int(y)) for y in data.test_y[: len(data.pictures)])
    return (
        "<section><h2>The question</h2>"
        f"<p>Does a skip connection change how a gradient reaches the first of {s.depth} layers, and does that show in "
        f"what the network learns? scikit-learn ships {total:,} real handwritten digits of 8×8 pixels: {trained:,} are "
        f"trained on, {held:,} are held out, split by class with seed {s.seed} and standardised by the training digits "
        "alone.</p>"
        f'<figure><img class="digits" src="{shown}" alt="The first {len(data.pictures)} held-out digits: {labels}">'
        f"<figcaption>The first {len(data.pictures)} held-out digits.</figcaption></figure>"
        f'<div class="card">{table(["Network", "Parameters", "One layer"], rows, numeric=[1])}'
        f'<p class="note">All have {s.depth} layers between a linear stem and a linear head, {s.width} features wide '
        f"(the dense one adds {s.growth} features a layer), and get the same mini-batches of {s.batch}, AdamW at a "
        f"rate of {s.rate:g}, for {s.epochs} epochs. Weights in front of a relu start by He's rule; the gated layers "
        "start as PyTorch's Linear does, their gates biased to carry the input; all biases start as PyTorch's do. "
        "The last row is a reference: the plain network with PyTorch's default initialisation.</p></div></section>"
    )


def _legend(results: Results) -> str:
    """Return the key of the line charts."""
    networks = [r.network for r in results.networks]
    marks = [(f'<path class="line s-{network.name}" d="M1 5 H29"/>', network.title) for network in networks]
    return key(marks, width=30, height=10)


def _short(result: NetworkResult) -> str:
    return "plain, default" if result.network.reference else result.network.title


def _curve(result: NetworkResult, flow: Flow, *, band: bool, label: str = "", kind: str = "") -> Line:
    depths = [float(depth + 1) for depth in range(len(flow.median))]
    low, high = (flow.p10, flow.p90) if band else ((), ())
    return Line(f"{result.network.name} {kind}".strip(), label or _short(result), depths, flow.median, low, high)


def gradients(results: Results) -> str:
    """Draw the activation gradients by depth: all networks together, then each with the spread over the digits."""
    moments = {"At initialisation": [r.before for r in results.networks]}
    moments["After training"] = [r.after for r in results.networks]
    groups = {
        title: [_curve(r, flow, band=False) for r, flow in zip(results.networks, flows, strict=True)]
        for title, flows in moments.items()
    }
    axes = Axes(LAYER, chart.limits([line for group in groups.values() for line in group]), log=True)
    together = []
    for title, group in groups.items():
        trends = [
            f"{r.network.title}: {wording.trend(f)}" for r, f in zip(results.networks, moments[title], strict=True)
        ]
        name = f"Median gradient norm by layer, {title.lower()}"
        together.append(figure(chart.draw(group, axes, title=name, description="; ".join(trends)), "", title=title))
    probe = results.settings.probe
    return (
        "<section><h2>Gradients by depth</h2>"
        "<p>How strongly a digit's loss reacts to each layer's output: the norm of ∂loss/∂(output) for single digits, "
        f"on the same {probe} training digits before and after training (seed {results.settings.seed}), "
        "in nats per unit of activation. Both pictures have one logarithmic axis and show the median over the digits. "
        "After training, a digit that is read rightly has hardly any loss left, so its gradients are small at every "
        "depth: there, compare how the lines run, not how high.</p>"
        f"{_legend(results)}"
        f'<div class="grid2">{"".join(together)}</div>'
        f"<p>The same with the spread over the digits: the band reaches from the 10 % to the 90 % quantile. "
        f"{len(results.compared)} pictures, one axis.</p>"
        f'<div class="grid2">{"".join(_spreads(results))}</div>'
        f"{details('The numbers', _numbers(results))}</section>"
    )


def _spreads(results: Results) -> Iterator[str]:
    """Yield one picture a network: before and after training, each with its band."""
    pairs = {
        r.network.title: [
            _curve(r, r.before, band=True, label="at the start", kind="start"),
            _curve(r, r.after, band=True, label="trained", kind="trained"),
        ]
        for r in results.compared
    }
    axes = Axes(LAYER, chart.limits([line for pair in pairs.values() for line in pair]), log=True)
    for (title, pair), r in zip(pairs.items(), results.compared, strict=True):
        said = f"at initialisation it {wording.trend(r.before)}, after training it {wording.trend(r.after)}"
        name = f"Gradient norm by layer in the {title} network, with the spread over the digits"
        yield figure(chart.draw(pair, axes, title=name, description=said), "", title=title)


def _numbers(results: Results) -> str:
    rows = [
        [text(r.network.title)]
        + [number(value) for f in (r.before, r.after) for value in (f.median[0], f.median[-1], f.fall)]
        for r in results.networks
    ]
    head = ["Network", "start: layer 1", "start: last", "last ÷ first"]
    head += ["trained: layer 1", "trained: last", "last ÷ first"]
    return table(head, rows, numeric=range(1, 7), caption="Median gradient norm by a layer's output")


def training(results: Results) -> str:
    """Draw loss and accuracy by epoch."""
    losses = [_spread(r, [t.train_loss for t in r.trainings]) for r in results.networks]
    rates = [_spread(r, [t.test_accuracy for t in r.trainings]) for r in results.networks]
    said = wording.accuracy_finding(results)
    loss_axes = Axes("epoch", chart.limits(losses), log=True)
    loss = chart.draw(losses, loss_axes, title="Training loss by epoch", description=said)
    rate_axes = Axes("epoch", (0.0, 1.0))
    rate = chart.draw(rates, rate_axes, title="Held-out accuracy by epoch", description=said)
    seeds = [f"Seed {t.seed}" for t in results.networks[0].trainings]
    rows = [
        [text(r.network.title)]
        + [percent(value) for value in r.accuracies]
        + [number(r.trained.train_loss[0], 3), number(r.trained.train_loss[-1], 3)]
        + [f"{sum(t.seconds for t in r.trainings) / len(r.trainings):.1f} s"]
        for r in results.networks
    ]
    head = ["Network", *seeds, "First loss", "Last loss", "Training"]
    caption = f"Held-out accuracy by seed; mean training loss in nats of {seeds[0].lower()}; mean time of one training"
    spread = f"{len(seeds)} seeds: the line is {seeds[0].lower()}, the band reaches from the lowest to the highest."
    shown = figure(loss, f"Mean cross-entropy of all training digits, nats. {spread}", title="Training loss")
    shown += figure(rate, f"Part of the held-out digits read rightly. {spread}", title="Held-out accuracy")
    return (
        f"<section><h2>What they learn</h2><p>{text(said)} {text(wording.order_finding(results))}</p>"
        f'{_legend(results)}<div class="grid2">{shown}</div>'
        f'<div class="card">{table(head, rows, numeric=range(1, len(head)), caption=caption)}</div></section>'
    )


def _spread(result: NetworkResult, runs: Sequence[Sequence[float]]) -> Line:
    """Return the first run by epoch, with the band of all runs."""
    low, high = ([choose(values) for values in zip(*runs, strict=True)] for choose in (min, max))
    epochs = [float(epoch) for epoch in range(len(low))]
    return Line(result.network.name, _short(result), epochs, runs[0], low, high)


def samples(results: Results) -> str:
    """Draw the per-sample norms of every layer's parameter gradient."""
    low, high = wording.heat_limits(results)
    cards = []
    for r in results.compared:
        pair = []
        for when, flow in (("at initialisation", r.before), ("after training", r.after)):
            layers, digits = flow.parameters.shape
            least, most = float(flow.parameters.min()), float(flow.parameters.max())
            alt = (
                f"{r.network.title}, {when}: gradient norms of {layers} layers (rows) for {digits} digits (columns), "
                f"from {number(least)} to {number(most)}"
            )
            image = f'<img src="{picture.heat(flow.parameters, low, high)}" alt="{text(alt)}">'
            pair.append(f"<div>{image}<figcaption>{when}</figcaption></div>")
        title = f"<h3>{text(r.network.title)}</h3>"
        cards.append(f'<figure class="card heat">{title}<div class="pair">{"".join(pair)}</div></figure>')
    return (
        "<section><h2>Digit by digit</h2>"
        "<p>The norm of each digit's own gradient by each layer's parameters. Rows are layers, the input at the top; "
        f"columns are {results.settings.shown} training digits, sorted from 0 to 9. "
        f"{text(wording.share_finding(results))}</p>"
        f'<div class="ramp" aria-hidden="true"></div><div class="scale"><span>≤ {number(low)}</span>'
        f"<span>gradient norm, logarithmic</span><span>{number(high)}</span></div>"
        f'<div class="grid4">{"".join(cards)}</div></section>'
    )
