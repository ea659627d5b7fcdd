"""gMLP's spatial gating: half the features times a map of the other half over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pure.block import Block, Extras, Params
from pure.compose.chain import Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError, ShapeError
from pure.initializers import Constant, Normal
from pure.layers.activation import Activation
from pure.layers.dropout import DropPath
from pure.layers.linear import Linear
from pure.layers.norm import LayerNorm
from pure.skips.additive.residual import Residual

__all__ = ["SpatialGating", "gmlp_block"]


@dataclass(frozen=True, repr=False)
class SpatialGating(Composite):
    """y = u ⊙ (W norm(v) + b) with x = [u, v] split along the features, W and b along the tokens.

    W starts near 0 and b at 1, so that y ≈ u: nearly no mixing of tokens at first.

    Children: `norm` (LayerNorm over features / 2), `proj` (Linear over the tokens).

    Args:
        features: size of the last axis of x, even; y has half of it.
        tokens: size of axis 1 of x.
        std: of W at first.

    Raises:
        ArgumentError: an odd number of features.
        RankError: x is not (batch, tokens, features).
        ShapeError: other sizes than `tokens` and `features`.

    Source: Liu et al. 2021 (2105.08050), section 2.1.

    Example:
        >>> import torch
        >>> block = SpatialGating(6, tokens=4)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> x = torch.ones(2, 4, 6)
        >>> bool((block(params, x) - x[..., :3]).abs().max() < 1e-4)
        True
    """

    features: int
    tokens: int
    std: float = 1e-6

    def __post_init__(self) -> None:
        if self.features % 2 or self.features < 2:
            raise ArgumentError(f"SpatialGating features={self.features}: expected an even number, split into halves")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the norm and the map along the tokens."""
        proj = Linear(self.tokens, self.tokens, weight_init=Normal(std=self.std), bias_init=Constant(1.0))
        return {"norm": LayerNorm(self.features // 2), "proj": proj}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return u ⊙ (W norm(v) + b)."""
        if x.ndim != 3:
            raise RankError(f"{self}: input {tuple(x.shape)}, expected (batch, {self.tokens}, {self.features})")
        if tuple(x.shape[1:]) != (self.tokens, self.features):
            raise ShapeError(f"{self}: input {tuple(x.shape)}, expected (batch, {self.tokens}, {self.features})")
        half = self.features // 2
        v = run("norm", x[..., half:])
        # Contiguous, because the product's kernel would otherwise depend on whether W requires grad.
        return x[..., :half] * run("proj", v.transpose(1, 2).contiguous()).transpose(1, 2)


def gmlp_block(features: int, hidden: int, tokens: int, *, drop_path: float = 0.0) -> Residual:
    """Return x + W₂ spatial_gating(gelu(W₁ LN(x))), leaves `branch.norm`, `branch.fc1`, `branch.gate`, `branch.fc2`.

    Args:
        features: size of the last axis.
        hidden: size of W₁'s output, even.
        tokens: size of axis 1.
        drop_path: rate of dropping a sample's branch, in training.

    Source: Liu et al. 2021 (2105.08050), figure 1.

    Example:
        >>> gmlp_block(8, 12, tokens=5).out_shape((2, 5, 8))
        (2, 5, 8)
    """
    branch: dict[str, Block] = {
        "norm": LayerNorm(features, eps=1e-6),
        "fc1": Linear(features, hidden),
        "act": Activation("gelu"),
        "gate": SpatialGating(hidden, tokens),
        "fc2": Linear(hidden // 2, features),
    }
    return Residual(Sequential(**branch, **({"drop": DropPath(drop_path)} if drop_path else {})))
