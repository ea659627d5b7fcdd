"""Every transform of torch.func and nesting of two, of a loss that several ranks compute together."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from parity_tests.spmd.families import FAMILIES, Family, Problem, joined
from pure import spmd, tree

__all__ = ["CALLS", "CONTROLS", "TRANSFORMS", "compare", "difference"]

Loss = Callable[[Any, Any, Any], Any]
"""Of parameters, samples and targets."""


def _whole(problem: Problem, call: str) -> Loss:
    """Return the loss of the whole batch, on one process."""

    def loss(params: Any, x: Any, target: Any) -> Any:
        if call == "gather":
            outputs = problem.outputs(params, x)
            return torch.log_softmax(outputs @ outputs.T, 1).diagonal().mean() + outputs.cumsum(0).sin().mean()
        errors = problem.errors(params, x, target)
        return errors.sum() if call == "sum" else errors.mean()

    return loss


def _together(problem: Problem, call: str, sharded: tuple[int, ...], group: str) -> Loss:
    """Return the same loss, of which each rank computes its part."""

    def loss(params: Any, x: Any, target: Any) -> Any:
        if call == "gather":
            outputs = spmd.gather(problem.outputs(params, x))
            return torch.log_softmax(outputs @ outputs.T, 1).diagonal().mean() + outputs.cumsum(0).sin().mean()
        errors = problem.errors(params, x, target)
        return errors.sum() if call == "sum" else spmd.pmean(errors.mean(), weight=len(errors))

    return spmd.shard_map(loss, sharded=sharded, out="sum" if call == "sum" else "same", group=group)


CALLS = ("pmean", "sum", "gather")


def _direction(values: Any, seed: int) -> Any:
    """Return a tree of numbers that depend on the leaf's place in the whole only."""
    return tree.tree_map(lambda leaf: torch.sin(leaf * 7 + seed), values)


def _tangent(of: Callable[[Any], Any], at: Any, seed: int) -> Any:
    return jvp(of, (at,), (_direction(at, seed),))[1]


def _autograd(loss: Callable[[Any], Any], params: Any) -> Any:
    leaves, spec = tree.tree_flatten(params)
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    loss(tree.tree_unflatten(leaves, spec)).backward()
    return tree.tree_unflatten([leaf.grad for leaf in leaves], spec)


def _squared(values: Any) -> Any:
    return sum(leaf.square().sum() for leaf in tree.leaves(values))


def _stacked(params: Any) -> Any:
    return tree.tree_map(lambda leaf: torch.stack([leaf, leaf * 0.5, leaf + 0.1]), params)


TRANSFORMS: dict[str, tuple[str, Callable[[Loss, Any, Any, Any], Any]]] = {
    "value": ("value", lambda f, p, x, t: f(p, x, t)),
    "grad": ("params", lambda f, p, x, t: grad(f)(p, x, t)),
    "grad by x": ("rows", lambda f, p, x, t: grad(f, argnums=1)(p, x, t)),
    "autograd": ("params", lambda f, p, x, t: _autograd(lambda p: f(p, x, t), p)),
    "vjp": ("params", lambda f, p, x, t: vjp(lambda p: f(p, x, t), p)[1](torch.tensor(1.7, dtype=x.dtype))[0]),
    "jvp": ("value", lambda f, p, x, t: _tangent(lambda p: f(p, x, t), p, 1)),
    "jvp by x": ("value", lambda f, p, x, t: _tangent(lambda x: f(p, x, t), x, 1)),
    "jvp of jvp": ("value", lambda f, p, x, t: _tangent(lambda p: _tangent(lambda q: f(q, x, t), p, 1), p, 2)),
    "jvp of grad": ("params", lambda f, p, x, t: _tangent(lambda p: grad(f)(p, x, t), p, 1)),
    "grad of jvp": ("params", lambda f, p, x, t: grad(lambda p: _tangent(lambda q: f(q, x, t), p, 1))(p)),
    "grad of grad": ("rows", lambda f, p, x, t: grad(lambda x: _tangent(lambda q: f(q, x, t), p, 1))(x)),
    "jvp by x of grad": ("params", lambda f, p, x, t: _tangent(lambda x: grad(f)(p, x, t), x, 1)),
    "grad of grad norm": ("params", lambda f, p, x, t: grad(lambda p: _squared(grad(f)(p, x, t)))(p)),
    "jacrev": ("params", lambda f, p, x, t: jacrev(f)(p, x, t)),
    "jacfwd": ("params", lambda f, p, x, t: jacfwd(f)(p, x, t)),
    "vmap": ("values", lambda f, p, x, t: vmap(lambda p: f(p, x, t))(_stacked(p))),
    "vmap of grad": ("stacked", lambda f, p, x, t: vmap(lambda p: grad(f)(p, x, t))(_stacked(p))),
    "jacfwd of grad": ("matrix", lambda f, p, x, t: jacfwd(grad(f))(p, x, t)),
    "jacrev of grad": ("matrix", lambda f, p, x, t: jacrev(grad(f))(p, x, t)),
    "hessian": ("matrix", lambda f, p, x, t: hessian(f)(p, x, t)),
}
"""Name → what the result is over, and the transform."""

WHOLE_BASIS = frozenset({"jacfwd", "matrix", "grad of grad norm"})
"""Of parameters in parts, these mean something else on each rank: a basis of its own part, or its part's norm."""


def compare(family: Family, call: str, name: str, group: str = "world") -> float | None:
    """Return the largest difference from one process, relative to the largest number; None where it has no meaning."""
    kind, transform = TRANSFORMS[name]
    if family.sharded and (name in WHOLE_BASIS or kind in WHOLE_BASIS):
        return None
    one, ours = Problem.of(family, None), Problem.of(family, group)
    expected = transform(_whole(one, call), one.params, one.x, one.target)
    positions = (0, 1, 2) if family.sharded else (1, 2)
    found = transform(_together(ours, call, positions, group), ours.params, ours.x, ours.target)
    if kind == "rows":
        expected = spmd.shard(expected, group)
    if family.sharded and kind == "params":
        found = joined(ours.block, found)
    if family.sharded and kind == "stacked":
        found = [joined(ours.block, tree.tree_map(lambda leaf, at=at: leaf[at].contiguous(), found)) for at in range(3)]
        expected = [tree.tree_map(lambda leaf, at=at: leaf[at], expected) for at in range(3)]
    return difference(found, expected)


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference between two trees, relative to the largest number of the second."""
    pairs = list(zip(tree.leaves(found), tree.leaves(expected), strict=True))
    assert pairs
    assert all(a.shape == b.shape for a, b in pairs), [(a.shape, b.shape) for a, b in pairs]
    scale = max(float(b.abs().max()) for _, b in pairs if b.numel())
    worst = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    assert scale > 0
    return worst / scale


def _local_statistics() -> float:
    """Return the difference that batch norm without a group makes."""
    one, ours = Problem.of(FAMILIES["batch norm"], None), Problem.of(FAMILIES["batch norm"], "world")
    ours = replace(ours, block=one.block)
    found = grad(_together(ours, "pmean", (1, 2), "world"))(ours.params, ours.x, ours.target)
    return difference(found, grad(_whole(one, "pmean"))(one.params, one.x, one.target))


def _unweighted_mean() -> float:
    """Return the difference that a mean over ranks with unequal parts makes."""
    one, ours = Problem.of(FAMILIES["residual"], None), Problem.of(FAMILIES["residual"], "world")
    mapped = spmd.shard_map(lambda p, x, t: spmd.pmean(ours.errors(p, x, t).mean()), sharded=(1, 2))
    found = grad(mapped)(ours.params, ours.x, ours.target)
    return difference(found, grad(_whole(one, "pmean"))(one.params, one.x, one.target))


def _in_place_sum() -> float:
    """Return the difference that an in-place all_reduce of torch.distributed makes under grad."""
    one, ours = Problem.of(FAMILIES["residual"], None), Problem.of(FAMILIES["residual"], "world")

    def loss(params: Any, x: Any, target: Any) -> Any:
        total = ours.errors(params, x, target).sum()
        dist.all_reduce(total)
        return total

    found = grad(loss)(ours.params, ours.x, ours.target)
    return difference(found, grad(_whole(one, "sum"))(one.params, one.x, one.target))


CONTROLS = {
    "batch norm without a group": _local_statistics,
    "pmean without weights": _unweighted_mean,
    "torch.distributed.all_reduce under grad": _in_place_sum,
}
"""Name → the difference from one process of something that is wrong on uneven parts, which the table must show."""
