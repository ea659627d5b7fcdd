"""The sections of the page, in the order of the story: question, gradients, training, samples, files, photographs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from export.demo import chart, markup, picture, wording
from export.demo.chart import Axes, Line
from export.demo.markup import badge, definitions, details, figure, legend, table, text
from export.demo.measuring import Flow
from export.demo.results import NetworkResult, Results
from export.demo.wording import number, percent
from export.verdict import Row, Verdict


def all_of(results: Results) -> Iterator[str]:
    """Yield every section as HTML."""
    yield question(results)
    yield gradients(results)
    yield training(results)
    yield samples(results)
    yield files(results)
    yield photographs(results)
    yield surroundings(results)


def question(results: Results) -> str:
    """Say what is compared and on what."""
    s, data = results.settings, results.digits
    rows = [
        [text(r.network.title), f"<code>{text(r.network.formula)}</code>", f"{r.parameters:,}"]
        for r in results.networks
    ]
    shown = picture.digits(data.pictures)
    labels = ", ".join(str(int(y)) for y in data.test_y[: len(data.pictures)])
    return (
        "<section><h2>The question</h2>"
        f"<p>Does a skip connection change how a gradient reaches the first of {s.depth} layers, and does that show in what "
        f"the network learns? scikit-learn ships {len(data.train_y) + len(data.test_y):,} real handwritten digits of 8×8 pixels: "
        f"{len(data.train_y):,} are trained on, {len(data.test_y)} are held out, split by class with seed {s.seed} and "
        "standardised by the training digits alone.</p>"
        f'<figure><img class="digits" src="{shown}" alt="The first {len(data.pictures)} held-out digits: {labels}">'
        f"<figcaption>The first {len(data.pictures)} held-out digits.</figcaption></figure>"
        f'<div class="card">{table(["Network", "One layer", "Parameters"], rows, numeric=[2])}'
        f'<p class="note">All have {s.depth} layers between a linear stem and a linear head, {s.width} features wide (the dense one '
        f"adds {s.growth} features a layer), and get the same mini-batches, AdamW at a rate of {s.rate:g}, {s.epochs} epochs. "
        "Weights in front of a relu start by He's rule; the gated layers start as PyTorch's Linear does, their gates biased to "
        "carry the input; biases start as PyTorch's do. The last row is a reference: the plain network with PyTorch's default "
        "initialisation.</p></div></section>"
    )


def _curve(result: NetworkResult, flow: Flow) -> Line:
    depths = [float(depth + 1) for depth in range(len(flow.median))]
    return Line(result.network.name, _short(result), depths, flow.median, flow.p10, flow.p90)


def _short(result: NetworkResult) -> str:
    return "plain, default" if result.network.reference else result.network.title


def gradients(results: Results) -> str:
    """Draw the activation gradients by depth, before and after training, on one axis."""
    lines = {
        "At initialisation": [_curve(r, r.before) for r in results.networks],
        "After training": [_curve(r, r.after) for r in results.networks],
    }
    limits = chart.limits([line for group in lines.values() for line in group], log=True)
    axes = Axes("layer (1 is next to the input)", "", limits, log=True)
    figures = []
    for title, group in lines.items():
        flows = [r.before if title == "At initialisation" else r.after for r in results.networks]
        described = [
            f"{r.network.title}: {wording.trend(flow)}" for r, flow in zip(results.networks, flows, strict=True)
        ]
        drawing = chart.draw(
            group, axes, title=f"Gradient norm by layer, {title.lower()}", description="; ".join(described)
        )
        caption = (
            "Norm of ∂loss/∂(layer's output) of single digits: median, and the band from the 10 % to the 90 % quantile."
        )
        figures.append(figure(drawing, caption, title=title))
    rows = [
        [
            text(r.network.title),
            number(r.before.median[0]),
            number(r.before.median[-1]),
            number(r.before.fall),
            number(r.after.median[0]),
            number(r.after.median[-1]),
            number(r.after.fall),
        ]
        for r in results.networks
    ]
    head = [
        "Network",
        "start: layer 1",
        "start: last",
        "last ÷ first",
        "trained: layer 1",
        "trained: last",
        "last ÷ first",
    ]
    return (
        "<section><h2>Gradients by depth</h2>"
        f"<p>Measured on the same {results.settings.probe} training digits before and after training, in nats per unit of "
        "activation. Both pictures have the same logarithmic axis. After training a well-read digit has hardly any loss left, "
        "so its gradients are small at every depth: there, compare how the lines run, not how high.</p>"
        f"{legend(r.network for r in results.networks)}"
        f'<div class="grid2">{"".join(figures)}</div>'
        f"{details('The numbers', table(head, rows, numeric=range(1, 7), caption='Median gradient norm by a layer’s output'))}"
        "</section>"
    )


def training(results: Results) -> str:
    """Draw loss and accuracy by epoch."""
    epochs = [float(epoch) for epoch in range(results.settings.epochs + 1)]
    losses = [Line(r.network.name, _short(r), epochs, r.trained.train_loss) for r in results.networks]
    rates = [Line(r.network.name, _short(r), epochs, r.trained.test_accuracy) for r in results.networks]
    said = wording.accuracy_finding(results)
    loss_axes = Axes("epoch", "", chart.limits(losses, log=True), log=True)
    loss = chart.draw(losses, loss_axes, title="Training loss by epoch", description=said)
    rate = chart.draw(
        rates, Axes("epoch", "", (0.0, 1.0), percent=True), title="Held-out accuracy by epoch", description=said
    )
    rows = [
        [
            text(r.network.title),
            percent(r.accuracy),
            number(r.trained.train_loss[0], 3),
            number(r.trained.train_loss[-1], 3),
            str(r.trained.steps),
            f"{1000 * r.trained.seconds / r.trained.steps:.1f} ms",
        ]
        for r in results.networks
    ]
    head = ["Network", "Held-out accuracy", "Loss before", "Loss after", "Steps", "Per step"]
    return (
        f"<section><h2>What they learn</h2><p>{text(said)}</p>{legend(r.network for r in results.networks)}"
        f'<div class="grid2">{figure(loss, "Mean cross-entropy of all training digits, nats.", title="Training loss")}'
        f"{figure(rate, 'Part of the held-out digits read rightly.', title='Held-out accuracy')}</div>"
        f'<div class="card">{table(head, rows, numeric=range(1, 6))}</div></section>'
    )


def samples(results: Results) -> str:
    """Draw the per-sample norms of every layer's parameter gradient."""
    low, high = wording.heat_limits(results)
    cards = []
    for r in results.compared:
        pair = []
        for when, flow in (("at initialisation", r.before), ("after training", r.after)):
            layers, digits = flow.parameters.shape
            alt = f"{r.network.title}, {when}: gradient norms of {layers} layers (rows) for {digits} digits (columns); range "
            alt += f"{number(float(flow.parameters.min()))} to {number(float(flow.parameters.max()))}"
            pair.append(
                f'<div><img src="{picture.heat(flow.parameters, low, high)}" alt="{text(alt)}">'
                f"<figcaption>{when}</figcaption></div>"
            )
        cards.append(
            f'<figure class="card heat"><h3>{text(r.network.title)}</h3><div class="pair">{"".join(pair)}</div></figure>'
        )
    return (
        "<section><h2>Digit by digit</h2>"
        f"<p>The norm of each digit's own gradient by each layer's parameters, without the gradients ever being formed. Rows are "
        f"layers, the input at the top; columns are {results.settings.shown} training digits, sorted from 0 to 9. "
        f"{text(wording.share_finding(results))}</p>"
        f'<div class="ramp" aria-hidden="true"></div><div class="scale"><span>≤ {number(low)}</span>'
        f"<span>gradient norm, logarithmic</span><span>{number(high)}</span></div>"
        f'<div class="grid4">{"".join(cards)}</div></section>'
    )


def _worst(verdict: Verdict) -> Row | None:
    rows = [row for row in verdict.rows if row.ratio is not None]
    return max(rows, key=lambda row: row.ratio or 0.0) if rows else None


def _judged_row(name: str, verdict: Verdict, cases: str, where: str) -> list[str]:
    worst = _worst(verdict)
    return [
        text(name),
        badge(verdict.status),
        number(verdict.worst, 3),
        "" if worst is None else f"{worst.limit:g}",
        "" if worst is None else f"<code>{text(worst.leaf)}</code>",
        text(cases),
        text(where),
    ]


def _sizes(verdict: Verdict) -> str:
    """Return the sizes that were tried, without repeating the dimension's name."""
    cases = list(dict.fromkeys(row.case for row in verdict.rows if row.status != "skipped"))
    plain = [case.partition("=")[2] if case.startswith("batch=") else case for case in cases]
    return ("batch " if any(case.startswith("batch=") for case in cases) else "") + ", ".join(plain)


def files(results: Results) -> str:
    """Show the verdicts and the accuracies of the files."""
    head = ["File", "Verdict", "Ratio", "Limit", "Worst leaf", "Checked", "Ran on"]
    rows = []
    for r in results.networks:
        placed = ", ".join(f"{count} nodes on {name}" for name, count in r.judged.providers.items())
        rows.append(_judged_row(r.judged.file, r.judged.verdict, _sizes(r.judged.verdict), placed))
    for shot in results.enhanced.shots:
        cases = list(dict.fromkeys(row.case for row in shot.verdict.rows if row.status != "skipped"))
        sizes, forced = [c for c in cases if not c.startswith("forced")], [c for c in cases if c.startswith("forced")]
        checked = (f"{len(sizes)} sizes, " if len(sizes) > 1 else "this picture, ") + ", ".join(forced)
        placed = ", ".join(f"{count} nodes on {name}" for name, count in results.enhanced.providers.items())
        rows.append(_judged_row(f"{results.enhanced.file} on {shot.title}", shot.verdict, checked, placed))
    answers = [
        [
            text(r.network.title),
            percent(r.judged.eager_accuracy),
            percent(r.judged.onnx_accuracy),
            str(r.judged.differing_answers),
            str(r.judged.nodes),
            f"{r.judged.bytes / 1024:.1f} KiB",
        ]
        for r in results.networks
    ]
    verdicts = [r.judged.verdict for r in results.networks] + [s.verdict for s in results.enhanced.shots]
    full = "".join(f"<pre class='scroll'><code>{text(_table(v))}</code></pre>" for v in verdicts)
    return (
        "<section><h2>The files compute the same</h2>"
        "<p>Each network is exported with its parameters as inputs and a dynamic batch, and run by ONNX Runtime on every held-out "
        "digit. A fixed tolerance would say little, so the judge is relative: the truth is the eager function in float64; the "
        "ratio is the file's root-mean-square error divided by that of eager float32, pooled over slightly varied inputs. A "
        "file passes if the ratio stays under the limit at every size that was tried.</p>"
        f'<div class="card">{table(head, rows, numeric=[2, 3])}</div>'
        f'<div class="card">{table(["Network", "PyTorch reads", "ONNX Runtime reads", "Different answers", "Nodes", "Size"], answers, numeric=range(1, 6))}</div>'
        f"{details('Every comparison', full)}</section>"
    )


def _table(verdict: Verdict) -> str:
    return verdict.table(full=True).replace(verdict.path, Path(verdict.path).name)


def photographs(results: Results) -> str:
    """Show the pictures before and after, and which branch ran."""
    e = results.enhanced
    cards = []
    for shot in e.shots:
        branch = "enhanced" if shot.enhanced else "passed unchanged"
        margin = (
            ""
            if shot.margin is None
            else f", {number(abs(shot.margin))} {'above' if shot.margin > 0 else 'below'} the threshold"
        )
        before, after = (picture.photograph(image) for image in (shot.before, shot.after))
        cards.append(
            f'<figure class="card"><h3>{text(shot.title)} {badge(shot.verdict.status)}</h3><div class="shots">'
            f'<div><img src="{before}" alt="{text(shot.title)} before, mean luminance {number(shot.luminance)}"><span>before</span></div>'
            f'<div><img src="{after}" alt="{text(shot.title)} after: {branch}, mean luminance {number(shot.luminance_after)}">'
            f"<span>from ONNX Runtime</span></div></div>"
            f"<figcaption>Luminance {number(shot.luminance)}{' → ' + number(shot.luminance_after) if shot.enhanced else ''}: "
            f"<strong>{branch}</strong>. Darkness {number(1 - shot.luminance, 3)}{margin}.</figcaption></figure>"
        )
    return (
        "<section><h2>A network that looks before it works</h2>"
        f"<p>An adaptive enhancer decides inside the exported file: it takes the picture's mean luminance (Rec. 709 weights, "
        f"linear light), and runs its enhancing branch only if that lies under {number(e.threshold)}, one stop below middle grey. "
        "The branch is two residual steps with parameters designed by hand, a light curve x + α x (1 − x) repeated and "
        "x + γ (x − blur(x)). <code>torch.cond</code> became an ONNX <code>If</code>. "
        f"The darkened versions have {e.stops} stops less light. {text(wording.photo_finding(results))} "
        "For the verdict, both branches are also forced on every picture.</p>"
        f'<div class="grid2">{"".join(cards)}</div></section>'
    )


def surroundings(results: Results) -> str:
    """Say where it ran, how long it took, and what was written."""
    env, seconds = results.environment, results.seconds
    pairs = [
        ("Date", env["date"]),
        ("Processor", f"{env['processor']}, {env['cores']} cores, {env['torch_threads']} PyTorch threads"),
        ("System", env["system"]),
        ("Python", env["python"]),
        ("Packages", ", ".join(f"{name} {version}" for name, version in env["packages"].items())),
        ("ONNX Runtime ran on", f"{results.networks[0].judged.ran_on} ({results.networks[0].judged.ran_because})"),
        ("Durations", ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())),
        ("Files", ", ".join(("report.json", *results.files))),
    ]
    return (
        f'<section><h2>Where and how</h2><div class="card">{definitions(pairs)}</div>'
        '<p class="note">All numbers of this page, and those it leaves out, are in <code>report.json</code>. The parameters that '
        "an <code>.onnx</code> file takes as its first argument lie beside it as <code>.safetensors</code>.</p></section>"
    )


__all__ = ["all_of", "markup"]
