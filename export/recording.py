"""The tracer that notes, for each recorded operation, the line of the function's source and the block's path."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.fx.experimental import proxy_tensor

from export.sources import user_line
from pure import tags

_replaying: list[torch.fx.Node] = []
"""The node of the first trace that is being replayed, innermost last."""


def current_source() -> str:
    """Return the source line being recorded, or the one whose recording is being replayed."""
    return str(_replaying[-1].meta.get("source", "")) if _replaying else user_line()


class RecordingTracer(proxy_tensor.PythonKeyTracer):
    """PyTorch's tracer, with ``node.meta["source"]`` and ``node.meta["path"]`` filled in."""

    def create_node(self, *args: Any, **kwargs: Any) -> torch.fx.Node:
        """Create a node and note where it comes from."""
        node = super().create_node(*args, **kwargs)
        if _replaying:
            origin = _replaying[-1].meta
            node.meta["source"], node.meta["path"] = origin.get("source", ""), origin.get("path", "")
        else:
            node.meta["source"], node.meta["path"] = user_line(), tags.current_path()
        return node


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Make ``make_fx`` use ``RecordingTracer``; it offers no argument for that."""
    with mock.patch.object(proxy_tensor, "PythonKeyTracer", RecordingTracer), tags.tracing():
        yield


class Replay(torch.fx.Interpreter):
    """Runs a recorded graph again, handing each node's notes to the nodes that it leads to."""

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run one node."""
        _replaying.append(n)
        try:
            return super().run_node(n)
        finally:
            _replaying.pop()
