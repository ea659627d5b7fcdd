"""Which ranks take part in a collective, and which groups the running code is mapped over."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
import torch.distributed as dist

from pure.errors import ArgumentError, GroupError, UnsupportedError

__all__ = ["Group", "Ranks", "eager", "inside", "is_mapped", "mapped_over", "raise_if_recorded", "resolve"]

Group = Any
"""A `torch.distributed.ProcessGroup`, a `DeviceMesh` of one axis, or "world" for all ranks."""

WORLD = "world"

F = TypeVar("F", bound=Callable[..., Any])


class Ranks:
    """A process group as one of its ranks sees it.

    It keeps no process group alive: one that outlives `destroy_process_group` can abort the interpreter at its end.

    Attributes:
        rank: this process in the group.
        size: how many ranks there are.
        calls: how many collectives were begun in forward passes, equal on all ranks.
    """

    def __init__(self, group: dist.ProcessGroup, checks: dist.ProcessGroup) -> None:
        self._group, self._checks = ref(group), ref(checks)
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.calls = 0

    @property
    def group(self) -> dist.ProcessGroup:
        """The process group, which carries the data."""
        return _alive(self._group)

    @property
    def checks(self) -> dist.ProcessGroup:
        """A gloo group of the same ranks, which carries what they compare, and nothing else pairs with it."""
        return _alive(self._checks)


def _alive(group: ref[dist.ProcessGroup]) -> dist.ProcessGroup:
    found = group()
    if found is None:
        raise GroupError("the process group was destroyed: initialise one again, and take the measurement again")
    return found


_KNOWN: WeakKeyDictionary[dist.ProcessGroup, Ranks] = WeakKeyDictionary()


def eager(function: F) -> F:
    """Return the function as one that `torch.compile` leaves alone."""
    left: F = torch.compiler.disable(function)
    return left


class _Active(threading.local):
    """The groups that the code running in this thread is mapped over, outermost first."""

    def __init__(self) -> None:
        self.groups: list[Ranks] = []


_ACTIVE = _Active()


def _process_group(given: Group) -> dist.ProcessGroup:
    if not dist.is_available() or not dist.is_initialized():
        raise GroupError(
            "no process group: call torch.distributed.init_process_group('gloo') or ('nccl') first, and start the "
            "processes by torchrun --nproc-per-node 2 script.py"
        )
    if given is None or given == WORLD:
        return dist.group.WORLD  # type: ignore[return-value]
    if isinstance(given, dist.ProcessGroup):
        return given
    if hasattr(given, "get_group"):
        if given.ndim != 1:
            raise ArgumentError(f"group is a DeviceMesh of {given.ndim} axes: choose one, as in mesh['data']")
        return given.get_group()
    if given == dist.GroupMember.NON_GROUP_MEMBER:
        raise GroupError("this process is in no rank of the group: call it on the group's ranks only")
    raise ArgumentError(
        f"group is {type(given).__name__}: expected a ProcessGroup, a DeviceMesh of one axis or 'world'"
    )


def resolve(given: Group) -> Ranks:
    """Return the ranks of a group; the first call of a group makes its group of checks, on all of its ranks.

    Raises:
        GroupError: no process group is initialised, or this process is not in it.
        ArgumentError: no group at all.
    """
    group = _process_group(given)
    known = _KNOWN.get(group)
    if known is None:
        if dist.get_rank(group) < 0:
            raise GroupError("this process is not a rank of the group: call it on the group's ranks only")
        known = _KNOWN[group] = Ranks(group, _made_for_checks(group))
    return known


def _made_for_checks(group: dist.ProcessGroup) -> dist.ProcessGroup:
    if not dist.is_gloo_available() or dist.get_backend(group) == "fake":
        return group
    made: Any = dist.new_group(
        dist.get_process_group_ranks(group),
        timeout=_timeout(group),
        backend="gloo",
        use_local_synchronization=True,
        group_desc="pure.spmd checks",
    )
    return made


@atexit.register
def _end_groups_of_checks() -> None:
    """End the groups made here in a process that ends without `destroy_process_group`, as after an error.

    A gloo group beside the default one that is still alive there aborts the interpreter now and then (PyTorch 2.15),
    and the process ends by a signal instead of its error's exit status.
    """
    for ranks in list(_KNOWN.values()):
        group, checks = ranks._group(), ranks._checks()
        if checks is not None and checks is not group and dist.is_initialized():
            dist.destroy_process_group(checks)


def _timeout(group: dist.ProcessGroup) -> timedelta | None:
    """Return how long the group's own collectives wait for a rank; None for PyTorch's default."""
    for device in ("cpu", "cuda"):
        try:
            return group._get_backend(torch.device(device)).options._timeout
        except (AttributeError, RuntimeError):  # no backend for the device, or one without options
            continue
    return None


@contextmanager
def mapped_over(ranks: Ranks) -> Iterator[None]:
    """Let the code inside use collectives over `ranks`.

    Raises:
        GroupError: it is mapped over them already.
    """
    if ranks in _ACTIVE.groups:
        raise GroupError("shard_map inside a shard_map over the same group: one of them is enough")
    _ACTIVE.groups.append(ranks)
    try:
        yield
    finally:
        _ACTIVE.groups.pop()


def raise_if_recorded(what: str) -> None:
    """Raise if operations are being recorded, as for an ONNX file: a collective would be lost.

    Raises:
        UnsupportedError: they are.
    """
    modes = (torch._C._TorchDispatchModeKey.PROXY, torch._C._TorchDispatchModeKey.FAKE)
    if any(torch._C._get_dispatch_mode(mode) is not None for mode in modes):
        raise UnsupportedError(
            f"{what} is being recorded: a file runs on one process and cannot hold a collective; export the function "
            "of one process, without shard_map and with group=None, whose values are the same"
        )


def is_mapped() -> bool:
    """Return whether the running code is mapped over ranks, so that nothing may run twice on one of them."""
    return bool(_ACTIVE.groups)


def inside(given: Group, what: str) -> Ranks:
    """Return the ranks of a group that the running code is mapped over; of None, of the innermost.

    Args:
        given: the group, or None.
        what: the caller, for the message.

    Raises:
        UnsupportedError: operations are being recorded.
        GroupError: the code is not mapped over the group, where a derivative would be wrong without a word.
    """
    raise_if_recorded(what)
    ranks = resolve(given) if given is not None or not _ACTIVE.groups else _ACTIVE.groups[-1]
    if ranks not in _ACTIVE.groups:
        raise GroupError(
            f"{what} outside of spmd.shard_map over its group: the gradient of the sum of all ranks' losses would be "
            "taken once a rank; write shard_map(fn, sharded=…)(…) around the function that calls it"
        )
    return ranks
