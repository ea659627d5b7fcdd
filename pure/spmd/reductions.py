"""What a function under `shard_map` calls to see the other ranks: sums, means and concatenation."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import eval_frame

from pure import tree
from pure.errors import ArgumentError, DtypeError, ShapeError
from pure.spmd.agreement import meet
from pure.spmd.collective_maps import Call, linear
from pure.spmd.process_group import Group, eager, inside, resolve

__all__ = ["count_over_ranks", "gather", "pmean", "psum", "rank", "shard", "size"]


OWN_FILES = (__file__, eval_frame.__file__)
"""Files between a collective and the line of the program that called it."""


def caller(what: str) -> str:
    """Return `what` with the file and line of the program that called it."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename in OWN_FILES and frame.f_back is not None:
        frame = frame.f_back
    return f"{what} at {os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _tensors(values: tree.Tree, what: str) -> tuple[list[Tensor], Any]:
    leaves, spec = tree.tree_flatten(values)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise ArgumentError(f"{what} of {type(leaf).__name__}: expected tensors, as torch.tensor({leaf!r})")
    return leaves, spec


@eager
def psum(x: tree.Tree, group: Group = None) -> tree.Tree:
    """Return the sum over ranks, on every rank; all transforms of torch.func go through it.

    Args:
        x: a tree of tensors, of the same shapes on all ranks.
        group: the ranks to add over; by default those of the surrounding `shard_map`.

    Raises:
        GroupError: it is not called inside of a `shard_map` over the group.
        RanksDifferError: shapes or dtypes differ between ranks, or the ranks are at different calls.
        ArgumentError: a leaf that is no tensor.
        UnsupportedError: a tensor that is being recorded.
        PeerFailedError: another rank failed.
    """
    ranks = inside(group, "psum")
    leaves, spec = _tensors(x, "psum")
    if not leaves:
        return x
    return tree.tree_unflatten(list(linear("psum", Call.begun(ranks, caller("psum")), *leaves)), spec)


@eager
def pmean(x: tree.Tree, group: Group = None, *, weight: float | None = None) -> tree.Tree:
    """Return the mean over ranks, on every rank; with weights, Σ weight · x / Σ weight.

    The mean of all samples is `pmean(loss.mean(), weight=len(loss))`, however many of them each rank holds.

    Args:
        x: a tree of floating-point tensors, of the same shapes on all ranks.
        group: the ranks to average over; by default those of the surrounding `shard_map`.
        weight: this rank's weight, such as its number of samples; a rank of weight 0 counts as zeros.

    Raises:
        DtypeError: integers, which have no mean of their dtype.
        ArgumentError: a negative weight, weights that are all 0, or a leaf that is no tensor.
        GroupError: it is not called inside of a `shard_map` over the group.
        RanksDifferError: shapes or dtypes differ between ranks, or the ranks are at different calls.
        PeerFailedError: another rank failed.
    """
    ranks = inside(group, "pmean")
    leaves, spec = _tensors(x, "pmean")
    if not leaves:
        return x
    for leaf in leaves:
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise DtypeError(f"pmean of {leaf.dtype}: expected floating point: convert it, or use psum")
    call = Call.begun(ranks, caller("pmean"))
    own, total = 1.0, float(ranks.size)
    if weight is not None:
        own = float(weight)
        if not 0 <= own < math.inf:
            raise ArgumentError(f"pmean weight={weight}: expected a number from 0 on")
        total = sum(meet(ranks, call.described("weights", ()), number=own))
        if total == 0:
            raise ArgumentError("pmean: the weights of all ranks are 0: give at least one rank a sample")
    scaled = [leaf * (own / total) if own else _zeros(leaf) for leaf in leaves]
    return tree.tree_unflatten(list(linear("psum", call, *scaled)), spec)


def count_over_ranks(number: float, group: Group, what: str) -> float:
    """Return the sum over ranks of a plain number from 0 on, such as how many samples each has.

    Raises:
        GroupError: it is not called inside of a `shard_map` over the group.
        RanksDifferError: the ranks are at different calls.
        PeerFailedError: another rank failed.
    """
    ranks = inside(group, what)
    return sum(meet(ranks, Call.begun(ranks, caller(what)).described("numbers", ()), number=number))


def _zeros(leaf: Tensor) -> Tensor:
    """Return zeros that depend on the leaf, so that every rank has the same backward pass."""
    return torch.where(torch.ones_like(leaf, dtype=torch.bool), 0.0, leaf)


@eager
def gather(x: tree.Tree, group: Group = None) -> tree.Tree:
    """Return every rank's rows, one rank after another, on every rank: (n_r, …) to (Σ n_r, …).

    Args:
        x: a tree of tensors, of any length along axis 0 on each rank and otherwise of equal shapes.
        group: the ranks; by default those of the surrounding `shard_map`.

    Raises:
        ShapeError: a tensor without axes.
        GroupError: it is not called inside of a `shard_map` over the group.
        RanksDifferError: shapes behind axis 0 or dtypes differ, or the ranks are at different calls.
        PeerFailedError: another rank failed.
    """
    ranks = inside(group, "gather")
    leaves, spec = _tensors(x, "gather")
    where = caller("gather")

    def joined(leaf: Tensor) -> Tensor:
        if leaf.ndim == 0:
            raise ShapeError("gather of a tensor without axes: expected rows along axis 0: x[None]")
        call = Call.begun(ranks, where)
        rows = tuple(map(int, meet(ranks, call.described("lengths", ()), number=leaf.shape[0])))
        return linear("gather", replace(call, rows=rows), leaf)[0]

    return tree.tree_unflatten([joined(leaf) for leaf in leaves], spec)


def rank(group: Group = None) -> int:
    """Return which rank of the group this process is, from 0 on.

    Raises:
        GroupError: no process group, or a process that is not in it.
    """
    return resolve(group).rank


def size(group: Group = None) -> int:
    """Return how many ranks the group has.

    Raises:
        GroupError: no process group, or a process that is not in it.
    """
    return resolve(group).size


def shard(x: tree.Tree, group: Group = None) -> tree.Tree:
    """Return this rank's rows of what every rank holds whole; the first ranks get the rows that are left over.

    Raises:
        GroupError: no process group, or a process that is not in it.
        ArgumentError: a leaf that is no tensor.
        ShapeError: a tensor without axes.
    """
    ranks = resolve(group)
    leaves, spec = _tensors(x, "shard")
    if any(leaf.ndim == 0 for leaf in leaves):
        raise ShapeError("shard of a tensor without axes: expected rows along axis 0; leave it out of the tree")
    return tree.tree_unflatten([leaf.tensor_split(ranks.size)[ranks.rank] for leaf in leaves], spec)
