"""Change of the loss without single branches, all in one mapped call, beside its first-order prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Block, Params, State
from pure.errors import ArgumentError, PureError, UnsupportedError
from pure.flow.activations.residual_steps import missing, plain
from pure.flow.shared.block_call import block_first, of_input
from pure.flow.shared.estimate import Estimate, estimate
from pure.flow.shared.input_checks import finite, finite_values, purely, scalar
from pure.flow.shared.math_attention import composed_attention
from pure.flow.shared.result import PlainData, Readings
from pure.flow.shared.text_table import table
from pure.flow.shared.tracked_leaves import tracked
from pure.initializers import check_generator
from pure.tags import Tagged, observe, substitute

__all__ = ["Deletion", "PairDeletion", "deletion"]


@dataclass(frozen=True, eq=False)
class PairDeletion(PlainData):
    """Two branches deleted together.

    Attributes:
        indices: (pairs, 2), which branches, by depth.
        loss_change: (pairs,), the loss without both less the loss; float64.
        interaction: (pairs,), `loss_change` less the two single changes; 0 where the blocks act independently.
        mean_interaction: over all pairs; with an interval where the pairs are a random choice.
    """

    indices: Tensor
    loss_change: Tensor
    interaction: Tensor
    mean_interaction: Estimate


@dataclass(frozen=True, eq=False)
class Deletion(Readings[str, float]):
    """What deleting each branch does. As a mapping: {path of the branch: change of the loss}.

    Attributes:
        loss: of the whole network.
        branches: the paths of the branches, by depth.
        loss_change: (branches,), the loss without the branch less the loss; float64.
        first_order: (branches,), the prediction −⟨∂loss/∂f, f⟩ of that change, f the branch; float64.
        output_change: (branches,), ‖y without the branch − y‖₂ / ‖y‖₂ over the whole batch; float64.
        suffix_loss_change: (branches,), the change when the branch and all later ones are deleted; None if not asked.
        pairs: pairs of branches deleted together; None if not asked.
    """

    loss: float
    branches: tuple[str, ...]
    loss_change: Tensor
    first_order: Tensor
    output_change: Tensor
    suffix_loss_change: Tensor | None
    pairs: PairDeletion | None

    @cached_property
    def _readings(self) -> Mapping[str, float]:
        return dict(zip(self.branches, self.loss_change.tolist(), strict=True))

    def __repr__(self) -> str:
        worst = int(self.loss_change.nan_to_num(-math.inf).argmax())
        return (
            f"Deletion(loss={self.loss:.4g}, {len(self)} branches, largest change {self.loss_change[worst]:+.4g} at "
            f"{self.branches[worst]!r})"
        )

    def table(self) -> str:
        """Return a plain text table."""
        header = ["deleted branch", "loss change", "first order", "output change"]
        columns = [self.loss_change, self.first_order, self.output_change]
        if self.suffix_loss_change is not None:
            header.append("with all later")
            columns.append(self.suffix_loss_change)
        numbers = torch.stack(columns, 1).tolist()
        return table(header, [[path, *row] for path, row in zip(self.branches, numbers, strict=True)])


@block_first
def deletion(
    block: Block,
    params: Params,
    x: Any,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
    *,
    loss: Callable[..., Any],
    targets: Sequence[Any] = (),
    training: bool = False,
    noise: Any = None,
    suffixes: bool = False,
    pairs: int = 0,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Deletion:
    """Return how the loss and the output change when one branch is set to 0, for every branch.

    All deletions are one call, mapped over rows of a mask that multiplies the tagged branches, so that nothing of the
    network is rebuilt. What is left of a step is what it is without its branch: the skip, with the function after the
    sum if there is one; of a highway layer (1 − T) ⊙ x; of a dense layer the new channels are 0.

    Args:
        block: any block that tags its branches; those of `pure.skips` and `pure.nets` do, and `from_module`'s.
        params: its parameters.
        x: the block's input.
        state: its state.
        extras: what the network may read.
        loss: `loss(y, *targets)` is the WHOLE batch's scalar loss of the block's output, such as `F.cross_entropy`.
        targets: what the loss takes after the output.
        training: use batch statistics.
        noise: as `block.noise` draws it, if training needs it.
        suffixes: also delete each branch together with all later ones.
        pairs: how many pairs of branches to delete together: drawn from `generator` without repetition; all of them,
            with no need of a generator, if there are no more.
        generator: the only source of randomness.
        chunk_size: how many deletions to run together; by default all of them. Fewer take less memory.

    Raises:
        UnsupportedError: no branch is tagged, the function is not pure, or the loss is NaN or infinite. (A loss that is
            so only without a branch is reported as it is.)
        ShapeError: the loss is not a scalar.
        ArgumentError: no block, NaN in what was given, or fewer than one deletion at a time.

    Source: Veit et al. 2016 (1605.06431), section 4.1 for single blocks, 4.2 for several; Molchanov et al. 2017
        (1611.06440), equation 7, for the first order.

    Example:
        >>> from pure import Linear, Residual, Sequential
        >>> net = Sequential(Residual(Linear(1, 1, bias=False)), Residual(Linear(1, 1, bias=False)))
        >>> params = {"0": {"branch": {"weight": torch.ones(1, 1)}}, "1": {"branch": {"weight": torch.ones(1, 1)}}}
        >>> found = deletion(net, params, torch.tensor([[3.0]]), loss=torch.sum)
        >>> found.loss, dict(found), found.first_order.tolist()
        (12.0, {'0.branch': -6.0, '1.branch': -6.0}, [-6.0, -6.0])
    """
    run = of_input("deletion", block, tracked(params), state, extras, training, noise)
    finite_values(x, "x")
    finite_values(targets, "targets")
    if chunk_size is not None and chunk_size < 1:
        raise ArgumentError(f"deletion chunk_size={chunk_size}: expected at least 1")
    given = {"params": params, "state": state, "x": x, "targets": targets}
    with torch.enable_grad(), composed_attention(), purely("deletion", **given):
        y, seen = observe(run, "branch")(tracked(x))
        value = scalar(loss(y, *targets), "the batch's")
    finite(value)
    if not seen:
        raise missing("deletion", "branch", seen)
    first_order = _first_order(value, seen)
    index = {tagged.path: position for position, tagged in enumerate(seen)}
    count, device = len(index), value.device
    chosen = _pairs(count, pairs, generator)
    deleted = [torch.eye(count, dtype=torch.bool)]
    if suffixes:
        deleted.append(torch.ones(count, count, dtype=torch.bool).triu())
    deleted.append(torch.zeros(len(chosen), count, dtype=torch.bool).scatter(1, chosen, True))
    reference = [leaf.detach() for leaf in _tensors(y)]

    def without(mask: Tensor) -> tuple[Tensor, Tensor]:
        def masked(tagged: Tagged) -> Tensor:
            kept: Tensor = mask[index[tagged.path]]
            return tagged.value * kept.to(tagged.value.dtype)

        out = substitute(run, masked, "branch")(x)
        gaps = [(a.double() - b.double()).square().sum() for a, b in zip(_tensors(out), reference, strict=True)]
        return loss(out, *targets), torch.stack(gaps).sum()

    masks = (~torch.cat(deleted)).to(device)
    try:
        with torch.no_grad(), composed_attention():  # whose fused kernel has no batching rule
            losses, gaps = torch.func.vmap(without, chunk_size=chunk_size)(masks)
    except RuntimeError as error:
        if isinstance(error, PureError) or "vmap" not in str(error):
            raise
        raise UnsupportedError(
            "deletion of a function that torch.func.vmap does not take: branch by torch.where, and choose mode="
            f"'select' in blocks that decide what to compute (torch says: {str(error).splitlines()[0]})"
        ) from error
    change = losses.detach().double() - value.detach().double()
    norm = torch.stack([leaf.double().square().sum() for leaf in reference]).sum()
    single, rest = change[:count], change[count:]
    return Deletion(
        loss=value.item(),
        branches=tuple(index),
        loss_change=single,
        first_order=first_order,
        output_change=(gaps[:count] / norm).sqrt(),
        suffix_loss_change=rest[:count] if suffixes else None,
        pairs=interactions(chosen, single, rest[count if suffixes else 0 :]) if pairs else None,
    )


def _first_order(value: Tensor, seen: Sequence[Tagged]) -> Tensor:
    """Return −⟨∂value/∂f, f⟩ for every tagged f, summed in float64."""
    branches = [plain(tagged) for tagged in seen]
    reached = [branch for branch in branches if branch.requires_grad]
    found = iter(torch.autograd.grad(value, reached, allow_unused=True) if value.requires_grad and reached else ())
    gradients = [next(found, None) if branch.requires_grad else None for branch in branches]
    products = [
        torch.zeros((), dtype=torch.float64, device=value.device)
        if gradient is None
        else -(gradient.double() * branch.detach().double()).sum()
        for branch, gradient in zip(branches, gradients, strict=True)
    ]
    return torch.stack(products)


def _pairs(count: int, pairs: int, generator: torch.Generator | None) -> Tensor:
    """Return the pairs to delete: (pairs, 2), each row ascending."""
    if pairs < 0:
        raise ArgumentError(f"deletion pairs={pairs}: expected a whole number, at least 0")
    every = torch.combinations(torch.arange(count), 2)
    if pairs >= len(every) or not pairs:
        return every if pairs else every[:0]
    check_generator(generator)
    return every[torch.randperm(len(every), generator=generator)[:pairs].sort().values]


def interactions(indices: Tensor, single: Tensor, change: Tensor) -> PairDeletion:
    """Compare the pairs with the single changes.

    The pairs are drawn without repetition, so that the interval is narrower by √(1 − drawn / all): 0 if all are.
    """
    drawn, every = len(indices), len(single) * (len(single) - 1) // 2
    interaction = change - single[indices.to(single.device)].sum(1)
    mean = float(interaction.mean())
    if drawn == every:
        return PairDeletion(indices, change, interaction, Estimate(mean, mean, mean, 0.0, 0))
    if drawn < 2:
        return PairDeletion(indices, change, interaction, Estimate(mean, -math.inf, math.inf, math.nan, drawn))
    whole, narrower = estimate(interaction), math.sqrt(1 - drawn / every)
    half, error = (whole.high - mean) * narrower, whole.standard_error * narrower
    return PairDeletion(indices, change, interaction, Estimate(mean, mean - half, mean + half, error, drawn))


def _tensors(y: Any) -> list[Tensor]:
    return [leaf for leaf in tree.leaves(y) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
