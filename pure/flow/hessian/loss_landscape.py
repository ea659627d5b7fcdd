"""The loss along random directions in parameter space, each filter of a direction as long as the network's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError
from pure.flow.shared.input_checks import check_outermost, explained, finite_values, named_leaves, purely, scalar
from pure.flow.shared.leaf_provenance import Provenance
from pure.flow.shared.result import Readings
from pure.flow.shared.text_table import table

__all__ = ["Landscape", "filter_normalised", "landscape"]


@dataclass(frozen=True, eq=False)
class Landscape(Readings[str, Any]):
    """Losses on a grid around the parameters. As a mapping: the fields of `to_dict`.

    Attributes:
        losses: (points,) along one direction, (points, points) over two: `losses[i, j]` is at `coordinates[i]` times
            the first direction plus `coordinates[j]` times the second. float64; NaN and infinity stay as they are.
        coordinates: (points,), in units of the direction: at 1 each filter has moved by its own norm.
        centre: the loss of the parameters themselves.
        directions: the normalised directions, trees like the parameters.
    """

    losses: Tensor
    coordinates: Tensor
    centre: float
    directions: tuple[tree.Tree, ...]

    @property
    def _readings(self) -> Mapping[str, Any]:
        return self.to_dict()

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.losses.shape))
        return f"Landscape({shape} points, centre {self.centre:.4g}, lowest {float(self.losses.min()):.4g})"

    def table(self) -> str:
        """Return a plain text table of the loss along each axis through the centre of the grid."""
        middle = len(self.coordinates) // 2
        lines = [self.losses] if self.losses.ndim == 1 else [self.losses[:, middle], self.losses[middle]]
        columns = [line.tolist() for line in lines]
        head = ["distance", *(f"direction {at}" for at in range(len(lines)))]
        rows = [[f"{c:.4g}", *values] for c, *values in zip(self.coordinates.tolist(), *columns, strict=True)]
        return table(head, rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON; the directions are left out."""
        return {name: value for name, value in super().to_dict().items() if name != "directions"}


def landscape(
    loss: Callable[..., Any],
    params: tree.Tree,
    *batch: tree.Tree,
    directions: int | Sequence[tree.Tree] = 2,
    generator: torch.Generator | None = None,
    points: int = 25,
    radius: float = 1.0,
    chunk_size: int = 1,
) -> Landscape:
    """Return the loss on a line or a plane through the parameters, along filter-normalised directions.

    A random direction is normal; then every filter of it, the values that make one output of a leaf of two axes or
    more, is scaled to the norm of the network's own filter. Leaves of fewer axes (biases, the gains of norms) do not
    move, as in the source. Leaves that a `Repeat` stacks are normalised depth by depth.

    Args:
        loss: `loss(params, *batch)` is the whole batch's scalar loss.
        params: any tree of floating-point tensors.
        batch: what the loss takes after params.
        directions: 1 or 2 random directions, or one or two trees like the parameters, which are taken as they are:
            `filter_normalised` normalises one, such as an eigenvector or the way to another minimum.
        generator: for random directions.
        points: along each axis; odd, so that the parameters themselves are on the grid.
        radius: how far the grid goes, in units of the direction.
        chunk_size: grid points evaluated together by `torch.func.vmap`; 1 runs them one by one.

    Raises:
        ShapeError: the loss is not a scalar.
        ArgumentError: another number of directions, random ones without a generator, an even number of points, or
            params or batch that hold NaN.
        TreeError: a direction that is no tree like the parameters.
        UnsupportedError: a loss that draws random numbers or works in place.
        DtypeError: integer parameters.

    Source: Li et al. 2018 (1712.09913), section 3.

    Example:
        >>> loss = lambda p: p["weight"].square().sum()
        >>> found = landscape(
        ...     loss, {"weight": torch.ones(2, 3)}, directions=1, generator=torch.Generator().manual_seed(0), points=3
        ... )
        >>> found.coordinates, found.losses[1], found.centre
        (tensor([-1.,  0.,  1.], dtype=torch.float64), tensor(6., dtype=torch.float64), 6.0)
    """
    check_outermost("landscape")
    leaves = named_leaves(loss, params)
    finite_values(params, "params")
    finite_values(batch, "batch")
    if points < 3 or points % 2 == 0 or not radius > 0 or chunk_size < 1:
        raise ArgumentError(
            f"points={points}, radius={radius}, chunk_size={chunk_size}: expected an odd number of points from 3 on, a "
            "radius above 0, and a chunk of at least 1"
        )
    spec = tree.tree_flatten(params)[1]
    stacked: dict[str, int] = {}

    def at(values: list[Tensor]) -> Tensor:
        return scalar(loss(tree.tree_unflatten(values, spec), *batch), "the batch's")

    with torch.no_grad():
        follower = Provenance(leaves)
        with purely("landscape", params=params, batch=batch), follower:
            centre = at(list(leaves.values()))
        for origin in follower.parts:
            stacked[origin.name] = max(stacked.get(origin.name, 0), len(origin.path))
        chosen = _directions(directions, generator, leaves, spec, stacked)
        lists = [list(tree.flatten(direction).values()) for direction in chosen]
        line = torch.linspace(-radius, radius, points, dtype=torch.float64)
        grid = torch.cartesian_prod(*[line] * len(lists)).reshape(-1, len(lists))

        def moved(steps: Tensor) -> Tensor:
            values = [
                leaf + sum(steps[i].to(leaf.dtype) * moves[at_leaf] for i, moves in enumerate(lists))
                for at_leaf, leaf in enumerate(leaves.values())
            ]
            return at(values).double()

        first = next(iter(leaves.values()), centre)
        grid = grid.to(first.device)
        try:
            if chunk_size == 1:
                losses = torch.stack([moved(steps) for steps in grid])
            else:
                losses = torch.func.vmap(moved, chunk_size=chunk_size)(grid)
        except RuntimeError as error:
            raise explained(error) from error
    shape = (points,) * len(lists)
    return Landscape(losses.reshape(shape), line, float(centre), tuple(chosen))


def _directions(
    directions: int | Sequence[tree.Tree],
    generator: torch.Generator | None,
    leaves: Mapping[str, Tensor],
    spec: Any,
    stacked: Mapping[str, int],
) -> list[tree.Tree]:
    params = tree.tree_unflatten(list(leaves.values()), spec)
    if not isinstance(directions, int):
        given = list(directions)
        for direction in given:
            tree.check(direction, params, what="direction")
        if len(given) not in (1, 2):
            raise ArgumentError(f"{len(given)} directions: expected 1 or 2")
        orders = [tree.flatten(direction) for direction in given]
        return [tree.tree_unflatten([flat[name].detach() for name in leaves], spec) for flat in orders]
    if directions not in (1, 2):
        raise ArgumentError(f"directions={directions}: expected 1 or 2")
    if generator is None:
        raise ArgumentError("random directions without a generator: give generator=torch.Generator().manual_seed(0)")
    drawn = []
    for _ in range(directions):
        values = [
            torch.randn(leaf.shape, generator=generator, dtype=torch.float64, device=generator.device).to(leaf)
            for leaf in leaves.values()
        ]
        drawn.append(_normalised(dict(zip(leaves, values, strict=True)), leaves, spec, stacked))
    return drawn


def filter_normalised(
    direction: tree.Tree, params: tree.Tree, *, stacked: Mapping[str, int] | None = None
) -> tree.Tree:
    """Return the direction with every filter scaled to the norm of the parameters' own, and the other leaves at 0.

    Args:
        direction: a tree like the parameters.
        params: any tree of floating-point tensors.
        stacked: {dotted leaf: how many first axes stack the same leaf of several layers}; 0 for the others. What
            `Repeat` stacks has 1.

    Raises:
        TreeError: the trees differ.

    Source: Li et al. 2018 (1712.09913), section 3.

    Example:
        >>> params = {"weight": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "bias": torch.ones(2)}
        >>> filter_normalised({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, params)["weight"].norm(dim=1).round()
        tensor([5., 2.])
    """
    tree.check(direction, params, what="direction")
    flat = tree.flatten(params)
    given = tree.flatten(direction)
    return _normalised({name: given[name] for name in flat}, flat, tree.tree_flatten(params)[1], stacked or {})


def _normalised(
    direction: Mapping[str, Tensor], leaves: Mapping[str, Tensor], spec: Any, stacked: Mapping[str, int]
) -> tree.Tree:
    parts = []
    for name, leaf in leaves.items():
        layers = stacked.get(name, 0)
        if leaf.ndim - layers < 2:
            parts.append(torch.zeros_like(leaf))
            continue
        axes = tuple(range(layers + 1, leaf.ndim))
        own, drawn = (
            torch.linalg.vector_norm(part, dim=axes, keepdim=True, dtype=torch.float64)
            for part in (leaf, direction[name])
        )
        parts.append((direction[name] * torch.where(drawn > 0, own / drawn, 0.0)).to(leaf.dtype))
    return tree.tree_unflatten(parts, spec)
