"""What is said of a name that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest_five"]


def nearest_five(name: str, candidates: Iterable[str]) -> str:
    """Return `" (did you mean 'a', 'b' or 'c'?)"` for the five nearest of the candidates, or an empty string.

    >>> nearest_five("resnet8", ["resnet18", "resnet50", "bert"])
    " (did you mean 'resnet18', 'resnet50' or 'bert'?)"
    """
    found = [repr(near) for near in difflib.get_close_matches(name, list(candidates), n=5, cutoff=0.0)]
    if len(found) > 1:
        found = [", ".join(found[:-1]), found[-1]]
    return f" (did you mean {' or '.join(found)}?)" if found else ""
