"""Manifold-constrained hyper-connections: doubly stochastic mixing of the streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ArgumentError
from pure.initializers import Device, Initializer, Normal
from pure.layers.alignment import widen
from pure.skips.streams.hyper_connections import check_streams, write
from pure.skips.streams.stream_axis import owned
from pure.tags import tag

__all__ = ["ManifoldConnection", "sinkhorn"]


def sinkhorn(logits: Tensor, iterations: int = 20, eps: float = 0.0) -> Tensor:
    """Return exp(logits) scaled so that rows and columns sum to 1 (Sinkhorn–Knopp).

    Rows are divided by their sums, then columns, `iterations` times: the columns of the result sum to 1 up to rounding
    and `eps`, the rows to what the iteration has reached.

    Args:
        logits: (…, n, n), of any values.
        iterations: how often rows and columns are divided; each is differentiated through.
        eps: added to the first matrix and to every sum, as DeepSeek-V4 does; 0 is the paper's.

    Source: Xie et al. 2025 (2512.24880), section 4.2; Sinkhorn and Knopp 1967.

    Example:
        >>> m = sinkhorn(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        >>> torch.stack([m.sum(0), m.sum(1)]).sub(1).abs().max() < 1e-6
        tensor(True)
    """
    matrix = torch.softmax(logits, -1) + eps
    matrix = matrix / (matrix.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        matrix = matrix / (matrix.sum(-1, keepdim=True) + eps)
        matrix = matrix / (matrix.sum(-2, keepdim=True) + eps)
    return matrix


@dataclass(frozen=True, repr=False)
class ManifoldConnection(Composite):
    """X′ = H_res X + h_post ⊗ f(h_preᵀ X) for n streams X of shape (batch, n, …, features): mHC as in DeepSeek-V4.

    With r = RMS(vec X) over all n · features values of a position and W r in three parts,
    h_pre = σ(s₀ W₀r + b₀) + ε, h_post = 2σ(s₁ W₁r + b₁), H_res = Sinkhorn(s₂ W₂r + b₂)ᵀ. With ε = 0 these are the
    paper's equations. The form of the hyper-connections package differs: its weights see one stream at a time.

    As far as H_res is doubly stochastic, the mean of the streams changes only by what the branches write.
    The weights are computed in float32 at least.

    Leaves: `weight` (n(n + 2), n · features), `bias` (n(n + 2),), `scale` (3,), the order pre, post, res; the
    bias and weight of H_res by [from, to]. Tags: "pre" (h_pre, a gate), "branch" (h_post ⊗ f), "stream" (X′).

    Args:
        branch: f, on one stream (batch, …, features), whose shape it keeps.
        streams: n.
        features: size of the last axis.
        iterations: Sinkhorn iterations.
        eps: ε.
        norm_eps: added to the mean square in RMS.
        scale: s at first.
        weight_init: rule for W; b is 0 at first.

    Raises:
        ArgumentError: fewer than one stream or iteration.
        RankError: an input without an axis of streams.
        ShapeError: another number of streams or features, or a branch that changes the shape.

    Source: Xie et al. 2025 (2512.24880), section 4, scale 0.01; names and ε of DeepSeek-V4's published model code.

    Example:
        >>> from pure import Linear
        >>> block = ManifoldConnection(Linear(3, 3), 2, 3)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(4, 2, 3)).shape
        torch.Size([4, 2, 3])
    """

    branch: Block
    streams: int
    features: int
    iterations: int = 20
    eps: float = 1e-6
    norm_eps: float = 1e-6
    scale: float = 0.01
    weight_init: Initializer = Normal(0.0, 0.02)

    def __post_init__(self) -> None:
        if self.streams < 1 or self.iterations < 1:
            raise ArgumentError(
                f"ManifoldConnection streams={self.streams}, iterations={self.iterations}: expected at least 1 for both"
            )
        super().__post_init__()

    def own(self, generator: torch.Generator, dtype: torch.dtype, device: Device) -> Params:
        """Draw the weight; the bias is 0 and the scales are constant."""
        rows = self.streams * (self.streams + 2)
        return {
            "weight": self.weight_init((rows, self.streams * self.features), generator, dtype, device),
            "bias": torch.zeros(rows, dtype=dtype, device=device),
            "scale": torch.full((3,), self.scale, dtype=dtype, device=device),
        }

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the new streams."""
        check_streams(self, x, self.streams, self.features)
        inner = x.movedim(1, -2)
        pre, post, res = self._weights(params, inner)
        read = (pre.unsqueeze(-1) * inner).sum(-2)
        return write(self, run("branch", read), read, post, res.mT @ inner)

    def _weights(self, params: Params, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return h_pre, h_post and H_resᵀ at every position of (batch, …, n, features)."""
        n, dtype = self.streams, inner.dtype
        weight = widen(owned(self, params, "weight", (n * (n + 2), n * self.features), inner))
        parts = widen(owned(self, params, "bias", (n * (n + 2),), inner)).split([n, n, n * n])
        scales = widen(owned(self, params, "scale", (3,), inner))
        flat = F.rms_norm(widen(inner.flatten(-2)), (n * self.features,), None, self.norm_eps)
        given = F.linear(flat, weight).split([n, n, n * n], -1)
        pre, post, res = (scales[i] * value + bias for i, (value, bias) in enumerate(zip(given, parts, strict=True)))
        gate = tag(torch.sigmoid(pre), "pre", kind="gate")
        matrix = sinkhorn(res.unflatten(-1, (n, n)), self.iterations, self.eps)
        return (gate + self.eps).to(dtype), (2 * torch.sigmoid(post)).to(dtype), matrix.to(dtype)
