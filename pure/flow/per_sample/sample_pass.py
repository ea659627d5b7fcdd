"""One forward and backward pass over a chunk of samples: ghost norms where possible, whole gradients elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch._C._functorch import _add_batch_dim, current_level

from pure import tree
from pure.errors import PureError
from pure.flow.per_sample.linear import Product
from pure.flow.per_sample.norm_layers import Affine
from pure.flow.per_sample.outer_products import row_norms
from pure.flow.per_sample.sample_recorder import RecordedUse, SampleRecorder, TooLargeError
from pure.flow.per_sample.tied_weights import combined_norm, compatible
from pure.flow.per_sample.weight_use import WeightUse
from pure.flow.shared.input_checks import batch_size, explained, in_place_error, scalar
from pure.flow.shared.leaf_provenance import Origin
from pure.tags import tracing

__all__ = ["Chunk", "Method", "Pass", "cut"]

Method = Literal["ghost", "materialised", "unused"]


@dataclass(frozen=True, eq=False)
class Chunk:
    """What one pass gives: losses, norms of leaves and of parts of stacked leaves, and the leaves' methods."""

    losses: Tensor
    leaves: dict[str, Tensor]
    parts: dict[str, Tensor]
    methods: dict[str, Method]


@dataclass(eq=False)
class ForwardPass:
    """What a forward pass recorded, and what the backward pass finds.

    Attributes:
        losses: (batch,).
        anchor: where uses of inputs without a gradient start.
        copies: {dotted leaf: the samples' copies} that the graph reaches.
        uses: those that the graph reaches.
        parts: {origin of a slice: its dotted name}.
        methods: {dotted leaf: how its norms are found}.
        alone: leaves and slices of leaves that are used once, by the ghost method.
        formed: {origin: (batch, *shape)}, sums over the uses.
        kept: {origin: [(use, its inputs, the gradient w.r.t. its outputs)]}.
        norms: {origin: (batch,)}.
    """

    losses: Tensor
    anchor: Tensor
    copies: dict[str, Tensor]
    uses: list[RecordedUse]
    parts: dict[Origin, str]
    methods: dict[str, Method]
    alone: set[Origin]
    formed: dict[Origin, Tensor] = field(default_factory=dict)
    kept: dict[Origin, list[tuple[WeightUse, Tensor, Tensor]]] = field(default_factory=dict)
    norms: dict[Origin, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass over a chunk of samples.

    Attributes:
        loss: of one sample.
        leaves: {dotted name: parameter}.
        spec: structure of the parameters.
        ghost: False to form every gradient.
        budget: bytes for what is formed.
        wanted: the leaves whose gradients are wanted; all of them for None. The others are constants.
    """

    loss: Callable[..., Any]
    leaves: dict[str, Tensor]
    spec: Any
    ghost: bool
    budget: float
    wanted: Collection[str] | None = None

    def forward(self, batch: Sequence[tree.Tree], form: bool = False, room: float = torch.inf) -> ForwardPass:
        """Run the samples, and settle each leaf's method.

        Args:
            batch: the samples.
            form: form the gradient of every leaf that is used.
            room: bytes that what is formed may take.

        Raises:
            TooLargeError: it takes more.
        """
        size = batch_size(batch)
        wanted = {name: leaf for name, leaf in self.leaves.items() if self.wanted is None or name in self.wanted}
        copies = {name: leaf.expand(size, *leaf.shape).requires_grad_() for name, leaf in wanted.items()}
        versions = [copy._version for copy in copies.values()]
        anchor = torch.zeros((), requires_grad=True)
        modes: list[SampleRecorder] = []

        def one(*sample: tree.Tree) -> Tensor:
            values, level = room / size / 8, current_level()
            mapped = {name: _add_batch_dim(copy, 0, level) for name, copy in copies.items()}
            modes.append(SampleRecorder(mapped, wanted, anchor, size, ghost=self.ghost, room=values))
            params = tree.tree_unflatten([mapped.get(n, leaf) for n, leaf in self.leaves.items()], self.spec)
            with modes[-1], tracing():
                return scalar(self.loss(params, *sample), "one sample's")

        try:
            with torch.enable_grad():
                losses = torch.func.vmap(one)(*batch)
        except (RuntimeError, PureError) as error:
            clearer = explained(error)
            if clearer is error:
                raise
            raise clearer from error
        mode = modes[0]
        changed = (use.inputs is None or use.inputs._version != use.version for use in mode.found)
        if any(changed) or [copy._version for copy in copies.values()] != versions:
            raise in_place_error()
        nodes, variables = _reached(losses)
        uses = [use for use in mode.found if use.node in nodes]
        rests = {name: copy for name, copy in copies.items() if id(copy) in variables}
        methods = _methods(wanted, [recorded.use for recorded in uses], rests, form)
        each = sum(
            max(leaf.element_size(), 4) * leaf.numel()
            for name, leaf in wanted.items()
            if methods[name] == "materialised"
        )
        if each * size > room:
            raise TooLargeError
        origins = (origin for recorded in uses for origin in (recorded.use.weight, recorded.use.bias))
        counts = Counter(origin for origin in origins if origin is not None)
        alone = {origin for origin, count in counts.items() if count == 1 and methods[origin.name] == "ghost"}
        for use in mode.found:
            if use.node not in nodes:
                use.inputs = None
        return ForwardPass(losses, anchor, rests, uses, mode.parts, methods, alone)

    def backward(self, run: ForwardPass) -> None:
        """Let each use take what it needs as the gradient w.r.t. its output passes; add what is left of the leaves."""
        for use in run.uses:
            assert use.node is not None
            use.node.register_prehook(partial(self._receive, run, use))
            use.node = None
        targets = [run.anchor, *run.copies.values()]
        if run.losses.requires_grad:
            seed = torch.ones_like(run.losses)
            rests = torch.autograd.grad(run.losses, targets, seed, allow_unused=True)[1:]
            for name, rest in zip(run.copies, rests, strict=True):
                if rest is not None:
                    run.formed[Origin(name)] = self._with(run.formed.get(Origin(name)), rest)
        run.losses = run.losses.detach()

    @staticmethod
    def _with(found: Tensor | None, rest: Tensor) -> Tensor:
        return rest if found is None else found.add_(rest)

    def _receive(self, run: ForwardPass, recorded: RecordedUse, gradients: tuple[Tensor | None, ...]) -> None:
        """Take the gradient w.r.t. one use's output, and let go of its inputs."""
        use, g, x, recorded.inputs = recorded.use, gradients[recorded.number], recorded.inputs, None
        if g is None or x is None:
            return
        weight, bias = use.weight, use.bias
        alone = bias is None or bias in run.alone
        if alone and weight in run.alone and isinstance(use, Product) and len(g) == len(x):
            norms = row_norms(g)
            if bias is not None:
                run.norms[bias] = norms
            run.norms[weight] = norms * row_norms(x)
            return
        g = g.detach().unflatten(0, (len(x), -1))
        if bias is not None:
            self._put(run, bias, use.bias_gradient(g))
        if weight is None:
            return
        if run.methods[weight.name] == "materialised":
            for rows in use.slices(x, self.budget):
                self._whole(run, weight, len(x), rows, use.gradient(x[rows], g[rows]))
        elif isinstance(use, Affine):
            self._put(run, weight, use.gradient(x, g))
        elif weight in run.alone:
            run.norms[weight] = use.norm(x, g, self.budget)
        else:
            run.kept.setdefault(weight, []).append((use, x, g))

    def _put(self, run: ForwardPass, origin: Origin, gradient: Tensor) -> None:
        if run.methods[origin.name] == "materialised":
            self._whole(run, origin, len(gradient), slice(None), gradient)
        elif origin in run.alone:
            run.norms[origin] = row_norms(gradient)
        else:
            found = run.formed.get(origin)
            run.formed[origin] = gradient if found is None else found + gradient

    def _whole(self, run: ForwardPass, origin: Origin, size: int, rows: slice, gradient: Tensor) -> None:
        """Add to the formed gradients of some samples w.r.t. a whole leaf."""
        name, leaf = Origin(origin.name), self.leaves[origin.name]
        if name not in run.formed:
            run.formed[name] = leaf.new_zeros(size, *leaf.shape)
        _part(run.formed[name], origin)[rows] += gradient

    def norms(self, batch: Sequence[tree.Tree], room: float = torch.inf) -> Chunk:
        """Return each sample's loss, and its gradient's norm for each leaf and part of a stacked leaf.

        Raises:
            TooLargeError: what has to be formed takes more than `room` bytes.
        """
        run = self.forward(batch, room=room)
        self.backward(run)
        norms = run.norms
        none = torch.zeros(len(run.losses), dtype=torch.float64, device=run.losses.device)
        for origin, group in run.kept.items():
            norms[origin] = combined_norm(group, self.budget)
        run.kept.clear()
        for origin in list(run.formed):
            gradient = run.formed.pop(origin)
            norms[origin] = row_norms(gradient)
            if run.methods[origin.name] == "materialised":
                slices = [part for part in run.parts if part.name == origin.name]
                norms |= {part: row_norms(_part(gradient, part)) for part in slices}
        pieces: dict[str, list[Tensor]] = {}
        for origin, piece in norms.items():
            if run.methods[origin.name] == "ghost" and origin.path:
                pieces.setdefault(origin.name, []).append(piece)
        norms |= {Origin(name): row_norms(torch.stack(group, 1)) for name, group in pieces.items()}
        parts = {name: norms.get(origin, none) for origin, name in run.parts.items()}
        return Chunk(run.losses, {name: norms.get(Origin(name), none) for name in run.methods}, parts, run.methods)

    def gradients(self, batch: Sequence[tree.Tree]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each sample's loss, and its gradient w.r.t. every wanted leaf: (batch, *shape)."""
        run = self.forward(batch, form=True)
        self.backward(run)
        size = len(run.losses)
        found = {name: run.formed.pop(Origin(name), None) for name in run.methods}
        return run.losses, {
            name: self.leaves[name].new_zeros(size, *self.leaves[name].shape) if gradient is None else gradient
            for name, gradient in found.items()
        }

    def formed(self, batch: Sequence[tree.Tree]) -> set[str]:
        """Return the leaves whose per-sample gradients have to be formed."""
        return {name for name, method in self.forward(batch).methods.items() if method == "materialised"}


def cut(batch: Sequence[tree.Tree], start: int, count: int) -> Any:
    """Return `count` samples of a batch from `start` on, detached."""
    return tree.tree_map(lambda leaf: leaf.detach()[start : start + count], batch)


def _reached(losses: Tensor) -> tuple[set[Any], set[int]]:
    """Return the nodes of the graph below the losses, and the ids of the variables it ends in."""
    nodes = [losses.grad_fn] if losses.grad_fn is not None else []
    met: set[Any] = set(nodes)
    variables = set()
    while nodes:
        node = nodes.pop()
        edges = node.next_functions
        if not edges:
            variables.add(id(getattr(node, "variable", None)))
        for following, _ in edges:
            if following is not None and following not in met:
                met.add(following)
                nodes.append(following)
    return met, variables


def _methods(names: Iterable[str], uses: Sequence[WeightUse], rests: Collection[str], form: bool) -> dict[str, Method]:
    """Return how each leaf's norms are found."""
    by_leaf: dict[str, list[tuple[Origin, WeightUse, bool]]] = {}
    for use in uses:
        for origin in (use.weight, use.bias):
            if origin is not None:
                matrix = origin is use.weight and not isinstance(use, Affine)
                by_leaf.setdefault(origin.name, []).append((origin, use, matrix))
    return {name: _method(by_leaf.get(name, []), name in rests, form) for name in names}


def _method(found: list[tuple[Origin, WeightUse, bool]], rest: bool, form: bool) -> Method:
    """Return one leaf's method: "ghost" needs slices that share no value, each used in one way."""
    if not rest and len(found) < 2:
        return "materialised" if found and form else "ghost" if found else "unused"
    vectors = {origin for origin, _, matrix in found if not matrix}
    matrices: dict[Origin, list[WeightUse]] = {}
    for origin, use, matrix in found:
        if matrix:
            matrices.setdefault(origin, []).append(use)
    if rest or form or vectors & matrices.keys() or not _apart([*vectors, *matrices]):
        return "materialised"
    return "ghost" if all(compatible(group) for group in matrices.values()) else "materialised"


def _apart(origins: Sequence[Origin]) -> bool:
    """Whether the slices of one leaf share no value, so that their squared norms add up."""
    paths = {origin.path for origin in origins}
    return not any(path[:end] in paths for path in paths for end in range(len(path)))


def _part(whole: Tensor, origin: Origin) -> Tensor:
    """Return the view of per-sample gradients (batch, *shape) that belongs to a slice of the leaf."""
    for index in origin.path:
        whole = whole.select(1, index)
    return whole
