"""Numbers and lists as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["enumerated", "number", "percent", "percents", "power"]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(exponent: int) -> str:
    """Return a power of ten as text.

    >>> power(-3), power(0)
    ('10⁻³', '1')
    """
    return "1" if exponent == 0 else "10" + str(exponent).translate(_SUPERSCRIPT)


def number(value: float, digits: int = 2) -> str:
    """Return a number for reading: plain where that is short, a power of ten where it is not.

    >>> number(0.0312), number(412.0), number(3.1e8), number(2.5e-7)
    ('0.031', '412', '3.1 × 10⁸', '2.5 × 10⁻⁷')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    exponent = math.floor(math.log10(abs(value)))
    if -3 <= exponent < 5:
        return f"{value:.{max(digits - 1 - exponent, 0)}f}"
    mantissa = f"{value / 10.0**exponent:.{digits - 1}f}"
    if abs(float(mantissa)) >= 10:
        mantissa, exponent = f"{float(mantissa) / 10:.{digits - 1}f}", exponent + 1
    return f"{mantissa} × {power(exponent)}"


def percent(part: float) -> str:
    """Return a part of one as a percentage with one decimal.

    >>> percent(0.95111)
    '95.1 %'
    """
    return f"{100 * part:.1f} %"


def percents(parts: Sequence[float]) -> str:
    """Return the range of several parts of one.

    >>> percents([0.95111, 0.9]), percents([0.5])
    ('90.0 % to 95.1 %', '50.0 %')
    """
    low, high = percent(min(parts)), percent(max(parts))
    return low if low == high else f"{low} to {high}"


def enumerated(items: Sequence[str]) -> str:
    """Join words as in a sentence.

    >>> enumerated(["a", "b", "c"])
    'a, b and c'
    """
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
