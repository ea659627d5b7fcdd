"""Attention residuals: each branch reads a softmax average over what the earlier ones gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.block import Block, Extras, Params, Shape, State
from pure.composite import Run
from pure.errors import ArgumentError, RankError, ShapeError
from pure.initializers import Constant, Device, check_generator
from pure.layers.alignment import fits, widen
from pure.leaf import Leaf, describe
from pure.skips.streams.stream_axis import Stack
from pure.tags import tag

__all__ = ["DepthAttention", "DepthRead"]


@dataclass(frozen=True, repr=False)
class DepthRead(Leaf):
    """Attention over the sources of axis 1: h = Σᵢ αᵢ vᵢ with α = softmaxᵢ(scale · q · RMS(vᵢ)), position by position.

    (batch, n, …, features) becomes (batch, …, features). The query is learnt and the same at every position; at 0,
    where it starts, h is the mean of the sources. A learnt gain of RMS would only rescale the query: there is none.

    Leaf: `query` (features,). Tag: "weights" (α, a gate, by (batch, n, …)).

    Args:
        features: size of the last axis.
        scale: factor of the logits; 1 in the paper, features^−½ in Inkling 2.
        normalised: whether RMS(vᵢ) stands in the sum too, as in Inkling 2, in place of vᵢ.
        eps: added to the mean square in RMS.

    Raises:
        RankError: an input without an axis of sources.
        ShapeError: another number of features.

    Source: Kimi Team 2026 (2603.15031), the equations of full attention residuals.

    Example:
        >>> read = DepthRead(2)
        >>> params, _ = read.init(torch.Generator())
        >>> read(params, torch.tensor([[[1.0, 1.0], [3.0, 5.0]]]))
        tensor([[2., 3.]])
    """

    features: int
    scale: float = 1.0
    normalised: bool = False
    eps: float = 1e-6

    def leaf_names(self) -> tuple[str, ...]:
        """Return the name of the parameter."""
        return ("query",)

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Return the zero query; nothing is drawn."""
        return {"query": Constant(0.0)((self.features,), check_generator(generator), dtype, device)}, {}

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the average over axis 1."""
        if x.ndim < 3:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, sources, …, {self.features})")
        query: Tensor = params["query"]
        if query.shape != (self.features,) or not fits(query, x):
            raise RuntimeError(f"query {describe(query)}")
        if x.shape[-1] != self.features:
            raise ShapeError(f"{self}: input {describe(x)}, expected {self.features} features on the last axis")
        wide = widen(x)
        keys = F.rms_norm(wide, (self.features,), None, self.eps)
        logits = self.scale * (keys * query.to(wide.dtype)).sum(-1)
        weights = tag(torch.softmax(logits, 1), "weights", kind="gate")
        return (weights.unsqueeze(-1) * (keys if self.normalised else wide)).sum(1).to(x.dtype)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, …, features)."""
        return (x_shape[0], *x_shape[2:])


@dataclass(frozen=True, repr=False)
class DepthAttention(Stack):
    """Attention residuals: branch l sees hₗ = read(v₀, …, vₗ₋₁), vₗ = fₗ(hₗ), with v₀ the input; y reads them all.

    With `size` above 1 the branches stand in blocks of that many (block attention residuals): the sources are the
    input, the sum of each finished block, and the sum so far of the running one. The first branch sees the input
    itself. Queries start at 0, so that all sources count alike.

    Children: the branches "0", "1", …, and "read1" … "readL", the last for the output.
    Tags: "branch[l]" (vₗ), "stream[l]" (hₗ, the last one the output).

    Args:
        blocks: the branches f₁ … f_L, each with its own norm in front; they keep the input's shape.
        read: how the sources are averaged; each place gets its own query.
        size: branches a block.

    Raises:
        ArgumentError: `size` below 1.
        ShapeError: a branch that changes the shape.

    Source: Kimi Team 2026 (2603.15031), full and block attention residuals.

    Example:
        >>> from pure import Linear
        >>> net = DepthAttention((Linear(3, 3), Linear(3, 3)), DepthRead(3))
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> net(params, torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    read: DepthRead
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ArgumentError(f"DepthAttention size={self.size}: expected at least 1 branch a block")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the branches, then a read before each but the first and one behind the last."""
        return super().parts() | {f"read{index}": self.read for index in range(1, len(self.blocks) + 1)}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the read behind the last branch."""
        sources, h = [x], x
        for index in range(len(self.blocks)):
            f = tag(run(str(index), h), f"branch[{index}]", kind="branch")
            if f.shape != x.shape:
                raise ShapeError(
                    f"DepthAttention: block '{index}' gives {tuple(f.shape)} from {tuple(x.shape)}: expected one shape"
                )
            if index % self.size:
                sources[-1] = sources[-1] + f
            else:
                sources.append(f)
            h = tag(run(f"read{index + 1}", torch.stack(sources, 1)), f"stream[{index}]")
        return h
