"""What vision transformers are made of: initial values, blocks, prefix tokens and ways to read the tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, NamedTuple, get_args

from torch import Tensor

from pure.block import Block, Extras, Params, Shape
from pure.compose import Parallel, Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError
from pure.initializers import Constant, Initializer, KaimingUniform, Normal, TruncatedNormal, XavierUniform
from pure.layers import LayerNorm, Linear, RMSNorm
from pure.layers.activation import ActivationLike
from pure.layers.attention import Attention
from pure.layers.patches import ClassToken, MeanToken
from pure.layers.tokens import FirstToken
from pure.nets.transformers.parts import feed_forward, transformer_block
from pure.skips.additive.residual import Residual
from pure.skips.gated.glu import GLU
from pure.skips.scaled.norm_placement import pre_norm, res_post_norm

__all__ = [
    "ZERO",
    "AttentionPool",
    "Layers",
    "NormName",
    "Placement",
    "Pool",
    "Rules",
    "RulesName",
    "TwoHeads",
    "initial_rules",
    "pooled",
    "vit_mlp",
    "vit_norm",
]

RulesName = Literal["timm", "torchvision"]
NormName = Literal["layer", "rms"]
Placement = Literal["pre", "res_post"]
Pool = Literal["token", "mean", "attention"]

ZERO: Final = Constant(0.0)


class Rules(NamedTuple):
    """Initializers that a library uses for each part; None for the layer's own."""

    patch: Initializer
    patch_bias: Initializer | None
    token: Initializer
    positions: Initializer
    attention: Initializer
    attention_out: Initializer
    mlp: Initializer
    mlp_bias: Initializer
    head: Initializer


def initial_rules(name: str, patch_values: int) -> Rules:
    """Return the initial values of timm or torchvision for patches of `patch_values` numbers.

    timm: linear weights truncated normal of 0.02, biases 0. torchvision: Xavier's rule in attention and feed-forward
    layers, patches truncated normal of √(1 / patch_values), the head 0.
    """
    small = TruncatedNormal(std=0.02)
    if name == "timm":
        return Rules(KaimingUniform(), None, Normal(std=1e-6), small, small, small, small, ZERO, small)
    if name == "torchvision":
        xavier, patch = XavierUniform(), TruncatedNormal(std=math.sqrt(1 / patch_values))
        return Rules(patch, ZERO, ZERO, Normal(std=0.02), xavier, KaimingUniform(), xavier, Normal(std=1e-6), ZERO)
    raise ArgumentError(f"initial={name!r}: expected one of {', '.join(get_args(RulesName))}")


def vit_norm(name: NormName, features: int, eps: float) -> Block:
    """Return the norm of that name."""
    if name not in get_args(NormName):
        raise ArgumentError(f"norm={name!r}: expected one of {', '.join(get_args(NormName))}")
    return LayerNorm(features, eps) if name == "layer" else RMSNorm(features, eps)


@dataclass(frozen=True)
class Layers:
    """What every block of a vision transformer is made of; `block(drop_path)` makes one.

    Attributes:
        features: size of a token.
        attention: the attention.
        mlp: the feed-forward branch.
        norm: the norm of each branch.
        scale: gain or constant of each branch.
        dropout: rate on each branch's output.
        placement: "pre" or "res_post".
        branches: how many attentions, and then feed-forward branches, share a sum.
    """

    features: int
    attention: Block
    mlp: Block
    norm: Block
    scale: Block | float
    dropout: float
    placement: Placement
    branches: int

    def __post_init__(self) -> None:
        if self.placement not in get_args(Placement):
            raise ArgumentError(f"placement={self.placement!r}: expected one of {', '.join(get_args(Placement))}")
        if self.branches < 1 or (self.branches > 1 and self.placement != "pre"):
            raise ArgumentError(
                f"branches={self.branches}, placement={self.placement!r}: expected at least 1, and more than 1 only "
                "with placement='pre'"
            )

    def block(self, drop_path: float) -> Block:
        """Return one block."""
        place = pre_norm if self.placement == "pre" else res_post_norm
        placed = partial(place, norm=self.norm, scale=self.scale, dropout=self.dropout, drop_path=drop_path)
        if self.branches == 1:
            return transformer_block(placed, self.attention, self.mlp)
        return Sequential(attention=self._joined(placed, self.attention), mlp=self._joined(placed, self.mlp))

    def _joined(self, placed: Any, branch: Block) -> Block:
        """Return x + the sum of `branches` branches, each with its norm."""
        alone: Residual = placed(branch)
        return Residual(Parallel(*[alone.branch] * self.branches))


def vit_mlp(features: int, hidden: int, activation: ActivationLike, gated: bool, dropout: float, rules: Rules) -> Block:
    """Return the feed-forward branch: two linear maps, or a packed gated unit of `hidden` / 2 gates."""
    if gated:
        return GLU(features, hidden // 2, activation, fused="gate_up", dropout=dropout, weight_init=rules.mlp)
    return feed_forward(features, hidden, activation, dropout=dropout, weight_init=rules.mlp, bias_init=rules.mlp_bias)


@dataclass(frozen=True, repr=False)
class AttentionPool(Attention):
    """One learnt query attends to the tokens behind the first `skip`: (batch, tokens, features) → (batch, features).

    Children: `latent` (the query, before its map), `q`, `kv` (keys, then values) and `out`. Arguments as for
    `Attention`; of its options only `dropout`, `scale` and the initializers apply.

    Source: Lee et al. 2018 (1810.00825), section 3.2, as in Zhai et al. 2021 (2106.04560), appendix D.

    Example:
        >>> import torch
        >>> block = AttentionPool(8, 2)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 5, 8)).shape
        torch.Size([2, 8])
    """

    skip: int = 0

    def parts(self) -> dict[str, Block]:
        """Return the query and the affine maps."""
        found = super().parts()
        linear = partial(Linear, self.features, weight_init=self.weight_init, bias_init=self.bias_init)
        latent = ClassToken(self.features, TruncatedNormal(std=self.features**-0.5))
        mapped = {"latent": latent, "q": found.pop("q"), "kv": linear(2 * self.features)}
        return {**mapped, **{name: part for name, part in found.items() if name not in ("k", "v")}}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return what the query attends to."""
        query = run("latent", x)[:, :1]
        keys, values = run("kv", x[:, self.skip :]).chunk(2, -1)
        q, k, v = (self._split(part) for part in (run("q", query), keys, values))
        return self.finish(run, query, self.attend(run, q, k, v))[:, 0]

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, features)."""
        return (x_shape[0], self.features)


@dataclass(frozen=True, repr=False)
class TwoHeads(Composite):
    """y = (W₀ x[:, 0] + W₁ x[:, 1] + b₀ + b₁) / 2, DeiT's prediction from class and distillation token.

    Children: `head` and `head_dist`.

    Args:
        features: size of a token.
        num_classes: of both heads.
        weight_init: rule for both weights.

    Source: Touvron et al. 2020 (2012.12877), section 4.

    Example:
        >>> TwoHeads(8, 5).out_shape((2, 6, 8))
        (2, 5)
    """

    features: int
    num_classes: int
    weight_init: Initializer = TruncatedNormal(std=0.02)

    def parts(self) -> dict[str, Block]:
        """Return the heads."""
        head = Linear(self.features, self.num_classes, weight_init=self.weight_init, bias_init=ZERO)
        return {"head": head, "head_dist": head}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Tensor:
        """Return the mean of the two predictions."""
        total: Tensor = run("head", x[:, 0]) + run("head_dist", x[:, 1])
        return total / 2

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, num_classes)."""
        return (x_shape[0], self.num_classes)


def pooled(
    pool: Pool, prefix: int, norm: Block | None, norm_first: bool, attended: Callable[[], Block]
) -> dict[str, Block]:
    """Return how a vector is read off the tokens, with the last norm before or behind.

    Args:
        pool: "token", "mean" or "attention".
        prefix: tokens in front of the patches.
        norm: the last norm; None for none.
        norm_first: whether it stands before the reading.
        attended: makes the reading for "attention".
    """
    if pool not in get_args(Pool):
        raise ArgumentError(f"pool={pool!r}: expected one of {', '.join(get_args(Pool))}")
    reading: dict[str, Block] = {"pool": FirstToken() if pool == "token" else MeanToken(skip=prefix)}
    if pool == "attention":
        reading = {"attn_pool": attended()}
    if norm is None:
        return reading
    return {"norm": norm, **reading} if norm_first else {**reading, "fc_norm": norm}
