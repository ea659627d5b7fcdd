"""A stack of reversible blocks whose gradient recomputes the activations from the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.func import jvp, vjp

from pure import tree
from pure.block import EMPTY, Extras, Params, State, specification
from pure.composite import Run
from pure.errors import ArgumentError
from pure.layers.transform_levels import is_forward_over_forward
from pure.skips.reversible.coupling import Invertible, Reversible, inverse
from pure.skips.streams.stream_axis import Stack
from pure.tags import WATCHERS, tag

__all__ = ["ReversibleStack"]


class _Reversal(torch.autograd.Function):
    """Runs the blocks; keeps the parameters and the output, and none of the values between."""

    generate_vmap_rule = True

    @staticmethod
    def forward(blocks: tuple[Invertible, ...], spec: Any, x: Any, *leaves: Any) -> Any:
        return _run(blocks, spec, x, *leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.blocks, ctx.spec, x, *leaves = inputs
        ctx.save_for_backward(output, *leaves)
        ctx.save_for_forward(x, *leaves)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        y, *leaves = ctx.saved_tensors
        (cotangent,) = cotangents
        params, gradients = tree.tree_unflatten(leaves, ctx.spec), {}
        for name, block in reversed(list(enumerate(ctx.blocks))):
            own = params.get(str(name), EMPTY)
            y = block.inverse(own, y)
            gradients[str(name)], cotangent = vjp(block, own, y)[1](cotangent)
        ordered = {name: gradients[name] for name in params}
        return None, None, cotangent, *tree.leaves(ordered)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        x, *leaves = ctx.saved_tensors

        def run(*primals: Any) -> Any:
            return _run(ctx.blocks, ctx.spec, *primals)

        given = [torch.zeros_like(p) if t is None else t for p, t in zip((x, *leaves), tangents[2:], strict=True)]
        return jvp(run, (x, *leaves), tuple(given))[1]


def _run(blocks: tuple[Invertible, ...], spec: Any, x: Any, *leaves: Any) -> Any:
    params = tree.tree_unflatten(list(leaves), spec)
    for name, block in enumerate(blocks):
        x = block(params.get(str(name), EMPTY), x)
    return x


@dataclass(frozen=True, repr=False)
class ReversibleStack(Stack, Invertible):
    """A chain of reversible blocks; its gradient stores only the output, at any depth.

    The backward pass computes each block's input from its output and differentiates the block there, at the price of
    one more evaluation a block and of the rounding of its inverse. It composes with grad, vmap, jvp and second
    derivatives. While something captures, traces for export, compiles or takes `jvp` of `jvp`, the blocks run as a
    `Sequential` would, with the same values.

    Tags: "stream" (the output), and those of the blocks.

    Args:
        blocks: `Reversible` ones, without state or noise; they get no extras.

    Raises:
        ArgumentError: a block that is no reversible one, or has state or noise: put it into a `Sequential`.

    Source: Gomez et al. 2017 (1707.04585), algorithm 1.

    Example:
        >>> from pure import Linear
        >>> from pure.skips.reversible.coupling import Reversible
        >>> net = ReversibleStack((Reversible(Linear(2, 2), Linear(2, 2)),) * 3)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> torch.func.grad(lambda x: net(params, x).sum())(torch.ones(1, 4)).shape
        torch.Size([1, 4])
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for index, block in enumerate(self.blocks):
            if not isinstance(block, Reversible | ReversibleStack) or block.stochastic or specification(block)[1]:
                raise ArgumentError(
                    f"ReversibleStack block '{index}' is {block}: expected a Reversible without state or noise; "
                    "a Sequential takes any block, and stores what lies between"
                )

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the last block's output."""
        if WATCHERS or torch.compiler.is_dynamo_compiling() or is_forward_over_forward():
            for name in self.children():
                x = run(name, x)
            return tag(x, "stream")
        leaves, spec = tree.tree_flatten(params)
        return _Reversal.apply(self.blocks, spec, x, *leaves)

    def inverse(self, params: Params, y: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
        """Return the x with `block(params, x) = y`, up to rounding."""
        for index, block in reversed(list(enumerate(self.blocks))):
            y = inverse(block, params.get(str(index), EMPTY), y)
        return y
