"""The tracer that notes, for each recorded operation, the line of the function's source and the block's path."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch._prims_common import is_contiguous_or_false
from torch._subclasses.functional_tensor import FunctionalTensor, disable_functional_mode
from torch.fx.experimental import proxy_tensor

from export.trace.source_lines import caller_of, user_line
from pure import tags

__all__ = [
    "NOTES",
    "FunctionalReplay",
    "RecordingTracer",
    "Replay",
    "current_source",
    "recording",
    "view_of_any_strides",
    "zero_tangent",
]

_replaying: list[torch.fx.Node] = []
"""The node of the first trace that is being replayed, innermost last."""


def current_source() -> str:
    """Return the source line being recorded, or the one whose recording is being replayed."""
    return str(_replaying[-1].meta.get("source", "")) if _replaying else user_line()


NOTES = ("source", "caller", "path", "derivative", "zero")
"""What is noted of each operation: the source line, the user's own line that called it where that is an installed
package's, the block, its order of differentiation ("" for none), and whether it makes a zero tangent ("" if not)."""

_making_zeros: list[None] = []


@contextlib.contextmanager
def zero_tangent() -> Iterator[None]:
    """Note that the operations in the body make a zero tangent."""
    _making_zeros.append(None)
    try:
        yield
    finally:
        _making_zeros.pop()


class RecordingTracer(proxy_tensor.PythonKeyTracer):
    """PyTorch's tracer, with the notes in `node.meta` filled in.

    PyTorch numbers the operations that it will differentiate. An operation of a backward pass has the source and the
    path of the one whose gradient it computes, which that number finds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._numbered: dict[int, dict[str, str]] = {}
        self._next: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]

    def create_node(self, *args: Any, **kwargs: Any) -> torch.fx.Node:
        """Create a node and note where it comes from."""
        node = super().create_node(*args, **kwargs)
        origin = _replaying[-1].meta if _replaying else self._noted()
        node.meta.update({name: origin.get(name, "") for name in NOTES})
        if _making_zeros:
            node.meta["zero"] = "yes"
        return node

    def _noted(self) -> dict[str, str]:
        """Return the notes on the operation that runs, and remember them for its gradient."""
        now: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        backward = torch._C._current_autograd_node()
        forward = self._numbered.get(backward._sequence_nr()) if backward is not None else None
        if forward is None:
            caller = caller_of(sys._getframe(1))
            noted = {"source": user_line(), "caller": caller, "path": tags.current_path(), "derivative": ""}
        else:
            noted = {**forward, "derivative": str(int(forward["derivative"] or 0) + 1)}
        self._numbered.update(dict.fromkeys(range(self._next, now), noted))
        self._next = now
        return noted


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Make `make_fx` use `RecordingTracer`; it offers no argument for that."""
    with mock.patch.object(proxy_tensor, "PythonKeyTracer", RecordingTracer), tags.tracing():
        yield


class Replay(torch.fx.Interpreter):
    """Runs a recorded graph again, copying each node's notes to the nodes recorded for it."""

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run one node."""
        _replaying.append(n)
        try:
            return super().run_node(n)
        finally:
            _replaying.pop()


class FunctionalReplay(Replay):
    """Runs a recorded graph under functionalisation; captured tensors take part, as do the results made of them."""

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Fetch a captured tensor or a branch."""
        value = super().get_attr(target, args, kwargs)
        if not isinstance(value, torch.Tensor):
            return value
        with disable_functional_mode():  # PyTorch before 2.15 functionalises only what the tracer knows
            known = torch.ops.aten.lift_fresh_copy.default(value)
        return FunctionalTensor.to_functional(known)


def view_of_any_strides(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Rule for `aten.view` in a pass without aliases: view a copy, unless the tensor is contiguous.

    PyTorch carries a write to a view back through the operations that made the view, and there views what has other
    strides than the tensor had, as after an einsum and a slice.
    """
    if is_contiguous_or_false(x):
        return NotImplemented
    return x.clone(memory_format=torch.contiguous_format).view(size)
