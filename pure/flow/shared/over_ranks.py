"""Measurements of a batch whose samples are spread over the ranks of a process group.

With `group=` every rank calls a measurement with the same parameters and its own samples, and every rank gets the
result of one process that holds all samples, in the order of the ranks. Sums over samples, such as gradients and
Hessian products, are added; what is kept for each sample, such as norms and quantiles over them, is gathered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError
from pure.flow.shared.input_checks import batch_size
from pure.spmd.agreement import meet, stay_together
from pure.spmd.collective_maps import Call, linear
from pure.spmd.process_group import Group, Ranks, mapped_over, resolve

__all__ = ["ONE_PROCESS", "Reduction", "Whole", "digest", "over_ranks"]

Reduction = Literal["mean", "sum", "same"]
"""What a loss is of its samples: their mean, their sum, or what its own collectives make equal on all ranks."""


@dataclass(frozen=True)
class Whole:
    """What turns one rank's part of a measurement into that of all samples; without ranks it changes nothing.

    Attributes:
        what: the measurement, for messages.
        ranks: the group; None on one process.
        weight: what this rank's loss counts in the loss of all samples.
    """

    what: str
    ranks: Ranks | None = None
    weight: float = 1.0

    def loss(self, value: Tensor) -> Tensor:
        """Return this rank's part of the loss of all samples."""
        return value if self.ranks is None else value * self.weight

    def total(self, tensors: Sequence[Tensor], of: str) -> list[Tensor]:
        """Return the sums over ranks; `torch.func.vmap` maps it."""
        if self.ranks is None or not tensors:
            return list(tensors)
        return list(linear("total", self._call(of), *tensors))

    def shared(self, tensors: Sequence[Tensor], of: str) -> list[Tensor]:
        """Return tensors that are checked to be equal on all ranks.

        Raises:
            RanksDifferError: they are not.
        """
        if self.ranks is None or not tensors:
            return list(tensors)
        return list(linear("enter", self._call(of), *tensors))

    def rows(self, tensor: Tensor, of: str, axis: int = 0) -> Tensor:
        """Return all ranks' parts one after another along an axis."""
        if self.ranks is None:
            return tensor
        call = self._call(of)
        lengths = meet(self.ranks, call.described("lengths", ()), number=tensor.shape[axis])
        call = Call(self.ranks, call.where, call.serial, rows=tuple(map(int, lengths)))
        return linear("gather", call, tensor.detach().movedim(axis, 0).contiguous())[0].movedim(0, axis)

    def numbers(self, number: float, of: str) -> list[float]:
        """Return the number from 0 on that each rank gives."""
        if self.ranks is None:
            return [number]
        return meet(self.ranks, self._call(of).described("numbers", ()), number=number)

    def together(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that runs later, on all ranks, as one of whose errors all ranks hear."""
        if self.ranks is None:
            return run
        ranks = self.ranks

        def guarded(*args: Any) -> Any:
            with stay_together(ranks):
                return run(*args)

        return guarded

    def _call(self, of: str) -> Call:
        assert self.ranks is not None
        return Call.begun(self.ranks, f"{self.what}: {of}")


ONE_PROCESS = Whole("one process")


@contextmanager
def over_ranks(
    what: str,
    group: Group,
    *,
    params: tree.Tree = None,
    batch: Sequence[tree.Tree] | None = None,
    reduction: Reduction | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Whole]:
    """Give what adds up a measurement over ranks, while the code inside may use collectives.

    Args:
        what: the measurement, for messages.
        group: the ranks; None for one process, where nothing is checked or sent.
        params: checked to be the same on all ranks.
        batch: this rank's samples, axis 0; at least one. None where the measurement has no loss of a batch.
        reduction: what the loss is of its samples; None where the measurement has no loss of a batch.
        generator: checked to be in one state on all ranks.

    Raises:
        GroupError: no process group, or a process that is not in it.
        RanksDifferError: parameters or generators differ between ranks, or the ranks are at different calls.
        PeerFailedError: another rank failed.
        ArgumentError: an unknown reduction, or a rank without samples.
    """
    if reduction is not None and reduction not in ("mean", "sum", "same"):
        raise ArgumentError(f"{what} reduction={reduction!r}: expected 'mean', 'sum' or 'same'")
    if group is None:
        yield ONE_PROCESS
        return
    ranks = resolve(group)
    with stay_together(ranks), mapped_over(ranks):
        state = "" if generator is None else f", generator in state {digest(generator)}"
        samples = batch_size(batch) if batch is not None and reduction == "mean" else 1
        counts = meet(ranks, f"the start of {what}{state}", number=samples)
        weight = {"mean": samples / sum(counts), "same": 1 / ranks.size}.get(reduction or "sum", 1.0)
        whole = Whole(what, ranks, weight)
        floats = [leaf for leaf in tree.leaves(params) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        whole.shared([leaf.detach() for leaf in floats], "the parameters")
        yield whole


def digest(generator: torch.Generator) -> str:
    """Return a short text that tells states of a generator apart."""
    return hashlib.blake2b(bytes(generator.get_state().tolist()), digest_size=4).hexdigest()
