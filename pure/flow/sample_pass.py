"""One forward and backward pass over a chunk of samples: ghost norms where they hold, formed gradients elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.errors import PureError
from pure.flow.checks import batch_size, explained, in_place_error, scalar
from pure.flow.ghost import Use, Uses
from pure.flow.outer import outer_norm, outer_sum
from pure.flow.provenance import Origin
from pure.tags import tracing

__all__ = ["Chunk", "Pass", "Road"]

Road = Literal["ghost", "materialised", "unused"]


@dataclass(frozen=True)
class Chunk:
    """What one pass gives: each sample's loss, norms by leaf and by part of stacked leaves, and the leaves' roads."""

    losses: Tensor
    leaves: dict[str, Tensor]
    parts: dict[str, Tensor]
    roads: dict[str, Road]


@dataclass(frozen=True)
class Pass:
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

    def run(self, batch: Sequence[tree.Tree]) -> Chunk:
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
    ) -> Chunk:
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
        return Chunk(losses, {name: norms[Origin(name)] for name in rests}, parts, roads)

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
