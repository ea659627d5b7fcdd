"""Tables and progress bars in the terminal, by `rich`, which is imported only when something is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pure.errors import ArgumentError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Bars", "rich_table", "show"]

NOTEBOOK_UPDATES = 20
"""How often a loop's count is shown anew in a notebook."""


def rich_table(text: str) -> Table:
    """Return a table that `rich` draws, of the plain text that a result's `table()` gives.

    Example:
        >>> from pure.flow.shared.text_table import table
        >>> drawn = rich_table(table(["leaf", "l2"], [["fc1.weight", 0.5], ["fc1 bias", 12.0]]))
        >>> [column.header for column in drawn.columns], drawn.row_count
        (['leaf', 'l2'], 2)
    """
    from rich.table import Table

    header, rule, *lines = text.splitlines()
    if not re.fullmatch(r"-+(  -+)*", rule):
        raise ArgumentError(
            "rich_table of text without a rule under its header: expected what a result's table() gives"
        )
    spans = [match.span() for match in re.finditer("-+", rule)]
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for index, (start, end) in enumerate(spans):
        drawn.add_column(header[start:end].strip(), justify="right" if index else "left")
    for line in lines:
        drawn.add_row(*(line[start:end].strip() for start, end in spans))
    return drawn


def show(text: str, console: Console | None = None) -> None:
    """Print a result's `table()` by rich: its columns shrink to the terminal's width; other text as it is.

    Args:
        text: as `table()` gives it.
        console: where to; None for a new one on stdout.
    """
    from rich.console import Console

    console = console or Console(markup=False, highlight=False)
    lines = text.splitlines()
    tabular = len(lines) > 1 and re.fullmatch(r"-+(  -+)*", lines[1])
    console.print(rich_table(text) if tabular else text)


class Bars:
    """A context that gives a function to wrap loops: with a bar each on stderr, or as they are.

    Args:
        shown: whether there are bars.

    Example:
        >>> with Bars(False) as track:
        ...     list(track(range(3), "forward"))
        [0, 1, 2]
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.bar: Any = None

    def __enter__(self) -> Callable[[Iterable[int], str], Iterable[int]]:
        if not self.shown:
            return lambda loop, _: loop
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        if console.is_jupyter:
            return self._in_notebook
        self.bar = Progress(console=console, transient=True)
        self.bar.start()
        return self._track

    def _track(self, loop: Iterable[int], what: str) -> Iterator[int]:
        yield from self.bar.track(loop, description=what)

    def _in_notebook(self, loop: Iterable[int], what: str) -> Iterator[int]:
        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]  # a notebook has it

        steps = list(loop)
        place = display({"text/plain": what}, raw=True, display_id=True)
        try:
            for done, step in enumerate(steps, 1):
                yield step
                if done * NOTEBOOK_UPDATES // len(steps) > (done - 1) * NOTEBOOK_UPDATES // len(steps):
                    place.update({"text/plain": f"{what} {done}/{len(steps)}"}, raw=True)
        finally:
            place.update({}, raw=True)  # an output without data takes no room

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
