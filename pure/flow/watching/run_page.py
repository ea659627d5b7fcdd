"""The page of a watched run."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pure.errors import ArgumentError
from pure.flow.plot.html_lines import Panel, line_page
from pure.flow.watching.watch import Observation
from pure.storage import write_whole

__all__ = ["watch_page"]


def watch_page(
    observations: Sequence[Observation], path: str | os.PathLike[str], *, title: str = "Training run"
) -> None:
    """Write the page of a watched run: one HTML file that needs nothing else, with values under the pointer.

    Args:
        observations: what `watch` gave, in order; None among them is left out.
        path: the file.
        title: its heading.

    Raises:
        ArgumentError: no observation.
    """
    seen = [entry for entry in observations if entry is not None]
    if not seen:
        raise ArgumentError("watch_page of no observation: expected what watch(…) returned at its measured steps")
    steps = [float(entry.step) for entry in seen]
    blocks = list(seen[0].blocks)
    panels = [
        Panel("norm of the weights", "step", steps, {b: [e.blocks[b].weight for e in seen] for b in blocks}, log=True),
        Panel("norm of the update", "step", steps, {b: [e.blocks[b].update for e in seen] for b in blocks}, log=True),
        Panel("update over weight", "step", steps, {b: [e.blocks[b].ratio for e in seen] for b in blocks}, log=True),
    ]
    panels += [Panel(name, "step", steps, {name: [e.measures[name] for e in seen]}) for name in seen[0].measures]
    write_whole(line_page(title, panels).encode(), path)
