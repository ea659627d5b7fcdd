"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["number", "table"]


def number(value: float) -> str:
    """Return a number in four significant digits.

    >>> number(0.0123456), number(1e-30), number(0.0)
    ('0.01235', '1.000e-30', '0')
    """
    if value == 0:
        return "0"
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e5 else f"{value:.3e}"


def table(header: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> str:
    """Return the rows under the header, the first column to the left and the others to the right.

    Example:
        >>> print(table(["leaf", "L2"], [["fc1.weight", 0.5], ["fc1.bias", 12.0]]))
        leaf         L2
        ----------  ---
        fc1.weight  0.5
        fc1.bias     12
    """
    cells = [list(header)] + [[number(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    lines = (
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)
