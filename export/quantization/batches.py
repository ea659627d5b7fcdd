"""Batches of data for a file: the tuples of arguments that the loaded function takes, checked against its call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from export.errors import ArgumentError
from export.runtime.loaded_file import Loaded

__all__ = ["Feed", "fed"]

Feed = dict[str, np.ndarray[Any, Any]]
"""The tensors of one batch by the names of the file's inputs."""


def fed(loaded: Loaded, batches: Iterable[Sequence[Any]]) -> list[Feed]:
    """Return each batch as {input name: array}, checked against the file's call.

    Raises:
        ArgumentError: if there is none, one does not fit, or one holds NaN or infinities.
    """
    if isinstance(batches, (str, bytes, dict)) or not isinstance(batches, Iterable):
        raise ArgumentError(f"batches must be a sequence of tuples of arguments, got a {type(batches).__name__}")
    feeds = []
    for i, batch in enumerate(batches):
        if not isinstance(batch, (tuple, list)):
            raise ArgumentError(
                f"batches[{i}] must be the tuple of arguments of {loaded.signature}, got a {type(batch).__name__}; "
                "write [(x,), …]"
            )
        try:
            feed = loaded.feed(*batch)
        except ArgumentError as error:
            raise ArgumentError(f"batches[{i}]: {error}") from error
        bad = [name for name, array in feed.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
        if bad:
            raise ArgumentError(f"batches[{i}]: {', '.join(bad)} holds NaN or infinities; leave such samples out")
        feeds.append(feed)
    if not feeds:
        raise ArgumentError("batches is empty; give at least one batch, as a tuple of arguments")
    return feeds
