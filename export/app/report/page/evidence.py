"""The second half of the page: the verdicts on the files, the photographs, and where it all ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from export.app.pages.markup import badge, definitions, details, table, text
from export.app.pages.numbers import number, percent
from export.app.report.page import picture, wording
from export.app.report.photographs import Shot
from export.app.report.results import Results
from export.verdict.verdict_result import Verdict

__all__ = ["all_of"]


def all_of(results: Results) -> Iterator[str]:
    """Yield the sections as HTML."""
    yield files(results)
    yield photographs(results)
    yield surroundings(results)


def files(results: Results) -> str:
    """Show the verdicts and the accuracies of the files."""
    head = ["File", "Verdict", "Ratio", "Limit", "Worst leaf", "Checked", "Ran on"]
    rows = [_row(r.judged.file, r.judged.verdict, r.judged.providers) for r in results.networks]
    enhanced = results.enhanced
    rows += [_row(f"{enhanced.file}, {shot.title}", shot.verdict, enhanced.providers) for shot in enhanced.shots]
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
    answered = ["Network", "PyTorch reads", "ONNX Runtime reads", "Different answers", "Nodes", "Size"]
    verdicts = [r.judged.verdict for r in results.networks] + [shot.verdict for shot in enhanced.shots]
    full = "".join(f'<pre class="scroll" tabindex="0">{text(_full(v))}</pre>' for v in verdicts)
    return (
        "<section><h2>The files compute the same</h2>"
        if results.passed
        else "<section><h2>Do the files compute the same?</h2>"
    ) + (
        "<p>Each network is exported with its parameters as inputs and a dynamic batch, and run by ONNX Runtime on "
        "every held-out digit. A fixed tolerance would say little, so the judge is relative: the reference is the "
        "eager function in float64; the ratio is the file's root-mean-square error divided by that of eager float32, "
        "pooled over slightly varied inputs. A file passes if the ratio stays under the limit at every size that was "
        f"tried.</p><div class='card'>{table(head, rows, numeric=[2, 3])}</div>"
        f'<div class="card">{table(answered, answers, numeric=range(1, 6))}</div>'
        f"{details('Every comparison', full)}</section>"
    )


def _row(name: str, verdict: Verdict, providers: Mapping[str, int]) -> list[str]:
    rows = [row for row in verdict.rows if row.ratio is not None]
    worst = max(rows, key=lambda row: row.ratio or 0.0, default=None)
    placed = ", ".join(
        f"{count} nodes on {where.removesuffix('ExecutionProvider')}" for where, count in providers.items()
    )
    return [
        text(name),
        badge(verdict.status),
        number(verdict.worst, 3),
        "" if worst is None else f"{worst.limit:g}",
        "" if worst is None else f"<code>{text(worst.leaf)}</code>",
        text(_checked(verdict)),
        text(placed),
    ]


def _checked(verdict: Verdict) -> str:
    """Say which sizes were tried and which branches were forced."""
    cases = list(dict.fromkeys(row.case for row in verdict.rows if row.status != "skipped"))
    forced = [case for case in cases if case.startswith("forced")]
    sizes = [case for case in cases if not case.startswith("forced")]
    if all(case.startswith("batch=") for case in sizes):
        said = "batch " + ", ".join(case.removeprefix("batch=") for case in sizes)
    elif len(sizes) > 1:
        said = f"{len(sizes)} heights and widths"
    else:
        said = "this size"
    return f"{said}, {'both branches forced' if len(forced) == 2 else ', '.join(forced)}" if forced else said


def _full(verdict: Verdict) -> str:
    return verdict.table(full=True).replace(verdict.path, Path(verdict.path).name)


def photographs(results: Results) -> str:
    """Show the pictures before and after, and which branch ran."""
    e = results.enhanced
    return (
        "<section><h2>A network that looks before it works</h2>"
        "<p>An adaptive enhancer decides inside the exported file: it takes the picture's mean luminance (Rec. 709 "
        f"weights, linear light), and runs its enhancing branch only if that lies under {number(e.threshold)}, one "
        "stop below middle grey. The branch is two residual steps with parameters designed by hand: a light curve "
        "x + α x (1 − x), repeated, and local contrast x + γ (x − blur(x)). <code>torch.cond</code> became an ONNX "
        f"<code>If</code>. The darkened versions have {e.stops} stops less light. "
        f"{text(wording.photo_finding(results))} For the verdict, both branches are also forced on every picture.</p>"
        f'<div class="grid2">{"".join(_shot(shot) for shot in e.shots)}</div></section>'
    )


def _shot(shot: Shot) -> str:
    branch = "enhanced" if shot.enhanced else "passed unchanged"
    side = ""
    if shot.margin is not None:
        side = f", {number(abs(shot.margin))} {'above' if shot.margin > 0 else 'below'} the threshold"
    before, after = (picture.photograph(image) for image in (shot.before, shot.after))
    was, became = f"mean luminance {number(shot.luminance)}", f"mean luminance {number(shot.luminance_after)}"
    change = f" → {number(shot.luminance_after)}" if shot.enhanced else ""
    title = text(shot.title)
    return (
        f'<figure class="card"><h3>{title} {badge(shot.verdict.status)}</h3><div class="shots">'
        f'<div><img src="{before}" alt="{title} before, {was}"><span>before</span></div>'
        f'<div><img src="{after}" alt="{title} after: {branch}, {became}"><span>from ONNX Runtime</span></div></div>'
        f"<figcaption>Luminance {number(shot.luminance)}{change}: <strong>{branch}</strong>. "
        f"Darkness {number(1 - shot.luminance, 3)}{side}.</figcaption></figure>"
    )


def surroundings(results: Results) -> str:
    """Say where it ran, how long it took, and what was written."""
    env, seconds, judged = results.environment, results.seconds, results.networks[0].judged
    pairs = [
        ("Date", env["date"]),
        ("Processor", f"{env['processor']}, {env['cores']} cores; PyTorch threads: {env['torch_threads']}"),
        ("System", env["system"]),
        ("Python", env["python"]),
        ("Packages", ", ".join(f"{name} {version}" for name, version in env["packages"].items())),
        ("ONNX Runtime ran on", f"{judged.ran_on} ({judged.ran_because})"),
        ("Durations", ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())),
        ("Files", ", ".join((*results.files, "report.json"))),
    ]
    shown = definitions((name, text(value)) for name, value in pairs)
    return (
        f'<section><h2>Where and how</h2><div class="card">{shown}</div>'
        '<p class="note">All numbers of this page, and those it leaves out, are in <code>report.json</code>. The '
        "parameters that an <code>.onnx</code> file takes as its first argument lie beside it as "
        "<code>.safetensors</code>.</p></section>"
    )
