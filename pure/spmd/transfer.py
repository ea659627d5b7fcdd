"""Values that go from rank to rank: to the neighbour, or from each rank to all.

What is sent may be anything that pickles, with tensors in it, which travel beside it on the group's own backend. All
ranks call these functions together, whether they have something to send or not, and meet first.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pure.errors import UnsupportedError
from pure.spmd.agreement import connected, meet
from pure.spmd.process_group import Ranks

__all__ = ["collected", "shifted"]


class _Pickler(pickle.Pickler):
    """Leaves tensors out and keeps them in a list."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: Any) -> int | None:
        """Return a tensor's place in the list."""
        if not isinstance(value, Tensor):
            return None
        self.tensors.append(value)
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    """Puts the tensors of a list in their places."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, place: Any) -> Tensor:
        """Return the tensor of a place."""
        return self.tensors[place]


def _packed(value: Any, what: str) -> tuple[bytes, list[Tensor]]:
    """Return a value as bytes without its tensors, and these.

    Raises:
        UnsupportedError: something in it does not pickle.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UnsupportedError(
            f"{what}: what goes from one rank to another holds something that does not pickle ({error}): expected "
            "tensors, numbers and plain containers"
        ) from error
    tensors = [tensor.detach().contiguous() for tensor in pickler.tensors]
    described = [(tuple(tensor.shape), tensor.dtype, tensor.device.type) for tensor in tensors]
    return pickle.dumps((described, file.getvalue())), tensors


def _flat(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor's memory as numbers that every backend sends."""
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


def shifted(ranks: Ranks, what: str, value: Any, *, by: int) -> Any:
    """Return what the rank `by` places below gives, None where there is no such rank or it gives None.

    Args:
        ranks: the group.
        what: the step, which must be the same on all ranks.
        value: what this rank gives; None for nothing.
        by: 1 or −1.

    Raises:
        PeerFailedError: another rank failed.
        RanksDifferError: the ranks are at different calls.
        UnsupportedError: something that does not pickle, or a tensor that the backend does not take.
    """
    target, source = ranks.rank + by, ranks.rank - by
    gives = value is not None and 0 <= target < ranks.size
    message, tensors = _packed(value, what) if gives else (b"", [])
    lengths = meet(ranks, what, number=len(message))
    coming = int(lengths[source]) if 0 <= source < ranks.size else 0
    with connected(ranks, what):
        waiting = []
        if gives:
            own = torch.frombuffer(bytearray(message), dtype=torch.uint8)
            waiting.append(dist.isend(own, _global(ranks, target), group=ranks.checks))
        described, body = [], b""
        if coming:
            theirs = torch.empty(coming, dtype=torch.uint8)
            dist.recv(theirs, _global(ranks, source), group=ranks.checks)
            described, body = pickle.loads(theirs.numpy().tobytes())
        received = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype, device in described]
        moves: list[tuple[Callable[..., Any], list[Tensor], int]] = [
            (dist.isend, tensors, target),
            (dist.irecv, received, source),
        ]
        operations = [
            dist.P2POp(move, _flat(tensor), _global(ranks, peer), group=ranks.group)
            for move, some, peer in moves
            for tensor in some
            if tensor.numel()
        ]
        waiting += dist.batch_isend_irecv(operations) if operations else []
        for work in waiting:
            if work is not None:
                work.wait()
    return _Unpickler(io.BytesIO(body), received).load() if coming else None


def _global(ranks: Ranks, rank: int) -> int:
    return dist.get_global_rank(ranks.group, rank)


def collected(ranks: Ranks, what: str, value: Any) -> list[Any]:
    """Return what each rank gives, in their order, on every rank; its tensors come on the CPU.

    Raises:
        PeerFailedError: another rank failed.
        RanksDifferError: the ranks are at different calls.
    """
    if ranks.size == 1:
        return [value]
    message = pickle.dumps(value)
    lengths = [int(length) for length in meet(ranks, what, number=len(message))]
    own = torch.zeros(max(lengths), dtype=torch.uint8)
    own[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    parts = [torch.empty_like(own) for _ in lengths]
    with connected(ranks, what):
        dist.all_gather(parts, own, group=ranks.checks)
    return [pickle.loads(part[:length].numpy().tobytes()) for part, length in zip(parts, lengths, strict=True)]
