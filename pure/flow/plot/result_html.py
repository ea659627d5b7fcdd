"""Results as one interactive HTML file each."""

from __future__ import annotations

import math
import os

from pure.errors import ArgumentError
from pure.flow.auditing.audit_result import NOTHING_TO_CHANGE, Audit
from pure.flow.paths.path_result import PathSpectrum
from pure.flow.plot.html_lines import Panel, line_page
from pure.storage import write_whole

__all__ = ["write_html"]


def write_html(result: Audit | PathSpectrum, path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Write an audit or a path spectrum as one interactive HTML file that needs nothing else.

    An audit's page shows gradient, stream and branches by depth, and the advice; a path spectrum's shows shares, norms
    and counts by branches passed. Values that were not measured are gaps. The value at the pointer stands below a
    chart.

    Args:
        result: what to show.
        path: the file.
        title: its heading; None for one that says what it is.

    Raises:
        ArgumentError: the result is of another kind.
    """
    if isinstance(result, Audit):
        page = _audit(result, title)
    elif isinstance(result, PathSpectrum):
        page = _paths(result, title)
    else:
        raise ArgumentError(
            f"result is {type(result).__name__}: expected an Audit or a PathSpectrum; others have plot() and table()"
        )
    write_whole(page.encode(), path)


def _audit(audit: Audit, title: str | None) -> str:
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
    names = [f"depth {block.depth}: {block.name}" for block in blocks if block.name != str(block.depth)]
    return line_page(title or f"Audit of {len(audit)} blocks", panels, "\n".join([*said, "", *names]))


def _paths(paths: PathSpectrum, title: str | None) -> str:
    lengths = [float(length) for length in range(len(paths))]
    shares = paths.shares.tolist()
    up_to = [sum(shares[: length + 1]) for length in range(len(shares))]
    norms = [math.ldexp(norm, paths.exponent) for norm in paths.norms.tolist()]
    counts = [float(count) for count in paths.paths]
    mean = f"mean path length {paths.mean_path_length:.4g} of {len(paths.labels)} branches"
    through = "branches passed"
    panels = [
        Panel("share of the squared norms", through, lengths, {"share": shares, "up to here": up_to}, note=mean),
        Panel("L2 norm of each part", through, lengths, {"norm": norms}, True),
        Panel("how many paths", through, lengths, {"paths": counts}, True),
    ]
    kind = "J v" if paths.mode == "forward" else "gradient"
    labels = [f"branch {index}: {label}" for index, label in enumerate(paths.labels)]
    heading = title or f"{kind} by paths through {len(paths.labels)} branches"
    return line_page(heading, panels, "\n".join([paths.table(), "", *labels]))


def _fit(grown: object) -> str:
    return "" if grown is None else f"squared: {grown}"
