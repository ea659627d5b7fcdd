"""Intermediate values of a pure function: `tag` names one, `capture` returns them.

A tag is the identity, so that a tagged function stays the same function. Containers push the name of the child they
run, so that a tag deep inside a network is known by its whole path, such as `"3.branch"`. The captured values are
ordinary outputs: they compose with `torch.func.grad`, `vmap`, `jvp` and `torch.compile`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args

import torch

from pure.errors import CaptureError

__all__ = [
    "KINDS",
    "Kind",
    "Tagged",
    "between_graphs",
    "capture",
    "capturing",
    "current_path",
    "observe",
    "scope",
    "scopes",
    "substitute",
    "tag",
    "tracing",
    "wanted",
    "watching",
]

Kind = Literal["stream", "branch", "gate", "loss", "output"]
"""What a tagged value is to its block: the stream, what is added to it, a gate, a loss, or its output."""

KINDS: tuple[str, ...] = get_args(Kind)
"""Every kind of tag."""

T = TypeVar("T")


class Tagged(NamedTuple):
    """One tagged value: where it was tagged, as what, and the value itself."""

    path: str
    kind: str
    value: Any


Change = Callable[[Tagged], object]
"""What a tagged value is replaced by."""

INPUT: Final = "input"
"""The kind under which `observe(…, inputs=True)` lists what a block was given; nothing is tagged so."""


class _Watcher:
    """The names of the running blocks and the values tagged so far, for one watching thread."""

    def __init__(
        self, kinds: frozenset[str], parent: _Watcher | None, scopes: list[str], change: Change | None = None
    ) -> None:
        self.kinds = kinds
        self.parent = parent
        self.scopes = scopes
        self.change = change
        self.values: dict[tuple[bool, str], Tagged] = {}

    def record(self, path: str, kind: str, value: object) -> object:
        """Keep a value under its path, and return what stands in its place."""
        name, repeat, is_input = path, 1, kind == INPUT
        while (is_input, name) in self.values:
            repeat += 1
            name = f"{path}#{repeat}"
        self.values[is_input, name] = Tagged(name, kind, value if self.change is None else None)
        return value if self.change is None or is_input else self.change(Tagged(name, kind, value))


WATCHERS: dict[int, _Watcher] = {}
"""Thread ident → the innermost watcher of that thread. Empty nearly always: blocks then take their lean path."""

COMPILED: Final = 0
"""The key in place of a thread ident inside `torch.compile`, which cannot trace `get_ident`."""


def _thread() -> int:
    return COMPILED if torch.compiler.is_dynamo_compiling() else get_ident()


def _current() -> _Watcher | None:
    """Return the innermost watcher of this thread.

    Raises:
        CaptureError: a compiled function runs inside a capture, where its tags would be lost.
    """
    watcher = WATCHERS.get(_thread())
    if watcher is None and torch.compiler.is_dynamo_compiling():
        raise CaptureError(
            "capture of a compiled function sees no tags: compile the captured function instead, as in "
            "torch.compile(pure.capture(fn))"
        )
    return watcher


def watching() -> bool:
    """Return whether anything in this process captures or traces."""
    return bool(WATCHERS)


def capturing() -> bool:
    """Return whether this thread captures values, rather than only following which block runs."""
    watcher = WATCHERS.get(_thread()) if WATCHERS else None
    while watcher is not None:
        if watcher.kinds:
            return True
        watcher = watcher.parent
    return False


def wanted() -> frozenset[str]:
    """Return the kinds of tag that this thread captures; none if it only follows which block runs."""
    watcher = WATCHERS.get(_thread()) if WATCHERS else None
    kinds: frozenset[str] = frozenset()
    while watcher is not None:
        kinds |= watcher.kinds
        watcher = watcher.parent
    return kinds


def tag(x: T, name: str, kind: Kind = "stream") -> T:
    """Return `x` itself, and name it for `capture`.

    Args:
        x: any value, usually a tensor.
        name: what the value is called inside its block; the path of the block is put in front.
        kind: "stream" (what a skip carries), "branch" (what is added to it), "gate" (a factor in 0…1), "loss" (an
            auxiliary loss) or "output" (what one part returned; `from_module` tags the submodules' outputs so).

    Raises:
        CaptureError: an unknown kind (checked while something captures).

    Example:
        >>> import torch
        >>> f = lambda x: tag(x * 2, "double").sum()
        >>> out, seen = capture(f)(torch.ones(3))
        >>> out, seen
        (tensor(6.), {'double': tensor([2., 2., 2.])})
    """
    return _record(x, name, kind) if WATCHERS else x


def _record(x: Any, name: str, kind: str) -> Any:
    if kind not in KINDS:
        raise CaptureError(f"tag {name!r} has kind {kind!r}: expected one of {', '.join(KINDS)}")
    watcher = _current()
    if watcher is None:
        return x
    path = ".".join((*watcher.scopes, name))
    while watcher is not None:
        if kind in watcher.kinds:
            x = watcher.record(path, kind, x)
        watcher = watcher.parent
    return x


@contextmanager
def _watch(kinds: frozenset[str], change: Change | None = None) -> Iterator[_Watcher]:
    thread = _thread()
    outer = WATCHERS.get(thread)
    watcher = _Watcher(kinds, outer, outer.scopes if outer else [], change)
    WATCHERS[thread] = watcher
    try:
        yield watcher
    finally:
        if outer is None:
            del WATCHERS[thread]
        else:
            WATCHERS[thread] = outer


def capture(
    fn: Callable[..., Any], kinds: str | Sequence[str] | None = None
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return a function that gives `fn`'s output and the tagged values by path.

    Args:
        fn: any function; a block too.
        kinds: which kinds of tag to keep: one name, several, or None for all.

    Returns:
        A function of the same arguments whose result is `(output, {path: value})`. A path met again, because a block
        is used twice, gets "#2", "#3", … behind it.

    Raises:
        CaptureError: an unknown kind.

    Example:
        >>> import torch
        >>> f = lambda x: tag(x.sin(), "sin", kind="branch") + x
        >>> value, seen = capture(f, kinds="branch")(torch.zeros(1))
        >>> list(seen)
        ['sin']
    """
    observed = observe(fn, kinds)

    def captured(*args: object, **kwargs: object) -> tuple[Any, dict[str, Any]]:
        out, seen = observed(*args, **kwargs)
        return out, {tagged.path: tagged.value for tagged in seen}

    return captured


def observe(
    fn: Callable[..., Any], kinds: str | Sequence[str] | None = None, *, inputs: bool = False
) -> Callable[..., tuple[Any, list[Tagged]]]:
    """Return a function that gives `fn`'s output and a list of its tagged values, in order.

    The same as `capture`, for those who need the kinds too.

    Args:
        fn: any function; a block too.
        kinds: which kinds of tag to keep: one name, several, or None for all.
        inputs: also list what every child block was given, by the block's path and with kind "input", as it starts.

    Raises:
        CaptureError: an unknown kind.

    Example:
        >>> import torch
        >>> _, seen = observe(lambda x: tag(x, "here", kind="gate"))(torch.zeros(1))
        >>> [(tagged.path, tagged.kind) for tagged in seen]
        [('here', 'gate')]
    """
    chosen = _chosen(kinds) | ({INPUT} if inputs else frozenset())

    def observed(*args: object, **kwargs: object) -> tuple[Any, list[Tagged]]:
        with _watch(chosen) as watcher:
            out = fn(*args, **kwargs)
        return out, list(watcher.values.values())

    return observed


def substitute(fn: Callable[..., Any], change: Change, kinds: str | Sequence[str] | None = None) -> Callable[..., Any]:
    """Return a function that runs `fn` with every tagged value replaced by `change` of it.

    Pure as far as `change` is. What `change` closes over may be batched, differentiated or a constant, so that a mask
    over the branches of a network can be mapped and differentiated by.

    Args:
        fn: any function; a block too. Only values that `fn` uses as `tag` returned them are replaced.
        change: from the tagged path, kind and value to the value that takes its place.
        kinds: which kinds of tag to replace: one name, several, or None for all.

    Raises:
        CaptureError: an unknown kind.

    Example:
        >>> import torch
        >>> f = lambda x: x + tag(x.cos(), "cos", kind="branch")
        >>> substitute(f, lambda tagged: tagged.value * 0, kinds="branch")(torch.ones(2))
        tensor([1., 1.])
    """
    chosen = _chosen(kinds)

    def substituted(*args: object, **kwargs: object) -> Any:
        with _watch(chosen, change):
            return fn(*args, **kwargs)

    return substituted


def _chosen(kinds: str | Sequence[str] | None) -> frozenset[str]:
    """Return the kinds that are meant, or raise for an unknown one."""
    chosen = frozenset(KINDS if kinds is None else (kinds,) if isinstance(kinds, str) else kinds)
    if not chosen <= set(KINDS):
        raise CaptureError(f"capture of kinds {sorted(chosen - set(KINDS))}: expected some of {', '.join(KINDS)}")
    return chosen


@contextmanager
def tracing() -> Iterator[None]:
    """Track the running block without capturing, so that `current_path()` works."""
    with _watch(frozenset()):
        yield


@contextmanager
def scope(name: str, x: object = None) -> Iterator[None]:
    """Push the name of a running block, with its input; used only while something watches."""
    watcher = _current() if WATCHERS else None
    if watcher is None:
        yield
        return
    watcher.scopes.append(name)
    asked: _Watcher | None = watcher
    while asked is not None:
        if INPUT in asked.kinds:
            asked.record(".".join(asked.scopes), INPUT, x)
        asked = asked.parent
    try:
        yield
    finally:
        watcher.scopes.pop()


@contextmanager
def between_graphs() -> Iterator[None]:
    """Let code that a break of `torch.compile`'s graph runs see what the compiled code around it captures."""
    compiled, thread = WATCHERS.get(COMPILED), get_ident()
    if compiled is None or thread in WATCHERS:
        yield
        return
    WATCHERS[thread] = compiled
    try:
        yield
    finally:
        del WATCHERS[thread]


def scopes() -> list[str] | None:
    """Return the names of the running blocks, a list to push to and pop from; None if this thread does not watch."""
    watcher = WATCHERS.get(_thread()) if WATCHERS else None
    return None if watcher is None else watcher.scopes


def current_path() -> str:
    """Return the dotted path of the running block, or an empty string outside any capture."""
    watcher = _current() if WATCHERS else None
    return ".".join(watcher.scopes) if watcher else ""
