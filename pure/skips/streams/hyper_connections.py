"""Hyper-connections: n streams with learnt read, mixing and write weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params
from pure.compose import Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError, ShapeError
from pure.initializers import Device
from pure.layers.norm import LayerNorm
from pure.leaf import describe
from pure.skips.streams.stream_axis import Collapse, Expand, owned
from pure.tags import tag

__all__ = ["HyperConnection", "check_streams", "hyper_connected", "write"]


@dataclass(frozen=True, repr=False)
class HyperConnection(Composite):
    """X′ = A_rᵀ X + β ⊗ f(αᵀ X) for n streams X of shape (batch, n, …).

    Static weights are learnt numbers. Dynamic ones depend on the streams: with H = norm(X), features last,
    α = α₀ + s_α tanh(H W_α), the same for A_r, and β = β₀ + s_β tanh(H w_β).

    At first α picks one stream (layer mod n), A_r = I, β = 1 and the dynamic weights are 0: between `Expand` and
    `Collapse("mean")` that is exactly the plain residual network, whose stream each of the n then is.

    The hyper-connections package takes an RMS norm with a gain for LayerNorm, and is else equal.

    Leaves: `alpha` (n, 1 + n), the columns α and A_r; `beta` (n,); if dynamic `alpha_weight` (1 + n, features),
    `alpha_scale` (), `beta_weight` (features,), `beta_scale` (). Tags: "branch" (β ⊗ f), "stream" (X′).

    Args:
        branch: f, on one stream (batch, …), whose shape it keeps.
        streams: n.
        layer: position in the network; tells which stream the branch reads at first.
        features: size of the last axis, for dynamic weights; None for static ones.
        norm: the norm of the streams before the dynamic weights; None is LayerNorm, as in the paper.

    Raises:
        ArgumentError: fewer than one stream, or a norm of static weights.
        RankError: an input without an axis of streams.
        ShapeError: another number of streams, or a branch that changes the shape.

    Source: Zhu et al. 2024 (2409.19606), equations 1 to 14 and algorithm 2.

    Example:
        >>> from pure import Linear
        >>> block = HyperConnection(Linear(3, 3), 2)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(4, 2, 3)).shape
        torch.Size([4, 2, 3])
    """

    branch: Block
    streams: int
    layer: int = 0
    features: int | None = None
    norm: Block | None = None

    def __post_init__(self) -> None:
        if self.streams < 1:
            raise ArgumentError(f"HyperConnection streams={self.streams}: expected at least 1")
        if self.features is None and self.norm is not None:
            raise ArgumentError(f"HyperConnection norm={self.norm}: static weights have none: give features too")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the branch and, for dynamic weights, the norm."""
        if self.features is None:
            return {"branch": self.branch}
        return {"branch": self.branch, "norm": self.norm or LayerNorm(self.features)}

    def own(self, generator: torch.Generator, dtype: torch.dtype, device: Device) -> Params:
        """Return the weights of the plain residual network."""
        n, kind = self.streams, {"dtype": dtype, "device": device}
        eye = torch.eye(n, **kind)  # type: ignore[call-overload]
        pick = self.layer % n
        params = {"alpha": torch.cat([eye[:, pick : pick + 1], eye], 1), "beta": eye.sum(0)}
        if self.features is not None:
            params["alpha_weight"] = torch.zeros(1 + n, self.features, dtype=dtype, device=device)
            params["alpha_scale"] = torch.full((), 0.01, dtype=dtype, device=device)
            params["beta_weight"] = torch.zeros(self.features, dtype=dtype, device=device)
            params["beta_scale"] = torch.full((), 0.01, dtype=dtype, device=device)
        return params

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the new streams."""
        check_streams(self, x, self.streams, self.features)
        n, d = self.streams, self.features
        alpha = owned(self, params, "alpha", (n, 1 + n), x)
        beta = owned(self, params, "beta", (n,), x)
        inner = x.movedim(1, -2)  # streams beside the features
        if d is not None:
            h = run("norm", inner)
            weight = owned(self, params, "alpha_weight", (1 + n, d), x)
            alpha = alpha + owned(self, params, "alpha_scale", (), x) * torch.tanh(h @ weight.mT)
            vector = owned(self, params, "beta_weight", (d,), x)
            beta = beta + owned(self, params, "beta_scale", (), x) * torch.tanh((h * vector).sum(-1))
        mixed = alpha.mT @ inner
        read, kept = mixed[..., 0, :], mixed[..., 1:, :]
        return write(self, run("branch", read), read, beta, kept)


def check_streams(block: Block, x: Any, streams: int, features: int | None) -> None:
    """Check that `x` is (batch, streams, …), with that many features last where they are given.

    Raises:
        RankError: there is no axis of streams.
        ShapeError: another number of streams or features.
    """
    if x.ndim < 3:
        raise RankError(f"{block}: input {describe(x)}, expected (batch, {streams}, …): put Expand({streams}) in front")
    if x.shape[1] != streams or (features is not None and x.shape[-1] != features):
        last = "" if features is None else f" and {features} features on the last"
        raise ShapeError(f"{block}: input {describe(x)}, expected {streams} streams on axis 1{last}")


def write(block: Block, f: Tensor, read: Tensor, beta: Tensor, kept: Tensor) -> Tensor:
    """Return kept + β ⊗ f with the streams back on axis 1; `kept` has them beside the last axis, `beta` last.

    Raises:
        ShapeError: `f` has another shape than what the branch read.
    """
    if f.shape != read.shape:
        raise ShapeError(
            f"{block}: the branch gives {tuple(f.shape)} from one stream of {tuple(read.shape)}: expected one shape"
        )
    branch = tag((beta.unsqueeze(-1) * f.unsqueeze(-2)).movedim(-2, 1), "branch", kind="branch")
    return tag(kept.movedim(-2, 1) + branch, "stream")


def hyper_connected(*branches: Block, streams: int = 4, features: int | None = None) -> Sequential:
    """Return the network over `branches` with hyper-connections in place of its residual ones.

    The input is copied into the streams, which are summed behind the last branch: at first n times what the plain
    residual network gives, which the norm in front of a head takes out.

    Args:
        branches: f₁ … f_L, each with its own norm in front.
        streams: n.
        features: size of the last axis, for dynamic weights; None for static ones.

    Source: Zhu et al. 2024 (2409.19606), algorithm 1.

    Example:
        >>> from pure import Linear
        >>> list(hyper_connected(Linear(3, 3), Linear(3, 3), streams=2).children())
        ['expand', 'layer0', 'layer1', 'collapse']
    """
    layers = {
        f"layer{index}": HyperConnection(branch, streams, index, features) for index, branch in enumerate(branches)
    }
    return Sequential(expand=Expand(streams), **layers, collapse=Collapse())
