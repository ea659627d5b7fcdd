"""A module's call whose submodules' outputs, branches and streams are tagged, without a change of its code.

Where something asks for such tags, the module runs twice: once under a recorder, whose record shows which sums are
residual, and once under a mode that tags at those. Where only the running block's name is followed, as while a graph
is recorded for a file, it runs once and its parts' paths are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pure.errors import UnsupportedError
from pure.interop.tagging.call_graph import Recorder, replaced_tensors, tensors_of
from pure.interop.tagging.function_names import CATS, in_place
from pure.interop.tagging.module_hooks import Follower, following
from pure.interop.tagging.tag_plan import Mark, Plan, plan
from pure.tags import INPUT, between_graphs, scope, scopes, tag, wanted

__all__ = ["tagged_call"]

_PLANNED = frozenset({"stream", "branch", "output", INPUT})


def _tagged_call(module: nn.Module, call: Callable[..., Any], *given: Any) -> Any:
    """Return `call(*given)`, which calls `module`, with its tags where this thread asks for some.

    Inside `torch.compile` the graph breaks here.

    Args:
        module: the module.
        call: a pure function that runs it, in the same way each time.
        given: its arguments.

    Raises:
        UnsupportedError: forward calls other functions in a second run on the same arguments.
    """
    with between_graphs():
        names = scopes()
        if names is None:
            return call(*given)
        follower: Follower = _Paths(names)
        if wanted() & _PLANNED:
            recorder = Recorder({name for name, _ in module.named_parameters(remove_duplicate=False)})
            with torch.no_grad(), following(recorder, module):
                call(*given)
            follower = _Tagger(names, plan(recorder.graph))
        with following(follower, module):
            return _restored(names, call, given)


tagged_call: Callable[..., Any] = torch.compiler.disable(
    _tagged_call, reason="TorchDynamo does not follow the hooks and function modes by which a module's parts are tagged"
)
"""`_tagged_call`, at which TorchDynamo breaks its graph."""


def _restored(names: list[str], call: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    before = list(names)
    try:
        return call(*given)
    finally:
        names[:] = before


class _Paths:
    """Pushes the paths of a module's parts while they run."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.base = list(names)
        self._outer: list[tuple[str, list[str]]] = []

    def around(self, given: Mapping[str, Any], args: tuple[Any, ...]) -> AbstractContextManager[Any]:
        """Return no context."""
        return nullcontext()

    def enter(self, path: str) -> None:
        """Push a part's path."""
        if path:
            self._outer.append((path, list(self.names)))
            self.names[:] = [*self.base, path]

    def leave(self, path: str, given: object, output: object) -> object:
        """Pop it."""
        while path:
            inner, outer = self._outer.pop()
            self.names[:] = outer
            if inner == path:  # ones inside it may have raised, and forward caught that
                break
        return output


class _Tagger(_Paths, TorchFunctionMode):
    """Tags what a plan says, and the outputs of the parts."""

    def __init__(self, names: list[str], marks: Plan) -> None:
        TorchFunctionMode.__init__(self)
        _Paths.__init__(self, names)
        self.plan = marks
        self._number, self._paused = -1, False
        self._kept: dict[int, Tensor] = {}
        self._prefixes = {mark.prefix[0] for mark in marks.sums.values() if mark.prefix is not None}
        self._replaced: dict[int, Tensor] = {}  # what stands for a tensor that a sum was to be written to
        self._held: list[Tensor] = []  # so that no id is used again
        self._ours: dict[int, Tensor] = {}  # what a tag has put in place of a value

    def around(self, given: Mapping[str, Any], args: tuple[Any, ...]) -> AbstractContextManager[Any]:
        """Return the mode."""
        return self

    def leave(self, path: str, given: object, output: object) -> object:
        """Pop a part's path, and tag the first tensor that it returned."""
        super().leave(path, given, output)
        output = replaced_tensors(output, self._replaced)
        first = next(tensors_of(output), None)
        if not path or first is None or not first.is_floating_point():
            return output
        new = self._tag(first, path, "output")
        return output if new is first else _exchanged(output, first, new)

    def _tag(self, value: Tensor, name: str, kind: Any) -> Tensor:
        """Tag a value under the name of the whole module, and remember what took its place."""
        inside, self._paused = list(self.names), True  # what the tag's reader computes is no call of the module's
        self.names[:] = self.base
        try:
            new = tag(value, name, kind)
        finally:
            self._paused = False
        self.names[:] = inside
        if new is not value:
            self._ours[id(new)] = new
        return new

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function, with tags if the plan names it."""
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if self._replaced:
            args, kwargs = replaced_tensors(args, self._replaced), replaced_tensors(kwargs, self._replaced)
        name = getattr(func, "__name__", "")
        mark = self.plan.sums.get(self._number + 1)
        if mark is not None and mark.name == name:
            self._number += 1
            out = self._summed(mark, func, args, kwargs)
            return self._streamed(name, out)
        written = bool(args) and isinstance(args[0], Tensor) and in_place(name, args, kwargs)
        if written and id(args[0]) in self._ours:  # others may hold it too, and autograd forbids writing to a leaf
            copy = args[0].clone()
            self._stand_in(args[0], copy)
            args = (copy, *args[1:])
        out = func(*args, **kwargs)
        if next(tensors_of(out), None) is None and not written:
            return out
        self._number += 1
        return self._streamed(name, out)

    def _streamed(self, name: str, out: Any) -> Any:
        """Return a call's result, tagged if it is a stream or an output of the plan's."""
        number = self._number
        expected = self.plan.names.get(number)
        if expected is not None and expected != name:
            raise UnsupportedError(
                f"capture: forward called {name!r} where a first run on the same arguments called {expected!r}: its "
                "branches are not known by name unless both runs take the same way"
            )
        if number in self.plan.streams:
            out = self._tag(out, f"{self.plan.streams[number]}.stream", "stream")
        elif number in self.plan.outputs and isinstance(out, Tensor):
            out = self._tag(out, self.plan.outputs[number], "output")
        if number in self._prefixes:
            self._kept[number] = out
        return out

    def _summed(self, mark: Mark, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a residual sum or concatenation whose branches are tagged; nothing is written in place."""
        given = list(tensors_of((args, kwargs)))
        skip = self._kept[mark.prefix[0]] if mark.prefix is not None else given[mark.skip]
        inside = list(self.names)
        self.names[:] = self.base
        with scope(mark.row, skip):
            pass
        self.names[:] = inside
        new = {at: self._tag(given[at], f"{mark.row}.branch", "branch") for at in mark.branches}
        changed = [new.get(at, leaf) for at, leaf in enumerate(given)]
        if mark.name in CATS:
            dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
            parts = changed if mark.prefix is None else [skip, *changed[mark.prefix[1] :]]
            out: Tensor = torch.cat(parts, dim)
        else:
            out = torch.add(*changed)
        if in_place(mark.name):
            self._stand_in(args[0], out)
        return out

    def _stand_in(self, old: Tensor, new: Tensor) -> None:
        """Let a tensor stand for another wherever that is used from now on."""
        self._held.append(old)
        self._replaced = {key: new if value is old else value for key, value in self._replaced.items()}
        self._replaced[id(old)] = new


def _exchanged(output: Any, old: Tensor, new: Tensor) -> Any:
    """Return a module's output with one tensor for another."""
    if isinstance(output, Mapping) and type(output) is not dict:  # a fresh one, as transformers' ModelOutput
        for key, value in output.items():
            if value is old:
                output[key] = new  # type: ignore[index]
        return output
    if isinstance(output, tuple) and hasattr(output, "_replace"):
        return type(output)(*(new if value is old else value for value in output))
    return replaced_tensors(output, {id(old): new})
