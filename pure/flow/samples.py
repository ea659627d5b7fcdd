"""Gradient norms of every sample by itself, without forming the gradients of linear maps and convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, PureError
from pure.flow.checks import batch_size, check_outermost, explained, finite, in_place_error, named_leaves, scalar
from pure.flow.ghost import Use, Uses
from pure.flow.outer import outer_norm, outer_sum
from pure.flow.provenance import Origin, prefixes
from pure.flow.tables import table
from pure.tags import tracing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PerSampleNorms", "per_sample_norms"]

Road = Literal["ghost", "materialised", "unused"]


@dataclass(frozen=True, eq=False)
class PerSampleNorms(Mapping[str, Tensor]):
    """L2 norms of each sample's gradient. As a mapping: {dotted leaf: (batch,)}, float64.

    Attributes:
        leaves: {dotted leaf: (batch,)}.
        blocks: {dotted prefix: (batch,)}, all leaves below it together; the depths of a `Repeat` included.
        total: (batch,), all leaves together.
        losses: (batch,), each sample's loss.
        roads: how each leaf's norms were found: "ghost" (its gradient was never formed), "materialised" (formed, a
            chunk of samples at a time), or "unused" (the loss does not depend on it).
        chunk_size: how many samples were run together.
    """

    leaves: dict[str, Tensor]
    blocks: dict[str, Tensor]
    total: Tensor
    losses: Tensor
    roads: dict[str, Road]
    chunk_size: int

    def __getitem__(self, leaf: str) -> Tensor:
        return self.leaves[leaf]

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)

    def __repr__(self) -> str:
        ghosts = sum(road == "ghost" for road in self.roads.values())
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

    def plot(self) -> Figure:
        """Return the leaf × sample heat-map.

        Raises:
            PlotError: matplotlib is not installed.
        """
        from pure.flow import plot

        return plot.heat(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON."""
        return {
            "leaves": {name: norms.tolist() for name, norms in self.leaves.items()},
            "blocks": {name: norms.tolist() for name, norms in self.blocks.items()},
            "total": self.total.tolist(),
            "losses": self.losses.tolist(),
            "roads": dict(self.roads),
            "chunk_size": self.chunk_size,
        }


def per_sample_norms(
    loss: Callable[..., Any],
    params: tree.Tree,
    *batch: tree.Tree,
    ghost: bool = True,
    chunk_size: int | None = None,
    budget_mib: float = 256.0,
) -> PerSampleNorms:
    """Return ‖∂loss_b/∂leaf‖₂ for every sample b and every leaf, from one forward and one backward pass.

    Where a leaf is the weight or bias of `F.linear` or `F.conv1d/2d/3d`, its per-sample gradient Σ_t g_t ⊗ a_t is never
    formed: for one position the norm is ‖a‖‖g‖, for sequences and images it comes from Gram matrices or from the
    product of a few samples at a time. A leaf that does anything else as well has its per-sample gradients formed, for
    `chunk_size` samples at a time, and only their norms are kept. Both are exact for any pure function. The weight
    must reach `F.linear` as the leaf itself, or as a slice of it as `pure.Repeat` takes; `x @ w.T` is materialised.

    Args:
        loss: `loss(params, *sample)` is ONE sample's scalar loss; the samples have no batch axis, so a block is called
            as `block(params, x[None])`. (`gradient_norms` takes the whole batch's loss instead.)
        params: any tree of floating-point tensors.
        batch: trees of tensors, batch on axis 0.
        ghost: False to materialise every leaf, for comparison.
        chunk_size: samples to run together; by default all of them, fewer where the materialised gradients would exceed
            the budget.
        budget_mib: memory for materialised gradients, and again for unfolded images, in MiB.

    Raises:
        UnsupportedError: batch normalisation by batch statistics, which couples the samples; a loss that draws random
            numbers, branches on values or works in place; a loss that is NaN or infinite.
        ShapeError: one sample's loss is not a scalar, or the batch's leaves disagree in size.
        ArgumentError: no batch, or a leaf of it that is no tensor.
        DtypeError: integer parameters.

    Source: Goodfellow 2015 (1510.01799) for linear maps; Rochette et al. 2019 (1912.06015) for convolutions.

    Example:
        >>> from pure.layers import Linear
        >>> params = {"weight": torch.eye(2), "bias": torch.zeros(2)}
        >>> norms = per_sample_norms(lambda p, x: Linear(2, 2)(p, x[None]).sum(), params, torch.tensor([[3.0, 4.0]]))
        >>> norms["weight"] / 5, norms["bias"]
        (tensor([1.4142], dtype=torch.float64), tensor([1.4142], dtype=torch.float64))
        >>> norms.roads
        {'weight': 'ghost', 'bias': 'ghost'}
    """
    check_outermost("per_sample_norms")
    leaves = named_leaves(loss, params)
    samples = batch_size(batch)
    if chunk_size is not None and chunk_size < 1:
        raise ArgumentError(f"chunk_size={chunk_size}: expected at least 1")
    pass_ = _Pass(loss, leaves, tree.tree_flatten(params)[1], ghost, budget_mib * 2**20)
    chunk_size = min(samples, chunk_size or _chunk(pass_, batch, samples))
    found = [
        pass_.run(tree.tree_map(lambda leaf, at=start: leaf.detach()[at : at + chunk_size], batch))
        for start in range(0, samples, chunk_size)
    ]
    losses = torch.cat([part.losses for part in found])
    finite(losses)
    norms = {name: torch.cat([part.leaves[name] for part in found]) for name in leaves}
    parts = {name: torch.cat([part.parts[name] for part in found]) for name in found[0].parts}
    roads = {name: found[0].roads[name] for name in leaves}
    blocks = _blocks(norms, parts)
    total = blocks[""] if blocks else torch.zeros(samples, dtype=torch.float64, device=losses.device)
    return PerSampleNorms(norms, blocks, total, losses, roads, chunk_size)


@dataclass(frozen=True)
class _Chunk:
    losses: Tensor
    leaves: dict[str, Tensor]
    parts: dict[str, Tensor]
    roads: dict[str, Road]


@dataclass(frozen=True)
class _Pass:
    """One forward and backward pass over a chunk of samples."""

    loss: Callable[..., Any]
    leaves: dict[str, Tensor]
    spec: Any
    ghost: bool
    budget: float

    def forward(self, batch: Sequence[tree.Tree]) -> tuple[Tensor, list[Tensor], Uses]:
        """Return each sample's loss, the samples' copies of the leaves, and what was intercepted on the way."""
        size = batch_size(batch)
        copies = [leaf.expand(size, *leaf.shape).requires_grad_() for leaf in self.leaves.values()]
        modes: list[Uses] = []

        def one(copies: list[Tensor], *sample: tree.Tree) -> Tensor:
            mode = Uses(dict(zip(self.leaves, copies, strict=True)), self.leaves, active=self.ghost)
            modes.append(mode)
            with mode, tracing():
                return scalar(self.loss(tree.tree_unflatten(copies, self.spec), *sample), "one sample's")

        try:
            with torch.enable_grad():
                losses = torch.func.vmap(one)(copies, *batch)
        except (RuntimeError, PureError) as error:
            clearer = explained(error)
            if clearer is error:
                raise
            raise clearer from error
        if any(use.inputs is None or use.inputs._version != use.version for use in modes[0].found):
            raise in_place_error()
        return losses, copies, modes[0]

    def formed(self, batch: Sequence[tree.Tree]) -> set[str]:
        """Return the leaves whose per-sample gradients have to be formed: those that the graph reaches."""
        losses, copies, _ = self.forward(batch)
        names = {id(copy): name for name, copy in zip(self.leaves, copies, strict=True)}
        nodes = [losses.grad_fn]
        met = {losses.grad_fn}
        reached = set()
        while nodes:
            node = nodes.pop()
            reached.add(id(getattr(node, "variable", None)))
            following = {following for following, _ in node.next_functions} - met if node is not None else set()
            met |= following
            nodes.extend(following - {None})
        return {name for leaf, name in names.items() if leaf in reached}

    def run(self, batch: Sequence[tree.Tree]) -> _Chunk:
        """Return each sample's loss, and its gradient's norm by leaf and by part of stacked leaves."""
        losses, copies, mode = self.forward(batch)
        targets: list[Any] = [*(use.output for use in mode.found if use.output is not None), *copies]
        found: Sequence[Tensor | None] = [None] * len(targets)
        if losses.requires_grad and targets:
            found = torch.autograd.grad(losses, targets, torch.ones_like(losses), allow_unused=True)
        count = len(mode.found)
        uses = [
            (use, gradient) for use, gradient in zip(mode.found, found[:count], strict=True) if gradient is not None
        ]
        rests = dict(zip(self.leaves, found[count:], strict=True))
        return self._norms(losses.detach(), uses, rests, mode.parts)

    def _norms(
        self,
        losses: Tensor,
        uses: list[tuple[Use, Tensor]],
        rests: dict[str, Tensor | None],
        part_names: dict[Origin, str],
    ) -> _Chunk:
        norms: dict[Origin, Tensor] = {}
        roads: dict[str, Road] = {}
        none = torch.zeros(len(losses), dtype=torch.float64, device=losses.device)
        by_weight, by_bias = _by_origin(uses, "weight"), _by_origin(uses, "bias")
        for name, rest in rests.items():
            weights, biases = by_weight.get(name, {}), by_bias.get(name, {})
            apart = _apart([*weights, *biases]) and all(
                len({use.groups for use, _ in g}) == 1 for g in weights.values()
            )
            if rest is None and apart:
                roads[name] = "ghost" if weights or biases else "unused"
                pieces = {origin: self._ghost(group) for origin, group in weights.items()}
                pieces |= {o: _norm(sum(use.signals(g).sum(1) for use, g in group)) for o, group in biases.items()}
                norms |= pieces
                norms[Origin(name)] = torch.stack([none, *pieces.values()]).square().sum(0).sqrt()
            else:
                roads[name] = "materialised"
                whole = self._whole(name, rest, weights, biases, len(losses))
                norms[Origin(name)] = _norm(whole)
                for origin in part_names:
                    if origin.name == name:
                        norms[origin] = _norm(_part(whole, origin))
        parts = {part_names[origin]: norms.get(origin, none) for origin in part_names}
        return _Chunk(losses, {name: norms[Origin(name)] for name in rests}, parts, roads)

    def _ghost(self, group: list[tuple[Use, Tensor]]) -> Tensor:
        """Return the norm of the sum of the uses of one weight, a few samples at a time."""
        return torch.cat([outer_norm(*_factors(group, rows)) for rows in self._rows(group)])

    def _rows(self, group: list[tuple[Use, Tensor]]) -> Iterator[slice]:
        """Cut the samples so that unfolded inputs, their gradients and what they are multiplied to fit the budget."""
        first = group[0][0].inputs
        assert first is not None
        size = len(first)
        a, g = _factors(group, slice(0, 1))
        if a.shape[1] == 1:
            yield slice(0, size)
            return
        time, inputs, outputs = a.shape[1], a[0, 0].numel(), g[0, 0].numel()
        each = 8 * (2 * time * (inputs + outputs) + min(2 * time * time * a.shape[2], inputs * outputs))
        step = max(1, int(self.budget // each))
        for start in range(0, size, step):
            yield slice(start, min(start + step, size))

    def _whole(
        self,
        name: str,
        rest: Tensor | None,
        weights: Mapping[Origin, list[tuple[Use, Tensor]]],
        biases: Mapping[Origin, list[tuple[Use, Tensor]]],
        size: int,
    ) -> Tensor:
        """Return the per-sample gradients (batch, *shape) of a leaf."""
        leaf = self.leaves[name]
        whole = leaf.new_zeros(size, *leaf.shape) if rest is None else rest.clone()
        for origin, group in weights.items():
            part = _part(whole, origin)
            for use, gradient in group:
                for rows in self._rows([(use, gradient)]):
                    part[rows] += outer_sum(*use.factors(gradient, rows)).reshape(part[rows].shape)
        for origin, group in biases.items():
            part = _part(whole, origin)
            for use, gradient in group:
                part += use.signals(gradient).sum(1)
        return whole


def _factors(group: list[tuple[Use, Tensor]], rows: slice) -> tuple[Tensor, Tensor]:
    """Return inputs and gradients of all uses of one weight, one behind the other along the time axis."""
    pairs = [use.factors(gradient, rows) for use, gradient in group]
    return torch.cat([a for a, _ in pairs], 1), torch.cat([g for _, g in pairs], 1)


def _by_origin(
    uses: list[tuple[Use, Tensor]], role: Literal["weight", "bias"]
) -> dict[str, dict[Origin, list[tuple[Use, Tensor]]]]:
    """Return the uses in one role by leaf, and by the slice of it that was used."""
    found: dict[str, dict[Origin, list[tuple[Use, Tensor]]]] = {}
    for use, gradient in uses:
        origin = use.weight if role == "weight" else use.bias
        if origin is not None:
            found.setdefault(origin.name, {}).setdefault(origin, []).append((use, gradient))
    return found


def _apart(origins: list[Origin]) -> bool:
    """Whether the slices of one leaf share no value, so that their squared norms add up."""
    paths = {origin.path for origin in origins}
    return len(paths) == len(origins) and not any(path[:end] in paths for path in paths for end in range(len(path)))


def _part(whole: Tensor, origin: Origin) -> Tensor:
    """Return the view of per-sample gradients (batch, *shape) that belongs to a slice of the leaf."""
    for index in origin.path:
        whole = whole.select(1, index)
    return whole


def _norm(gradient: Any) -> Tensor:
    """Return each sample's norm in float64; axes but the first are the gradient's own."""
    return torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1, dtype=torch.float64)


def _blocks(leaves: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add squares under every prefix; parts of stacked leaves count only where no whole leaf does."""
    squares: dict[str, list[Tensor]] = {}
    for name, norms in leaves.items():
        for prefix in prefixes(name):
            squares.setdefault(prefix, []).append(norms.square())
    own = set(squares)
    for name, norms in parts.items():
        for prefix in prefixes(name):
            if prefix not in own:
                squares.setdefault(prefix, []).append(norms.square())
    return {prefix: torch.stack(entries).sum(0).sqrt() for prefix, entries in squares.items()}


def _chunk(pass_: _Pass, batch: Sequence[tree.Tree], samples: int) -> int:
    """Return how many samples' materialised gradients fit the budget; where that is not plain, one sample is tried."""
    sizes = {name: leaf.numel() * max(leaf.element_size(), 4) for name, leaf in pass_.leaves.items()}
    if sum(sizes.values()) * samples <= pass_.budget:
        return samples
    formed = pass_.formed(tree.tree_map(lambda leaf: leaf.detach()[:1], batch)) if pass_.ghost else set(sizes)
    each = sum(sizes[name] for name in formed)
    return samples if each == 0 else max(1, min(samples, math.floor(pass_.budget / each)))
