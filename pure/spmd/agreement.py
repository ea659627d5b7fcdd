"""What ranks compare before they exchange data: that all are at one call, with equal shapes, and that none has failed.

Every collective begins with a small message on a group of its own: a hash of the call. If the hashes differ, or a rank
has failed, all ranks learn of it in the same exchange and raise; data is sent only when all agree. So no collective can
be paired with that of another call, and an error on one rank reaches the others at their next collective.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from pure.errors import PeerFailedError, PureError, RanksDifferError, UnsupportedError
from pure.spmd.process_group import Group, Ranks, resolve

__all__ = ["NOTHING", "Alike", "connected", "guard", "meet", "outside_of_transforms", "stay_together"]

MESSAGE_BYTES = 2_048
"""Length of the text that a rank sends about itself when something is wrong."""

LOST = re.compile(
    r"clos|reset|timed? ?out|refused|pipe|abort|unreachable|peer|connect|socket|terminated|wait|shut ?down",
    re.IGNORECASE,
)
"""What PyTorch's errors say when a rank cannot be reached; other errors are about the data."""

ANNOUNCED = "_announced_to"
"""The attribute of an error with the groups that know of it."""


@contextmanager
def outside_of_transforms() -> Iterator[None]:
    """Run code as if no transform of torch.func were active, and nothing were differentiated."""
    with temporarily_clear_interpreter_stack(), torch.no_grad():
        yield


@contextmanager
def connected(ranks: Ranks, what: str) -> Iterator[None]:
    """Turn what PyTorch raises inside a collective into a typed error.

    Raises:
        PeerFailedError: a rank has ended, or did not come in time.
        UnsupportedError: the backend does not take the data.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, PureError):
            raise
        lines = re.sub(r"\[/\S+\]\s*", "", str(error)).strip().splitlines()  # without PyTorch's source files
        text = lines[0].partition(". This is")[0] if lines else type(error).__name__
        if LOST.search(text):
            failed = PeerFailedError(
                f"rank {ranks.rank} of {ranks.size} waited in {what} for a rank that has ended or did not come in time "
                f"(PyTorch says: {text}): the first error is that of the rank that ended"
            )
            setattr(failed, ANNOUNCED, {id(ranks)})
            raise failed from error
        raise UnsupportedError(
            f"{what}: the backend {dist.get_backend(ranks.group)!r} does not take it ({text})"
        ) from error


@dataclass(frozen=True)
class Alike:
    """Numbers that must be equal on all ranks, up to a tolerance, as three sums over values are.

    Attributes:
        total: the sum of the values.
        magnitude: the sum of their magnitudes, which the tolerance is relative to.
        strange: how many values are not finite.
        tolerance: the relative difference that rounding explains.
        fix: what to do where they differ.
    """

    total: float
    magnitude: float
    strange: float
    tolerance: float
    fix: str


NOTHING = Alike(0.0, 0.0, 0.0, 0.0, "")


def _hash(text: str) -> float:
    return float(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big"))


def meet(ranks: Ranks, what: str, *, alike: Alike = NOTHING, failure: str = "", number: float = 0.0) -> list[float]:
    """Return when all ranks are at the same call and none has failed.

    Args:
        ranks: the group.
        what: the call with shapes and dtypes, which must be the same on all ranks.
        alike: sums of values that must be the same.
        failure: the error that this rank is about to raise, if so; it returns here, and the others raise.
        number: any number from 0 on, which the others want to know.

    Returns:
        every rank's number, in order.

    Raises:
        PeerFailedError: another rank reports a failure, or cannot be reached.
        RanksDifferError: the ranks are at different calls, or at one with different sums.
    """
    if ranks.size == 1:
        return [number]
    mine = _hash(what)
    sums = [alike.total, alike.magnitude, alike.strange]
    numbers = [number if rank == ranks.rank else 0.0 for rank in range(ranks.size)]
    with outside_of_transforms():
        sent = [mine, -mine, bool(failure), *sums, *(-number for number in sums), *numbers]
        header = torch.tensor(sent, dtype=torch.float64, device="cpu")
        with connected(ranks, what):
            dist.all_reduce(header, op=dist.ReduceOp.MAX, group=ranks.checks)
        high, low, failed, *found = header.tolist()
        spread = [found[i] + found[3 + i] for i in range(3)]
        bound = alike.tolerance * found[1]
        same = high == -low
        if same and not failed and spread[0] <= bound and spread[1] <= bound and not spread[2]:
            return found[6:]
        ranks.calls = 0  # all ranks are here; they count anew together, if they go on
        told = failure if failed else f"{alike.total:.8g}" if same else what
        said = _texts(ranks, told, what)
    if failure:
        return found[6:]
    error: PureError
    if failed:
        first = next(rank for rank, text in enumerate(said) if text)
        error = PeerFailedError(f"rank {first} failed while rank {ranks.rank} was in {what}: {said[first]}")
    elif same:
        error = RanksDifferError(f"{what} differs between ranks, with sums {', '.join(said)}: {alike.fix}")
    else:
        places: dict[str, list[int]] = {}
        for rank, text in enumerate(said):
            places.setdefault(text, []).append(rank)
        lines = "".join(f"\n  - {_named(at)}: {text}" for text, at in places.items())
        error = RanksDifferError(f"the ranks are at different calls, or at one with different sizes:{lines}")
    setattr(error, ANNOUNCED, {id(ranks)})
    raise error


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _texts(ranks: Ranks, text: str, what: str) -> list[str]:
    """Return what each rank says."""
    raw = text.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b"\0")
    own = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    parts = [torch.empty_like(own) for _ in range(ranks.size)]
    with connected(ranks, what):
        dist.all_gather(parts, own, group=ranks.checks)
    return [bytes(part.tolist()).rstrip(b"\0").decode(errors="replace") for part in parts]


def _announce(ranks: Ranks, error: BaseException) -> None:
    """Tell the other ranks of an error that this one is about to raise, unless they know."""
    known: set[int] = getattr(error, ANNOUNCED, set())
    if ranks.size == 1 or id(ranks) in known:
        return
    text = f"{type(error).__name__}: {error}"
    try:
        meet(ranks, "an error", failure=text)
    except PeerFailedError as lost:  # nobody is left to be told
        error.add_note(f"the other ranks could not be told: {lost}")
    if hasattr(error, "__dict__"):
        setattr(error, ANNOUNCED, known | {id(ranks)})


@contextmanager
def stay_together(ranks: Ranks) -> Iterator[None]:
    """Tell the other ranks of an error that leaves the code inside; they raise at their next collective."""
    try:
        yield
    except BaseException as error:
        _announce(ranks, error)
        raise


@contextmanager
def guard(group: Group = "world") -> Iterator[None]:
    """Raise on all ranks if one of them raises inside, and leave only when all have come to the end.

    `shard_map` and the measurements with `group=` are guarded already. Around a whole program it covers what lies
    between them, reading data for example.

    Raises:
        PeerFailedError: another rank raised; it quotes its error.
        RanksDifferError: the ranks did not make the same calls.

    Example:
        >>> from pure import spmd
        >>> def main():
        ...     with spmd.guard():
        ...         batch = read_this_ranks_part()
        ...         step(batch)
    """
    ranks = resolve(group)
    with stay_together(ranks):
        yield
        meet(ranks, "the end of a guarded part")
