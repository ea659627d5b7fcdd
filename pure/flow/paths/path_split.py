"""Derivatives split by path length: the part of J v, or of a loss's gradient, through exactly k branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Block, Params, State
from pure.errors import ArgumentError, DtypeError, ShapeError
from pure.flow.paths.branch_counting import Count, Counting, routes
from pure.flow.paths.graded_tangents import start
from pure.flow.paths.path_result import PathSpectrum, of_all_ranks, spectrum_of
from pure.flow.paths.segments import Segments, cut_at_tags, detached, pull, push
from pure.flow.shared.block_call import block_first
from pure.flow.shared.input_checks import check_outermost, finite, finite_values, scalar
from pure.flow.shared.over_ranks import Reduction, over_ranks
from pure.spmd.process_group import Group

__all__ = ["cut_block", "path_spectrum", "path_spectrum_of_loss"]


@block_first
@torch.inference_mode(False)
def path_spectrum(
    block: Block | Callable[..., Any],
    params: Params,
    x: Tensor,
    v: Tensor,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
    *,
    orders: int | None = None,
    count: Count = "outermost",
    dtype: torch.dtype | None = None,
    group: Group = None,
) -> PathSpectrum:
    """Return J v, J = ∂block/∂x, split exactly by how many branches it passed: J v = Σ_k J_k v.

    A branch is what was tagged so, as the blocks of `pure.skips` and modules from elsewhere do, and any pure function
    can by `pure.tag`. All else is skip: shortcuts, norms behind the sum, a stem or head. The block runs once; then the
    tangents of all orders go from tag to tag, V_k ← S V_k + B V_{k−1}, so the cost is that of about K + 2
    Jacobian-vector products.

    Args:
        block: a block, or any pure function `(params, x)` or `(params, x, state, extras)` that gives one tensor.
        params: its parameters.
        x: where to differentiate; floating point.
        v: a tangent of x's shape.
        state: of the block, in evaluation.
        extras: what the network may read.
        orders: the highest K to keep; None for all that there are. What passed more is the `remainder`.
        count: of branches inside branches, "outermost" counts those that are in no other, "innermost" those that hold
            no other, "all" each of them. Inside means tagged by a block inside the branch's own, or in a
            `pure.tags.scope`, and used for nothing but that branch.
        dtype: what to compute in, such as `torch.float64`; None for that of the arguments. Orders are kept on a
            logarithmic scale, so float32 does not overflow either.
        group: ranks that each hold a part of x and v, and call this together: a process group or "world"; see
            `pure.spmd`. Every rank gets the result of all samples.
            The components are gathered.

    Raises:
        UnsupportedError: no branch is tagged; a function that is not pure; one that PyTorch cannot differentiate twice.
        ShapeError: `v` differs from `x` in shape.
        DtypeError: `x` is not floating point, or `v` differs from it in dtype.
        ArgumentError: NaN in an argument, `orders` below 0, or an unknown `count`.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Source: Veit et al. 2016 (1605.06431), section 3, for the paths of a residual network.

    Example:
        >>> from pure import Residual, Sequential
        >>> from pure.layers import Linear
        >>> net = Sequential(*[Residual(Linear(2, 2, bias=False))] * 3)
        >>> params = {str(layer): {"branch": {"weight": torch.eye(2)}} for layer in range(3)}
        >>> found = path_spectrum(net, params, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        >>> found.components[:, 0, 0], found.paths, found.mean_path_length
        (tensor([1., 3., 3., 1.], dtype=torch.float64), (1, 3, 3, 1), 1.5)
    """
    with over_ranks("path_spectrum", group, params=params) as whole:
        parts = cut_block("path_spectrum", block, params, x, v, state, extras, orders, dtype)
        ways = routes(parts, "path_spectrum", count, orders)
        groups = 2 if ways.gates else 1
        stack = start(_like(v, parts.cuts[0].value), len(ways.paths) - 1, groups, whole=True)
        moved = push(parts, stack, Counting(ways, shut=1 if ways.gates else None))
        return of_all_ranks(spectrum_of(moved, ways, "forward", count), whole)


@torch.inference_mode(False)
def path_spectrum_of_loss(
    loss: Callable[..., Any],
    params: tree.Tree,
    x: Tensor,
    *rest: tree.Tree,
    orders: int | None = None,
    count: Count = "outermost",
    dtype: torch.dtype | None = None,
    group: Group = None,
    reduction: Reduction = "mean",
) -> PathSpectrum:
    """Return ∂loss/∂x, split exactly by how many branches it passed on its way back.

    The same as `path_spectrum` in reverse mode, one backward pass for all orders: ⟨component k, v⟩ is the part of the
    loss's derivative along v that passed through exactly k branches.

    Args:
        loss: `loss(params, x, *rest)` is the WHOLE batch's scalar loss; any pure function.
        params: any tree.
        x: what to differentiate by; floating point.
        rest: what the loss takes behind x, such as labels.
        orders: see `path_spectrum`.
        count: see `path_spectrum`.
        dtype: see `path_spectrum`.
        group: see `path_spectrum`; the gradient is that of the loss of all samples.
        reduction: with a group, what the loss is of its samples: their "mean" or "sum", or "same" if collectives of
            its own make it equal on all ranks.

    Raises:
        ShapeError: the loss is not a scalar.
        UnsupportedError: no branch is tagged, the loss is NaN or infinite, or a function that is not pure.
        DtypeError: `x` is not floating point.
        ArgumentError: NaN in an argument, `orders` below 0, or an unknown `count`.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Example:
        >>> from pure import nets
        >>> net = nets.residual_mlp(3, 8, depth=2)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> found = path_spectrum_of_loss(lambda p, x: net(p, x).square().sum(), params, torch.ones(1, 3))
        >>> found, found.components.shape
        (PathSpectrum(2 branches, orders 0 to 2, mean path length 0.1562), torch.Size([3, 1, 3]))
    """
    what = "path_spectrum_of_loss"
    check_outermost(what)
    with over_ranks(what, group, params=params, batch=(x, *rest), reduction=reduction) as whole:
        _check(what, loss, x, orders, {"params": params, "x": x, "rest": rest})
        x, params, rest = _cast((x, params, rest), dtype)
        parts = cut_at_tags(lambda x, params, *rest: loss(params, x, *rest), what, x, params, *rest)
        finite(scalar(parts.output, "the batch's"))
        ways = routes(parts, what, count, orders)
        groups = 2 if ways.gates else 1
        stack = start(whole.loss(torch.ones_like(parts.output)), len(ways.paths) - 1, groups, whole=True)
        moved = pull(parts, stack, Counting(ways, shut=1 if ways.gates else None))
        return of_all_ranks(spectrum_of(moved, ways, "reverse", count), whole)


def cut_block(
    what: str,
    block: Block | Callable[..., Any],
    params: Params,
    x: Tensor,
    v: Tensor,
    state: State,
    extras: Mapping[str, Any],
    orders: int | None,
    dtype: torch.dtype | None,
) -> Segments:
    """Check the arguments, run the block once, and return it cut at its tags."""
    if not isinstance(v, Tensor):
        raise ArgumentError(f"{what}: v is {type(v).__name__}: expected a tangent of x's shape")
    _check(what, block, x, orders, {"params": params, "x": x, "v": v, "state": state, "extras": dict(extras)})
    if v.shape != x.shape:
        raise ShapeError(f"{what}: v is {tuple(v.shape)}, x is {tuple(x.shape)}: expected a tangent of x's shape")
    if v.dtype != x.dtype:
        raise DtypeError(f"{what}: v is {v.dtype}, x is {x.dtype}: cast v")
    x, params, trees = _cast((x, params, (state, dict(extras)) if state or extras else ()), dtype)
    return cut_at_tags(lambda x, params, *trees: block(params, x, *trees), what, x, params, *trees)


def _check(what: str, fn: object, x: object, orders: int | None, trees: Mapping[str, tree.Tree]) -> None:
    if not callable(fn):
        raise ArgumentError(f"{what} of {type(fn).__name__}: expected a block or a pure function")
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{what}: x is {type(x).__name__}: expected one tensor; wrap the function")
    if not x.is_floating_point():
        raise DtypeError(
            f"{what}: x is {x.dtype}, which has no tangent: expected floating point; for tokens, split the network "
            "behind its embedding"
        )
    if orders is not None and (not isinstance(orders, int) or orders < 0):
        raise ArgumentError(f"{what} orders={orders!r}: expected a whole number, at least 0, or None for all")
    for name, values in trees.items():
        finite_values(values, name)


def _cast(trees: Any, dtype: torch.dtype | None) -> Any:
    def cast(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return trees if dtype is None else tree.tree_map(cast, trees)


def _like(v: Tensor, x: Tensor) -> Tensor:
    return detached(v).to(x.dtype)
