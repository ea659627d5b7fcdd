"""Measurements of every draw: squared Jacobian norms, products at two inputs, path parts, forward mean squares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from pure import tree
from pure.block import Block
from pure.flow.theory.laws.path_sweep import path_parts
from pure.flow.theory.prediction import Predictions
from pure.initializers import Device

__all__ = ["Measured", "inputs", "measured", "stacked_draws"]


@dataclass(frozen=True, eq=False)
class Measured:
    """One value a draw, float64, each averaged over the vectors u of that draw.

    Attributes:
        squares: (draws,), ‖J(x)u‖².
        fourths: (draws,), ‖J(x)u‖⁴.
        other_squares: (draws,), ‖J(x′)u‖².
        products: (draws,), ⟨J(x)u, J(x′)u⟩.
        back: (draws,), ‖J(x)ᵀJ(x)u‖², whose mean is E tr (JᵀJ)²/n for an isotropic u.
        outputs: (draws,), mean square of the output's features.
        paths: (draws, orders), ‖J_k u‖²; the last order holds all higher ones too.
    """

    squares: Tensor
    fourths: Tensor
    other_squares: Tensor
    products: Tensor
    back: Tensor
    outputs: Tensor
    paths: Tensor


def stacked_draws(
    block: Block, generator: torch.Generator, draws: int, *, dtype: torch.dtype = torch.float64, device: Device = "cpu"
) -> tuple[Any, Any]:
    """Return parameters and state of `draws` networks, each leaf stacked on a new first axis, for `torch.vmap`.

    Args:
        block: any block.
        generator: of the parameters.
        draws: how many.
        dtype: of the parameters.
        device: of the parameters.

    Example:
        >>> from pure import Linear
        >>> stacked_draws(Linear(3, 2), torch.Generator().manual_seed(0), 5)[0]["weight"].shape
        torch.Size([5, 2, 3])
    """
    found = [block.init(generator, dtype, device) for _ in range(draws)]
    return tree.stack([params for params, _ in found]), tree.stack([state for _, state in found])


def inputs(
    draws: int,
    probes: int,
    width: int,
    angle: float,
    mean_square: float,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: Device = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return isotropic x and y of exactly that mean square and angle, and unit vectors u.

    Returns:
        x and y, (draws, width), and u, (draws, probes, width).

    Example:
        >>> x, y, u = inputs(2, 3, 5, math.pi / 3, 4.0, torch.Generator().manual_seed(0))
        >>> torch.allclose((x * y).mean(1), x.square().mean(1) / 2), torch.allclose(u.norm(dim=2), u.new_ones(2, 3))
        (True, True)
    """
    drawn = torch.randn((draws, 2 + probes, width), generator=generator, dtype=torch.float64, device=generator.device)
    drawn = drawn / drawn.norm(dim=2, keepdim=True)
    first, other, u = drawn[:, 0], drawn[:, 1], drawn[:, 2:]
    if width > 1:
        across = other - (first * other).sum(1, keepdim=True) * first
        other = math.cos(angle) * first + math.sin(angle) * across / across.norm(dim=1, keepdim=True)
    else:
        other = first
    scale = math.sqrt(mean_square * width)
    x, y, u = ((scale * first), (scale * other), u)
    return x.to(device, dtype), y.to(device, dtype), u.to(device, dtype)


def measured(
    block: Block,
    predictions: Predictions,
    generator: torch.Generator,
    draws: int,
    draws_at_once: int,
    probes: int,
    orders: int,
    dtype: torch.dtype,
    device: Device,
) -> Measured:
    """Return what every draw gives, `draws_at_once` of them in one mapped call.

    Args:
        block: the block.
        predictions: which say what is wanted, at what angle and mean square.
        generator: of parameters and inputs.
        draws: how many.
        draws_at_once: how many at once.
        probes: vectors u a draw.
        orders: how many numbers of branches are asked for.
        dtype: of parameters and inputs.
        device: of both.
    """
    wanted = {prediction.measure for prediction in predictions.values()}
    both, back, paths = "correlation" in wanted, bool({"trace", "ratio"} & wanted), "path" in wanted

    def one(params: Any, state: Any, x: Tensor, other: Tensor, us: Tensor) -> tuple[Tensor, ...]:
        found = vmap(lambda u: each(params, state, x, other, u))(us)
        return tuple(value.mean(0) for value in found)

    def each(params: Any, state: Any, x: Tensor, other: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        def run(value: Tensor) -> Tensor:
            out: Tensor = block(params, value[None], state)[0]
            return out

        y, ju = jvp(run, (x,), (u,))[:2]
        there = jvp(run, (other,), (u,))[1] if both else ju
        pulled = vjp(run, x)[1](ju)[0] if back else u
        parts = path_parts(block, params, x[None], u[None], orders + 1)[:, 0] if paths else u[None]
        values = (ju, there, pulled, parts, y / math.sqrt(y.numel()))
        squares = [value.double().square().sum(-1) for value in values]
        return (*squares, (ju.double() * there.double()).sum(-1), squares[0].square())

    rows: list[tuple[Tensor, ...]] = []
    left = draws
    while left:
        count = min(draws_at_once, left)
        left -= count
        params, state = stacked_draws(block, generator, count, dtype=dtype, device=device)
        points = inputs(
            count, probes, predictions.width, predictions.angle, predictions.mean_square, generator, dtype, device
        )
        rows.append(vmap(one)(params, state, *points))
    ju, there, pulled, parts, y, product, fourth = (torch.cat(column) for column in zip(*rows, strict=True))
    return Measured(ju, fourth, there, product, pulled, y, parts)
