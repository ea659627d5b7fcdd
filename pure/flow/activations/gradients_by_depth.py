"""Gradient norms of a whole batch's loss: by leaf, by block, and of the activations by depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, UnsupportedError
from pure.flow.shared.input_checks import check_outermost, finite, named_leaves, scalar
from pure.flow.shared.leaf_provenance import Provenance, by_prefix
from pure.flow.shared.over_ranks import Reduction, Whole, over_ranks
from pure.flow.shared.result import Readings
from pure.flow.shared.text_table import table
from pure.flow.shared.tracked_leaves import tracked
from pure.spmd.process_group import Group
from pure.tags import Tagged, observe

__all__ = ["ActivationGradient", "GradientNorms", "ParameterGradient", "gradient_norms"]

BAND = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class ParameterGradient:
    """The gradient w.r.t. one leaf or all leaves of one block.

    Attributes:
        l2: Euclidean norm.
        rms: root mean square over its values, l2 / √size.
        size: how many values it has.
    """

    l2: float
    rms: float
    size: int


@dataclass(frozen=True, eq=False)
class ActivationGradient:
    """∂loss/∂h for one tagged value h.

    Attributes:
        path: where it was tagged, such as "layers.3.stream".
        kind: "stream", "branch", … as tagged.
        depth: 0 for the first tagged value of its kind that the function computed, then 1, ….
        l2: Euclidean norm over the whole batch.
        rms: l2 / √(number of values).
        sample_l2: (batch,), the norm of each sample's part; float64, on the CPU.
        p10: 10% quantile of `sample_l2` over the samples.
        median: its median.
        p90: its 90% quantile.
    """

    path: str
    kind: str
    depth: int
    l2: float
    rms: float
    sample_l2: Tensor
    p10: float
    median: float
    p90: float


@dataclass(frozen=True, eq=False)
class GradientNorms(Readings[str, float]):
    """Gradient norms of one loss. As a mapping: {dotted leaf: L2 norm}.

    Attributes:
        loss: the loss itself.
        leaves: {dotted leaf: its gradient}.
        blocks: {dotted prefix: the gradient w.r.t. all leaves below it}; "" is the whole network. The depths of a
            `Repeat`, whose leaves are stacked, stand beside the leaves' own prefixes, as `layers.0`, `layers.1`, ….
        activations: {path: ∂loss/∂(tagged value)} in the order of depth.
    """

    loss: float
    leaves: dict[str, ParameterGradient]
    blocks: dict[str, ParameterGradient]
    activations: dict[str, ActivationGradient]

    @cached_property
    def _readings(self) -> Mapping[str, float]:
        return {name: leaf.l2 for name, leaf in self.leaves.items()}

    def __repr__(self) -> str:
        total = f", total l2={self.blocks[''].l2:.4g}" if self.blocks else ""
        return (
            f"GradientNorms(loss={self.loss:.4g}{total}, {len(self.leaves)} leaves, {len(self.blocks)} blocks, "
            f"{len(self.activations)} activations)"
        )

    def table(self, of: Literal["leaves", "blocks", "activations"] = "leaves") -> str:
        """Return a plain text table.

        Args:
            of: "leaves", "blocks" or "activations".

        Raises:
            ArgumentError: another `of`.
        """
        if of == "activations":
            rows: list[list[Any]] = [
                [path, a.kind, a.depth, a.l2, a.rms, a.p10, a.median, a.p90] for path, a in self.activations.items()
            ]
            return table(["activation", "kind", "depth", "l2", "rms", "sample p10", "median", "p90"], rows)
        if of not in ("leaves", "blocks"):
            raise ArgumentError(f"table of {of!r}: expected 'leaves', 'blocks' or 'activations'")
        chosen = self.leaves if of == "leaves" else self.blocks
        rows = [[name or "(all)", g.l2, g.rms, g.size] for name, g in chosen.items()]
        return table(["leaf" if of == "leaves" else "block", "l2", "rms", "values"], rows)


def gradient_norms(
    loss: Callable[..., Any],
    params: tree.Tree,
    *batch: tree.Tree,
    kinds: str | Sequence[str] = ("stream", "branch"),
    group: Group = None,
    reduction: Reduction = "mean",
) -> GradientNorms:
    """Return the norms of ∂loss/∂params and of ∂loss/∂h for every tagged value h: one forward and one backward pass.

    The norms are exact and are summed in float64, so that 1e-30 does not become 0. Activation gradients are those of
    the loss as it is: where it is the batch's mean, each sample's part holds the factor 1/batch.

    Args:
        loss: `loss(params, *batch)` is the WHOLE batch's scalar loss; any pure function. (`per_sample_norms` takes one
            sample's loss instead.)
        params: any tree of floating-point tensors.
        batch: what the loss takes after params; batch axis first.
        kinds: of tags to differentiate with respect to; `()` for the parameters alone. Axis 0 of a tagged value counts
            as its batch axis; of a value tagged inside `torch.func.vmap`, the mapped axis does.
        group: ranks that each hold a part of the batch, and call this together: a process group or "world"; see
            `pure.spmd`. Every rank gets the result of all samples.
            Gradients w.r.t. parameters are added over the ranks, the samples' norms are gathered.
        reduction: with a group, what the loss is of its samples: their "mean" or "sum", or "same" if collectives of
            its own make it equal on all ranks.

    Raises:
        ShapeError: the loss is not a scalar.
        ArgumentError: the loss is no tensor.
        DtypeError: integer parameters.
        UnsupportedError: the loss is NaN or infinite, or a value was tagged inside an inner derivative.
        CaptureError: an unknown kind.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Note:
        A tagged value that depends on neither parameters nor floating-point batch has no entry.

    Example:
        >>> from pure import nets
        >>> net = nets.residual_mlp(4, 8, depth=3)
        >>> params, state = net.init(torch.Generator().manual_seed(0))
        >>> norms = gradient_norms(lambda p, x: net(p, x).square().mean(), params, torch.ones(5, 4))
        >>> norms
        GradientNorms(loss=1.583, total l2=4.143, 12 leaves, 13 blocks, 6 activations)
        >>> [path for path, a in norms.activations.items() if a.kind == "stream"]
        ['0.stream', '1.stream', '2.stream']
        >>> norms["1.branch.fc1.weight"] < norms.blocks["1.branch"].l2 < norms.blocks[""].l2
        True
    """
    check_outermost("gradient_norms")
    with over_ranks("gradient_norms", group, params=params, batch=batch, reduction=reduction) as whole:
        return _norms(loss, params, batch, kinds, whole)


def _norms(
    loss: Callable[..., Any], params: tree.Tree, batch: tuple[Any, ...], kinds: str | Sequence[str], whole: Whole
) -> GradientNorms:
    leaves = {name: leaf.requires_grad_() for name, leaf in named_leaves(loss, params).items()}
    _, spec = tree.tree_flatten(params)
    inputs = tracked(batch)
    follower = Provenance(leaves)
    with torch.enable_grad(), follower:
        out, seen = observe(loss, kinds)(tree.tree_unflatten(list(leaves.values()), spec), *inputs)
    value = scalar(out, "the batch's")
    finite(value)
    value = whole.loss(value)
    values = [part for tagged in seen for part in _tensors(tagged)]
    targets = [*leaves.values(), *(tensor for _, tensor, _ in values)]
    found: Sequence[Tensor | None] = [None] * len(targets)
    if value.requires_grad and targets:
        found = torch.autograd.grad(value, targets, allow_unused=True)
    filled = [torch.zeros_like(t) if g is None else g for t, g in zip(targets, found, strict=True)]
    gradients = dict(zip(leaves, whole.total(filled[: len(leaves)], "gradients"), strict=True))
    (value,) = whole.total([value.detach()], "the loss")
    squares = {name: _square(gradient) for name, gradient in gradients.items()}
    parts: dict[str, tuple[float, int]] = {}
    for origin, name in follower.parts.items():
        part = gradients[origin.name][origin.path]
        parts[name] = (_square(part), part.numel())
    return GradientNorms(
        loss=value.item(),
        leaves={name: _parameter(square, gradients[name].numel()) for name, square in squares.items()},
        blocks=_blocks({name: (square, gradients[name].numel()) for name, square in squares.items()}, parts),
        activations=_activations([(tagged, axis) for tagged, _, axis in values], filled[len(leaves) :], whole),
    )


def _tensors(tagged: Tagged) -> list[tuple[Tagged, Tensor, int]]:
    """Return the tensors of a tagged value that gradients reach, each with the axis that counts as its batch."""
    found = []
    for name, leaf in tree.flatten(tagged.value).items():
        path = f"{tagged.path}.{name}" if name else tagged.path
        axis = 0
        while isinstance(leaf, Tensor) and torch._C._functorch.is_batchedtensor(leaf):  # tagged inside an inner vmap
            axis, leaf = torch._C._functorch.maybe_get_bdim(leaf), torch._C._functorch.get_unwrapped(leaf)
        if isinstance(leaf, Tensor) and torch._C._functorch.is_gradtrackingtensor(leaf):
            raise UnsupportedError(
                f"{path!r} was tagged inside an inner torch.func derivative, where it stands for several values: give "
                "kinds=() for the parameters alone, or tag outside"
            )
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            found.append((Tagged(path, tagged.kind, None), leaf, axis))
    return found


def _square(gradient: Tensor) -> float:
    return float(torch.linalg.vector_norm(gradient, dtype=torch.float64).square())


def _parameter(square: float, size: int) -> ParameterGradient:
    return ParameterGradient(l2=math.sqrt(square), rms=math.sqrt(square / size) if size else 0.0, size=size)


def _blocks(
    leaves: Mapping[str, tuple[float, int]], parts: Mapping[str, tuple[float, int]]
) -> dict[str, ParameterGradient]:
    """Sum squares and sizes under every prefix; parts of stacked leaves count only where no whole leaf does."""
    entries = {**parts, **leaves}
    return {
        prefix: _parameter(math.fsum(entries[name][0] for name in names), sum(entries[name][1] for name in names))
        for prefix, names in by_prefix(leaves, parts).items()
    }


def _activations(
    values: list[tuple[Tagged, int]], gradients: list[Tensor], whole: Whole
) -> dict[str, ActivationGradient]:
    found: dict[str, ActivationGradient] = {}
    depths: dict[str, int] = {}
    for (tagged, axis), gradient in zip(values, gradients, strict=True):
        depth = depths.get(tagged.kind, 0)
        depths[tagged.kind] = depth + 1
        rows = gradient.movedim(axis, 0).flatten(1) if gradient.ndim > 1 else gradient.reshape(-1, 1)
        own_l2 = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        sample_l2 = whole.rows(own_l2, tagged.path).cpu()
        square = float(sample_l2.square().sum())
        size = int(sum(whole.numbers(gradient.numel(), f"the size of {tagged.path}")))
        band = torch.quantile(sample_l2, torch.tensor(BAND, dtype=torch.float64)).tolist() if size else [0.0] * 3
        found[tagged.path] = ActivationGradient(
            tagged.path, tagged.kind, depth, math.sqrt(square), math.sqrt(square / max(size, 1)), sample_l2, *band
        )
    return found
