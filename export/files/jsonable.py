"""Results as JSON: numbers that JSON lacks become text, so that every parser reads the file."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """Return the value with NaN and infinities as text, tuples as lists and keys as text.

    >>> plain({1: (0.5, float("inf"))})
    {'1': [0.5, 'inf']}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
