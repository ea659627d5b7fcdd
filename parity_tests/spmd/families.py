"""Small networks of each family of blocks, whole or with their parts on several ranks, and one loss of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pure
from pure import spmd
from pure.block import Block, Params, State
from pure.skips.additive.residual import Residual

__all__ = ["FAMILIES", "SAMPLES", "Family", "Problem"]

SAMPLES = 7
"""A number that 2, 3 and 4 do not divide."""


@dataclass(frozen=True)
class Family:
    """One kind of network.

    Attributes:
        make: The network over a group, or over none.
        shape: Of one sample.
        sharded: Whether the parameters are held in parts.
    """

    make: Callable[[str | None], Block]
    shape: tuple[int, ...]
    sharded: bool = False


def _residual(group: str | None) -> Block:
    branch = pure.Sequential(pure.Linear(3, 2), pure.Activation("tanh"), pure.Linear(2, 3))
    return pure.Sequential(Residual(branch), pure.Linear(3, 2))


def _batch_norm(group: str | None) -> Block:
    return pure.Sequential(
        pure.Conv2d(1, 2, 3, padding=1),
        pure.BatchNorm(2, group=group),
        pure.Activation("tanh"),
        pure.GlobalAvgPool(),
        pure.Flatten(),
        pure.Linear(2, 2),
        pure.BatchNorm(2, group=group),
    )


def _gated(group: str | None) -> Block:
    return pure.Sequential(pure.Highway(pure.Linear(3, 3), pure.Linear(3, 3)), pure.Linear(3, 2))


def _dense(group: str | None) -> Block:
    return pure.Sequential(
        pure.DenseSkip(pure.Sequential(pure.Linear(3, 2), pure.Activation("tanh"))), pure.Linear(5, 2)
    )


def _normed(group: str | None) -> Block:
    branch = pure.Sequential(pure.LayerNorm(4), pure.Attention(4, 2))
    return pure.Sequential(Residual(branch), pure.Flatten(), pure.Linear(8, 2))


def _in_parts(group: str | None) -> Block:
    def held(block: Block) -> Block:
        return block if group is None else pure.Sharded(block, group)

    branch = pure.Sequential(pure.Linear(3, 2), pure.Activation("tanh"), pure.Linear(2, 3))
    return pure.Sequential(pure.Repeat(held(Residual(branch)), 2), held(pure.Linear(3, 2)))


FAMILIES = {
    "residual": Family(_residual, (3,)),
    "batch norm": Family(_batch_norm, (1, 3, 3)),
    "gated": Family(_gated, (3,)),
    "dense": Family(_dense, (3,)),
    "attention": Family(_normed, (2, 4)),
    "in parts": Family(_in_parts, (3,), sharded=True),
}


@dataclass(frozen=True)
class Problem:
    """A network with parameters, and a batch.

    Attributes:
        block: The network of this rank.
        params: This rank's parameters: all of them, or its parts.
        state: Of the network.
        x: This rank's samples.
        target: This rank's targets.
    """

    block: Block
    params: Params
    state: State
    x: Tensor
    target: Tensor

    @classmethod
    def of(cls, family: Family, group: str | None) -> "Problem":
        """Return the whole problem, or this rank's part of it."""
        whole = family.make(None)
        generator = torch.Generator().manual_seed(0)
        params, state = whole.init(generator, torch.float64)
        moved = pure.tree.tree_map(lambda p: p + 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype), params)
        x = torch.randn(SAMPLES, *family.shape, generator=generator, dtype=torch.float64)
        target = torch.randn(SAMPLES, 2, generator=generator, dtype=torch.float64)
        if group is None:
            return cls(whole, moved, state, x, target)
        block = family.make(group)
        own = parts_of(block, moved) if family.sharded else moved
        return cls(block, own, state, *spmd.shard((x, target), group))

    def outputs(self, params: Params, x: Tensor) -> Tensor:
        """Return the network's outputs in training."""
        return self.block.apply(params, x, self.state, {}, training=True)[0]

    def errors(self, params: Params, x: Tensor, target: Tensor) -> Tensor:
        """Return each sample's loss."""
        return (self.outputs(params, x) - target).square().sum(1) + self.outputs(params, x).sin().sum(1)


def parts_of(block: Any, params: Params) -> Params:
    """Return this rank's part of the parameters of a network whose blocks are `Sharded`."""
    if isinstance(block, pure.Sharded):
        return block.split(params)
    if isinstance(block, pure.Repeat):
        held = block.block
        return pure.stack([parts_of(held, part) for part in pure.unstack(params)])
    return {name: parts_of(child, params[name]) for name, child in block.children().items() if name in params}


def joined(block: Any, parts: Params) -> Params:
    """Return the whole parameters, or gradients, of a network whose blocks are `Sharded`."""
    if isinstance(block, pure.Sharded):
        return block.join(parts)
    if isinstance(block, pure.Repeat):
        return pure.stack([joined(block.block, part) for part in pure.unstack(parts)])
    return {name: joined(child, parts[name]) for name, child in block.children().items() if name in parts}
