"""Seeing inside a pure function: `tag` names a value, `capture` returns the named values beside the output.

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
    "capture",
    "capturing",
    "current_path",
    "observe",
    "scope",
    "tag",
    "tracing",
    "watching",
]

Kind = Literal["stream", "branch", "gate", "loss"]
KINDS: tuple[str, ...] = get_args(Kind)
T = TypeVar("T")


class Tagged(NamedTuple):
    """One tagged value: where it was tagged, as what, and the value itself."""

    path: str
    kind: str
    value: Any


class _Watcher:
    """The names of the running blocks and the values tagged so far, for one watching thread."""

    def __init__(self, kinds: frozenset[str], parent: _Watcher | None, scopes: list[str]) -> None:
        self.kinds = kinds
        self.parent = parent
        self.scopes = scopes
        self.values: dict[str, Tagged] = {}

    def record(self, path: str, kind: str, value: object) -> None:
        name, repeat = path, 1
        while name in self.values:
            repeat += 1
            name = f"{path}#{repeat}"
        self.values[name] = Tagged(name, kind, value)


WATCHERS: dict[int, _Watcher] = {}
"""Thread ident → the innermost watcher of that thread. Empty nearly always: blocks then take their lean path."""

COMPILED: Final = 0
"""The key in place of a thread ident inside `torch.compile`, which cannot trace `get_ident`."""


def _thread() -> int:
    return COMPILED if torch.compiler.is_compiling() else get_ident()


def _current() -> _Watcher | None:
    """Return the innermost watcher of this thread.

    Raises:
        CaptureError: a compiled function runs inside a capture, where its tags would be lost.
    """
    watcher = WATCHERS.get(_thread())
    if watcher is None and torch.compiler.is_compiling():
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


def tag(x: T, name: str, kind: Kind = "stream") -> T:
    """Return `x` itself, and name it for `capture`.

    Args:
        x: any value, usually a tensor.
        name: what the value is called inside its block; the path of the block is put in front.
        kind: "stream" (what a skip carries), "branch" (what is added to it), "gate" (a factor in 0…1) or "loss"
            (an auxiliary loss).

    Raises:
        CaptureError: an unknown kind (checked while something captures).

    Example:
        >>> import torch
        >>> f = lambda x: tag(x * 2, "double").sum()
        >>> out, seen = capture(f)(torch.ones(3))
        >>> out, seen
        (tensor(6.), {'double': tensor([2., 2., 2.])})
    """
    if WATCHERS:
        _record(x, name, kind)
    return x


def _record(x: object, name: str, kind: str) -> None:
    if kind not in KINDS:
        raise CaptureError(f"tag {name!r} has kind {kind!r}: expected one of {', '.join(KINDS)}")
    watcher = _current()
    if watcher is None:
        return
    path = ".".join((*watcher.scopes, name))
    while watcher is not None:
        if kind in watcher.kinds:
            watcher.record(path, kind, x)
        watcher = watcher.parent


@contextmanager
def _watch(kinds: frozenset[str]) -> Iterator[_Watcher]:
    thread = _thread()
    outer = WATCHERS.get(thread)
    watcher = _Watcher(kinds, outer, outer.scopes if outer else [])
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
    """Return a function that gives `fn`'s output and the values tagged while it ran, by their path.

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
    fn: Callable[..., Any], kinds: str | Sequence[str] | None = None
) -> Callable[..., tuple[Any, list[Tagged]]]:
    """Return a function that gives `fn`'s output and everything tagged while it ran: path, kind and value, in order.

    The same as `capture`, for those who need the kinds too.

    Args:
        fn: any function; a block too.
        kinds: which kinds of tag to keep: one name, several, or None for all.

    Raises:
        CaptureError: an unknown kind.

    Example:
        >>> import torch
        >>> _, seen = observe(lambda x: tag(x, "here", kind="gate"))(torch.zeros(1))
        >>> [(tagged.path, tagged.kind) for tagged in seen]
        [('here', 'gate')]
    """
    chosen = frozenset(KINDS if kinds is None else (kinds,) if isinstance(kinds, str) else kinds)
    if not chosen <= set(KINDS):
        raise CaptureError(f"capture of kinds {sorted(chosen - set(KINDS))}: expected some of {', '.join(KINDS)}")

    def observed(*args: object, **kwargs: object) -> tuple[Any, list[Tagged]]:
        with _watch(chosen) as watcher:
            out = fn(*args, **kwargs)
        return out, list(watcher.values.values())

    return observed


@contextmanager
def tracing() -> Iterator[None]:
    """Keep track of the running block without capturing anything, so that a tracer can ask for `current_path()`."""
    with _watch(frozenset()):
        yield


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Name the block that runs inside; containers use it while something watches."""
    watcher = _current() if WATCHERS else None
    if watcher is None:
        yield
        return
    watcher.scopes.append(name)
    try:
        yield
    finally:
        watcher.scopes.pop()


def current_path() -> str:
    """Return the dotted path of the block that runs in this thread, or an empty string outside any capture."""
    watcher = _current() if WATCHERS else None
    return ".".join(watcher.scopes) if watcher else ""
