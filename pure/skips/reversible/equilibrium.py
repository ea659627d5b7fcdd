"""Deep equilibrium blocks: a branch's fixed point, differentiated implicitly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.func import jvp, vjp

from pure import tree
from pure.block import Block, Extras, Params, specification
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError, ShapeError
from pure.layers.transform_levels import is_forward_over_forward
from pure.leaf import describe
from pure.tags import WATCHERS, tag

__all__ = ["Equilibrium"]


class _Implicit(torch.autograd.Function):
    """z with z = f(p, z, x); its derivatives solve linear equations by the same iteration."""

    generate_vmap_rule = True

    @staticmethod
    def forward(block: Equilibrium, spec: Any, x: Any, *leaves: Any) -> Any:
        params = tree.tree_unflatten(list(leaves), spec)
        return block.solve(lambda z: block.field(params, z, x), torch.zeros_like(x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.block, ctx.spec, x, *leaves = inputs
        ctx.save_for_backward(output, x, *leaves)
        ctx.save_for_forward(output, x, *leaves)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        z, x, *leaves = ctx.saved_tensors
        params = tree.tree_unflatten(leaves, ctx.spec)
        (g,) = cotangents
        through = vjp(lambda z: ctx.block.field(params, z, x), z)[1]
        u = ctx.block.solve(lambda u: g + through(u)[0], g)
        by_params, by_x = vjp(lambda p, x: ctx.block.field(p, z, x), params, x)[1](u)
        return None, None, by_x, *tree.leaves(by_params)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        z, x, *leaves = ctx.saved_tensors
        primals = tree.tree_unflatten(leaves, ctx.spec), x
        given = [torch.zeros_like(p) if t is None else t for p, t in zip((x, *leaves), tangents[2:], strict=True)]
        moved = tree.tree_unflatten(given[1:], ctx.spec), given[0]
        b = jvp(lambda p, x: ctx.block.field(p, z, x), primals, moved)[1]
        return ctx.block.solve(
            lambda u: b + jvp(lambda z: ctx.block.field(primals[0], z, primals[1]), (z,), (u,))[1], b
        )


@dataclass(frozen=True, repr=False)
class Equilibrium(Composite):
    """z* = f(z*, x), found by z ← (1 − d) z + d f(z, x) from z = 0, a fixed number of times.

    The branch gets [z, x] along an axis and gives z. The gradient is the implicit one, (I − ∂f/∂z)⁻¹ by the same
    iteration: no iterate is stored. Nothing tells whether the iteration has converged: f must contract in z, and
    then each further iteration divides the error by the same factor. While something captures, traces for export,
    compiles or takes `jvp` of `jvp`, the iterations are unrolled, which gives the same values, and the same derivatives
    once converged.

    Tags: "stream" (z*).

    Args:
        branch: f, from twice the features to the features, without state or noise; it gets no extras.
        iterations: how many, for the value as for its derivatives.
        damping: d, above 0 and at most 1.
        axis: the axis that x is appended to.

    Raises:
        ArgumentError: fewer than one iteration, a damping out of range, or a branch with state or noise.
        RankError: an input that has only a batch axis.
        ShapeError: f(z, x) differs from x in shape.

    Source: Bai et al. 2019 (1909.01377), theorem 1.

    Example:
        >>> from pure import Linear
        >>> block = Equilibrium(Linear(4, 2))
        >>> params = {"branch": {"weight": torch.tensor([[0.5, 0, 1, 0], [0, 0.5, 0, 1]]), "bias": torch.zeros(2)}}
        >>> block(params, torch.ones(1, 2))  # z = z / 2 + x
        tensor([[2., 2.]])
    """

    branch: Block
    iterations: int = 40
    damping: float = 1.0
    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or not 0 < self.damping <= 1:
            raise ArgumentError(
                f"Equilibrium iterations={self.iterations}, damping={self.damping}: expected at least 1 iteration and "
                "a damping above 0, at most 1"
            )
        if self.branch.stochastic or specification(self.branch)[1]:
            raise ArgumentError(f"Equilibrium of {self.branch}: expected a branch without state or noise")

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return z*."""
        if x.ndim < 2:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, …): add x.unsqueeze(0)")
        if WATCHERS or torch.compiler.is_dynamo_compiling() or is_forward_over_forward():
            z = self.solve(lambda z: self._fit(run("branch", torch.cat([z, x], self.axis)), x), torch.zeros_like(x))
        else:
            leaves, spec = tree.tree_flatten(params)
            z = _Implicit.apply(self, spec, x, *leaves)
        return tag(z, "stream")

    def field(self, params: Params, z: Any, x: Any) -> Any:
        """Return f(z, x)."""
        return self._fit(self.branch(params.get("branch", {}), torch.cat([z, x], self.axis)), x)

    def solve(self, f: Any, z: Any) -> Any:
        """Return z after the damped iterations of `f`."""
        for _ in range(self.iterations):
            new = f(z)
            z = new if self.damping == 1 else (1 - self.damping) * z + self.damping * new
        return z

    def _fit(self, f: Any, x: Any) -> Any:
        if f.shape != x.shape:
            raise ShapeError(f"{self}: f gives {tuple(f.shape)} for a stream of {tuple(x.shape)}: expected one shape")
        return f
