"""The report as one self-contained page: inline style, pictures as SVG or data URIs, no script, nothing fetched."""

from __future__ import annotations

from export.app.pages.markup import page, text
from export.app.pages.style import REPORT
from export.app.report.page import evidence, picture, sections, wording
from export.app.report.results import Results

__all__ = ["render"]


def render(results: Results) -> str:
    """Return the page's HTML."""
    status = "pass" if results.passed else "fail"
    word = "every verdict passed" if results.passed else "a verdict failed"
    found = "".join(f"<li>{text(sentence)}</li>" for sentence in wording.findings(results))
    body = [
        "<header><h1>What skips do to gradients, and whether the exported files compute the same</h1>",
        '<p class="soft">Networks without and with skip connections, as pure functions over parameter trees: measured, '
        "trained, exported to ONNX and judged against float64, on handwritten digits and two photographs.</p>",
        f'<p><span class="badge {status}">{word}</span></p></header>',
        f'<section class="card found" aria-label="Findings"><ul>{found}</ul></section>',
        *sections.all_of(results),
        *evidence.all_of(results),
    ]
    ramp = f".ramp {{ background: {picture.ramp_css()}; }}\n"
    return page("pure-export report", "\n".join(body), style=REPORT + ramp)
