"""Who follows the calls of a module's parts: hooks that exist only while a module's tags are asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import get_ident
from typing import Any, Protocol

from torch import nn
from torch.nn.modules import module as nn_module
from torch.utils.hooks import RemovableHandle

__all__ = ["FOLLOWERS", "Follower", "following", "unfollowed"]


class Follower(Protocol):
    """What is told about the calls of a module's parts."""

    def around(self, given: Mapping[str, Any], args: tuple[Any, ...]) -> AbstractContextManager[Any]:
        """Return the context of the whole module's call on tensors by name ("inner." in front), and its inputs."""

    def enter(self, path: str) -> None:
        """Note that the part of this dotted path starts; "" is the whole module."""

    def leave(self, path: str, given: object, output: object) -> object:
        """Note that it ends, and return what stands in place of its output; that is None if it raised."""


class _Nobody:
    """Follows nothing."""

    def around(self, given: Mapping[str, Any], args: tuple[Any, ...]) -> AbstractContextManager[Any]:
        """Return no context."""
        return nullcontext()

    def enter(self, path: str) -> None:
        """Note nothing."""

    def leave(self, path: str, given: object, output: object) -> object:
        """Return the output."""
        return output


FOLLOWERS: dict[int, tuple[Follower, Mapping[int, str]]] = {}
"""Thread ident → its follower, and {id of a part: its path}. Empty nearly always."""

_LOCK = threading.Lock()
_HANDLES: list[RemovableHandle] = []


def _before(part: nn.Module, args: object) -> None:
    follower, paths = FOLLOWERS.get(get_ident(), (None, {}))
    path = paths.get(id(part))
    if follower is not None and path is not None:
        follower.enter(path)


def _behind(part: nn.Module, args: object, *rest: object) -> Any:
    output = rest[-1]  # in front of it the keyword arguments, which PyTorch leaves out where forward raised
    follower, paths = FOLLOWERS.get(get_ident(), (None, {}))
    path = paths.get(id(part))
    return output if follower is None or path is None else follower.leave(path, (args, *rest[:-1]), output)


@contextmanager
def following(follower: Follower, module: nn.Module) -> Iterator[None]:
    """Tell `follower` about this thread's calls of a module and its parts.

    The hooks are PyTorch's global ones, so that the modules themselves stay as they are.
    """
    thread = get_ident()
    paths = {id(part): path for path, part in module.named_modules()}
    with _LOCK:
        outer = FOLLOWERS.get(thread)
        if not FOLLOWERS:
            _HANDLES.append(nn_module.register_module_forward_pre_hook(_before))
            _HANDLES.append(nn_module.register_module_forward_hook(_behind, with_kwargs=True, always_call=True))
        FOLLOWERS[thread] = follower, paths
    try:
        yield
    finally:
        with _LOCK:
            if outer is None:
                del FOLLOWERS[thread]
            else:
                FOLLOWERS[thread] = outer
            if not FOLLOWERS:
                while _HANDLES:
                    _HANDLES.pop().remove()


@contextmanager
def unfollowed() -> Iterator[None]:
    """Tell nobody about this thread's calls."""
    thread = get_ident()
    followed = FOLLOWERS.get(thread)
    if followed is None:
        yield
        return
    with _LOCK:
        FOLLOWERS[thread] = _Nobody(), {}
    try:
        yield
    finally:
        with _LOCK:
            FOLLOWERS[thread] = followed
