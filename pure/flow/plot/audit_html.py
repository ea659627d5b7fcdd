"""An audit as one interactive HTML file."""

from __future__ import annotations

import os

from pure.flow.auditing.audit_result import NOTHING_TO_CHANGE, Audit
from pure.flow.plot.html_lines import Panel, line_page
from pure.storage import write_whole

__all__ = ["write_audit_html"]


def write_audit_html(audit: Audit, path: str | os.PathLike[str], title: str | None = None) -> None:
    """Write an audit as one HTML file that needs nothing else: gradient, stream and branches by depth, and the advice.

    Values that were not measured are gaps. The module's name and the value stand below a chart at the pointer.

    Args:
        audit: the result.
        path: the file.
        title: its heading; None for the number of blocks.
    """
    blocks = list(audit.blocks.values())
    depth = [float(block.depth) for block in blocks]
    stream = {
        "stream: mean square": [10.0**b.stream.log10_second_moment for b in blocks],
        "stream: channel mean²": [10.0**b.stream.log10_squared_mean for b in blocks],
        "branch: mean square": [10.0**b.branch.log10_second_moment if b.branch else float("nan") for b in blocks],
    }
    gradient = {
        "median sample": [10.0**b.log10_gradient_median for b in blocks],
        "10% of the samples": [10.0**b.log10_gradient_p10 for b in blocks],
        "90% of the samples": [10.0**b.log10_gradient_p90 for b in blocks],
        "parameters": [10.0**b.log10_parameter_gradient for b in blocks],
    }
    panels = [
        Panel("gradient w.r.t. each block's output", "depth", depth, gradient, True, _fit(audit.gradient_growth)),
        Panel("signal", "depth", depth, stream, True, _fit(audit.stream_growth)),
        Panel("branch over stream", "depth", depth, {"ratio": [b.branch_to_skip for b in blocks]}, True),
    ]
    if audit.paths is not None:
        lengths = [float(length) for length in range(len(audit.paths.shares))]
        panels.append(
            Panel("input gradient by path length", "branches passed", lengths, {"share": list(audit.paths.shares)})
        )
    said = [f"• {advice.text}" for advice in audit.advice] or [NOTHING_TO_CHANGE]
    names = [f"depth {block.depth}: {block.name}" for block in blocks]
    page = line_page(title or f"Audit of {len(audit)} blocks", panels, "\n".join([*said, "", *names]))
    write_whole(page.encode(), path)


def _fit(grown: object) -> str:
    return "" if grown is None else f"squared: {grown}"
