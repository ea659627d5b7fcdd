"""Norms of per-sample gradients, without forming the gradients of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError
from pure.flow.per_sample.outer_products import row_norms
from pure.flow.per_sample.sample_pass import Chunk, Method, Pass, cut
from pure.flow.per_sample.sample_recorder import TooLargeError
from pure.flow.shared.input_checks import batch_size, check_outermost, finite, named_leaves
from pure.flow.shared.leaf_provenance import by_prefix
from pure.flow.shared.over_ranks import Whole, over_ranks
from pure.flow.shared.result import Readings
from pure.flow.shared.text_table import table
from pure.spmd.process_group import Group

__all__ = ["PerSampleNorms", "per_sample_norms"]


@dataclass(frozen=True, eq=False)
class PerSampleNorms(Readings[str, Tensor]):
    """L2 norms of each sample's gradient. As a mapping: {dotted leaf: (batch,)}, float64.

    Attributes:
        leaves: {dotted leaf: (batch,)}.
        blocks: {dotted prefix: (batch,)}, all leaves below it together; the depths of a `Repeat` included.
        total: (batch,), all leaves together.
        losses: (batch,), each sample's loss.
        methods: how each leaf's norms were found: "ghost" (a matrix's gradient was never formed; a vector's, such as a
            bias or a gain, was summed in passing), "materialised" (formed, a chunk of samples at a time), or "unused"
            (the loss does not depend on it).
        chunk_size: how many samples were run together.
    """

    leaves: dict[str, Tensor]
    blocks: dict[str, Tensor]
    total: Tensor
    losses: Tensor
    methods: dict[str, Method]
    chunk_size: int

    @property
    def _readings(self) -> Mapping[str, Tensor]:
        return self.leaves

    def __repr__(self) -> str:
        ghosts = sum(method == "ghost" for method in self.methods.values())
        return f"PerSampleNorms({len(self.total)} samples, {len(self.leaves)} leaves, {ghosts} of them by ghost norms)"

    def table(self, of: Literal["leaves", "blocks"] = "leaves") -> str:
        """Return a plain text table of the quantiles over the samples.

        Args:
            of: "leaves" or "blocks".

        Raises:
            ArgumentError: another `of`.
        """
        if of not in ("leaves", "blocks"):
            raise ArgumentError(f"table of {of!r}: expected 'leaves' or 'blocks'")
        points = torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64, device=self.total.device)
        chosen = self.leaves if of == "leaves" else self.blocks
        rows = [[name or "(all)", *torch.quantile(norms, points).tolist()] for name, norms in chosen.items()]
        return table(["leaf" if of == "leaves" else "block", "p10", "median", "p90", "max"], rows)


def per_sample_norms(
    loss: Callable[..., Any],
    params: tree.Tree,
    *batch: tree.Tree,
    ghost: bool = True,
    chunk_size: int | None = None,
    budget_mib: float = 256.0,
    group: Group = None,
) -> PerSampleNorms:
    """Return ‖∂loss_b/∂leaf‖₂ for every sample b and every leaf, from one forward and one backward pass.

    Where a leaf is read in a way that is linear in it, its per-sample gradient Σ_t g_t ⊗ a_t is never formed: for one
    position the norm is ‖a‖‖g‖, for sequences and images it comes from Gram matrices or from the product of a few
    samples at a time. That holds for `F.linear`, `@`, `torch.einsum` of an input and a weight, convolutions and
    transposed convolutions, lookups (`F.embedding`, `table[index]`), layer, group, instance and RMS normalisation, and
    batch normalisation in evaluation; also for a leaf that is read several times, as a tied embedding is. The leaf may
    reach them as itself, transposed, or as a slice as `pure.Repeat` takes. A leaf that does anything else as well has
    its per-sample gradients formed, for `chunk_size` samples at a time, and only their norms are kept. Both are exact
    for any pure function.

    Args:
        loss: `loss(params, *sample)` is ONE sample's scalar loss; the samples have no batch axis, so a block is called
            as `block(params, x[None])`. (`gradient_norms` takes the whole batch's loss instead.)
        params: any tree of floating-point tensors.
        batch: trees of tensors, batch on axis 0.
        ghost: False to materialise every leaf, for comparison.
        chunk_size: samples to run together; by default all of them, fewer where the materialised gradients would exceed
            the budget.
        budget_mib: memory for materialised gradients, and again for Gram matrices and products, in MiB.
        group: ranks that each hold a part of the batch, and call this together: a process group or "world"; see
            `pure.spmd`. Every rank gets the result of all samples.
            The samples' norms are gathered.

    Raises:
        UnsupportedError: batch normalisation by batch statistics, which couples the samples; a loss that draws random
            numbers, branches on values or works in place; a loss that is NaN or infinite.
        ShapeError: one sample's loss is not a scalar, or the batch's leaves disagree in size.
        ArgumentError: no batch, or a leaf of it that is no tensor.
        DtypeError: integer parameters.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Source: Goodfellow 2015 (1510.01799) for linear maps; Rochette et al. 2019 (1912.06015) for convolutions; Bu et al.
    2022 (2205.10683) for the choice between Gram matrices and products.

    Example:
        >>> from pure.layers import Linear
        >>> params = {"weight": torch.eye(2), "bias": torch.zeros(2)}
        >>> norms = per_sample_norms(lambda p, x: Linear(2, 2)(p, x[None]).sum(), params, torch.tensor([[3.0, 4.0]]))
        >>> norms["weight"] / 5, norms["bias"]
        (tensor([1.4142], dtype=torch.float64), tensor([1.4142], dtype=torch.float64))
        >>> norms.methods
        {'weight': 'ghost', 'bias': 'ghost'}
    """
    check_outermost("per_sample_norms")
    with over_ranks("per_sample_norms", group, params=params) as whole:
        return _norms(loss, params, batch, ghost, chunk_size, budget_mib, whole)


def _norms(
    loss: Callable[..., Any],
    params: tree.Tree,
    batch: tuple[Any, ...],
    ghost: bool,
    chunk_size: int | None,
    budget_mib: float,
    whole: Whole,
) -> PerSampleNorms:
    leaves = named_leaves(loss, params)
    samples = batch_size(batch)
    if chunk_size is not None and chunk_size < 1:
        raise ArgumentError(f"chunk_size={chunk_size}: expected at least 1")
    pass_ = Pass(loss, leaves, tree.tree_flatten(params)[1], ghost, budget_mib * 2**20)
    chunk_size, found = _run(pass_, batch, samples, chunk_size)
    losses = _joined([part.losses for part in found])
    finite(losses)
    norms = {name: _joined([part.leaves[name] for part in found]) for name in leaves}
    parts = {name: _joined([part.parts[name] for part in found]) for name in found[0].parts}
    if whole.ranks is not None:
        losses = whole.rows(losses, "losses")
        together = whole.rows(torch.stack([*norms.values(), *parts.values()]), "norms", 1).unbind() if norms else ()
        norms, parts = dict(zip(norms, together, strict=False)), dict(zip(parts, together[len(norms) :], strict=True))
        samples, chunk_size = len(losses), int(max(whole.numbers(chunk_size, "chunks")))
    methods = {name: found[0].methods[name] for name in leaves}
    blocks = _blocks(norms, parts)
    total = blocks[""] if blocks else torch.zeros(samples, dtype=torch.float64, device=losses.device)
    return PerSampleNorms(norms, blocks, total, losses, methods, chunk_size)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _blocks(leaves: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add squares under every prefix; parts of stacked leaves count only where no whole leaf does."""
    members = by_prefix(leaves, parts)
    if not members:
        return {}
    row = {name: at for at, name in enumerate([*leaves, *parts])}
    norms = torch.stack([*leaves.values(), *parts.values()])
    groups = [[row[name] for name in names] for names in members.values()]
    return dict(zip(members, _added(norms, groups), strict=True))


def _added(norms: Tensor, groups: Collection[list[int]]) -> Sequence[Tensor]:
    """Return √Σ norms² over each group of rows; all at once, unless a square would leave the range of float64."""
    if not ((norms == 0) | ((norms > 1e-140) & (norms < 1e140))).all():
        return [row_norms(norms[rows].T) for rows in groups]
    rows = torch.tensor([row for group in groups for row in group], device=norms.device)
    lengths = torch.tensor([len(group) for group in groups], device=norms.device)
    return torch.segment_reduce(norms.square()[rows], "sum", lengths=lengths, axis=0).sqrt().unbind()


def _run(pass_: Pass, batch: Sequence[tree.Tree], samples: int, chunk_size: int | None) -> tuple[int, list[Chunk]]:
    """Return how many samples were run together, and what each chunk of them gave."""
    if chunk_size is None:
        sizes = {name: leaf.numel() * max(leaf.element_size(), 4) for name, leaf in pass_.leaves.items()}
        room = math.inf if sum(sizes.values()) * samples <= pass_.budget else pass_.budget
        if pass_.ghost or room == math.inf:
            try:
                return samples, [pass_.norms(cut(batch, 0, samples), room)]
            except TooLargeError:
                pass  # something is formed: find out what from one sample
        formed = pass_.formed(cut(batch, 0, 1)) if pass_.ghost else set(sizes)
        each = sum(sizes[name] for name in formed)
        chunk_size = samples if each == 0 else max(1, math.floor(pass_.budget / each))
    chunk_size = min(samples, chunk_size)
    return chunk_size, [pass_.norms(cut(batch, at, chunk_size)) for at in range(0, samples, chunk_size)]
