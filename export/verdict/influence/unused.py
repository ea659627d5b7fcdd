"""Which inputs, weights and branches the outputs of a recorded function do not depend on.

A verdict says nothing about a weight that nothing depends on, such as what a gain of 0 multiplies: a file with other
numbers there passes too. One gradient of a random combination of the outputs tells for all leaves at once; where it is
zero, or PyTorch has none, the leaves themselves are changed, many at once, and the outputs compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from export.verdict.influence.exact_runs import exact_values

__all__ = ["equal_branches", "unused_leaves"]

CHANGE = 2.0**-40
"""The smallest change of an output, relative to its largest value, that counts as an influence."""


def unused_leaves(
    graph: GraphModule, leaves: Sequence[Tensor], forced: Mapping[str, bool], among: Collection[int]
) -> list[int]:
    """Return the positions of leaves that no output depends on, in float64 and at these inputs.

    Integers without axes that nothing reads are left out: batch counters, as of a normalisation in evaluation.
    A leaf that a condition or a comparison looks at counts as one that the outputs depend on: which way they go is
    judged.

    Args:
        graph: the recorded function.
        leaves: its inputs.
        forced: which branches conditions take.
        among: the positions to look at.
    """
    read = {i for i, node in enumerate(graph.graph.find_nodes(op="placeholder")) if node.users}
    decisive = _decisive(graph)
    looked_at = [i for i in among if i in read and i not in decisive]
    doubtful = _without_gradient(graph, leaves, forced, looked_at)
    reference = exact_values(graph, leaves, forced, compared=True) if doubtful else []

    def influential(positions: Sequence[int]) -> set[int]:
        """Halve what is changed until one is left: most often nothing depends on any, as behind a gain of zero."""
        if not positions or not _influences(graph, leaves, forced, positions, reference):
            return set()
        half = len(positions) // 2
        return influential(positions[:half]) | influential(positions[half:]) if half else set(positions)

    floats = [i for i in doubtful if leaves[i].is_floating_point()]
    found = influential(floats).union(*(influential([i]) for i in doubtful if i not in floats))
    used = {*decisive, *looked_at} - ({*doubtful} - found)
    counters = {i for i in among if i not in read and not leaves[i].dim() and not leaves[i].is_floating_point()}
    return [i for i in among if i not in used and i not in counters]


def equal_branches(graph: GraphModule, leaves: Sequence[Tensor], key: str, within: Mapping[str, bool]) -> bool:
    """Tell whether the outputs are the same whichever branch a condition takes.

    Args:
        graph: the recorded function.
        leaves: its inputs.
        key: the condition's key.
        within: the branches that lead to it.
    """
    yes, no = (exact_values(graph, leaves, {**within, key: side}) for side in (True, False))
    return not _differ(yes, no)


def _decisive(graph: GraphModule) -> set[int]:
    """Return the positions of leaves that a condition's predicate is computed from."""
    placeholders = {node: i for i, node in enumerate(graph.graph.find_nodes(op="placeholder"))}
    conditions = graph.graph.find_nodes(op="call_function", target=torch.ops.higher_order.cond)
    queue: list[Node] = [node.args[0] for node in conditions if isinstance(node.args[0], Node)]
    seen: set[Node] = set()
    while queue:
        node = queue.pop()
        if node not in seen:
            seen.add(node)
            queue += node.all_input_nodes
    return {placeholders[node] for node in seen if node in placeholders}


def _without_gradient(
    graph: GraphModule, leaves: Sequence[Tensor], forced: Mapping[str, bool], among: Sequence[int]
) -> list[int]:
    """Return those of the leaves whose gradient is zero or not to be had."""
    floats = [i for i in among if leaves[i].is_floating_point() and leaves[i].numel()]
    given = list(leaves)
    for i in floats:
        given[i] = leaves[i].detach().double().requires_grad_()
    for in_parts in (False, True):  # an operator may have no derivative, and be made of some that have
        with contextlib.suppress(RuntimeError, NotImplementedError):
            outputs, found = _gradient(graph, given, forced, [given[i] for i in floats], in_parts)
            break
    else:
        return list(among)
    if not outputs:
        return list(among)
    size = max(_largest(out.detach()) for out in outputs)
    used = set()
    for i, gradient in zip(floats, found, strict=True):
        if gradient is not None and not _largest(gradient) * _size(leaves[i]) <= CHANGE * size:  # NaN is an influence
            used.add(i)
    return [i for i in among if i not in used]


def _gradient(
    graph: GraphModule, given: Sequence[Tensor], forced: Mapping[str, bool], wrt: Sequence[Tensor], in_parts: bool
) -> tuple[list[Tensor], Sequence[Tensor | None]]:
    """Return the outputs with a gradient, and that of a random combination of them with respect to each leaf."""
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        outputs = [out for out in exact_values(graph, given, forced, in_parts=in_parts) if out.requires_grad]
        total = torch.zeros((), dtype=torch.float64, device=given[0].device)
        for out in outputs:
            total = total + (out * torch.randn(out.shape, generator=generator, dtype=out.dtype).to(out.device)).sum()
    return outputs, torch.autograd.grad(total, wrt, allow_unused=True) if outputs else ()


def _influences(
    graph: GraphModule,
    leaves: Sequence[Tensor],
    forced: Mapping[str, bool],
    positions: Sequence[int],
    reference: Sequence[Tensor],
) -> bool:
    """Tell whether other values of these leaves change the outputs; those of floats are random, so none undo others."""
    given = list(leaves)
    for position in positions:
        given[position] = _changed(leaves[position], position)
    try:
        return _differ(exact_values(graph, given, forced, compared=True), reference)
    except (RuntimeError, IndexError):  # an index that does not exist
        return True


def _changed(leaf: Tensor, seed: int) -> Tensor:
    """Return other values for a leaf; integers and booleans stay among those that it has, where it has several."""
    if leaf.is_floating_point():
        generator = torch.Generator().manual_seed(seed)
        change = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.device)
        return leaf.double() + change * _size(leaf)
    rolled = leaf.flatten().roll(1).reshape(leaf.shape)
    if not torch.equal(rolled, leaf):
        return rolled
    return ~leaf if leaf.dtype == torch.bool else torch.where(leaf > 0, leaf - 1, leaf + 1)


def _differ(found: Sequence[Tensor], reference: Sequence[Tensor]) -> bool:
    if len(found) != len(reference):
        return True
    for own, other in zip(found, reference, strict=True):
        if own.shape != other.shape or not torch.equal(own.isfinite(), other.isfinite()):
            return True
        change = torch.where(own.isfinite(), own.double() - other.double(), 0.0)
        if _largest(change) > CHANGE * _largest(torch.where(other.isfinite(), other.double(), 0.0)):
            return True
    return False


def _largest(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0


def _size(leaf: Tensor) -> float:
    """Return the root mean square of a leaf, 1 for zeros."""
    size = float(leaf.double().square().mean().sqrt())
    return size if 0 < size < float("inf") else 1.0
