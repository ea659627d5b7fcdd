"""Residuals with a scale or initial value of their own: ReZero to Fixup, stochastic depth."""

from __future__ import annotations

from functools import partial
from typing import Final

from pure.block import Block
from pure.catalogue.cases import Case
from pure.catalogue.parts import IMAGE, ROWS, TOKENS, conv, mlp
from pure.compose import Repeat, Sequential
from pure.initializers import Constant
from pure.layers import Activation, BatchNorm, Conv2d, DropPath, Linear
from pure.nets.convolutional.fixup import fixup_resnet
from pure.skips.additive.residual import Residual
from pure.skips.scaled.factors import Weighted, layer_scale, rezero, skip_init, stochastic_depth
from pure.skips.scaled.fixup import fixup_basic, fixup_bottleneck

__all__ = ["CASES"]

ZERO: Final = Constant(0.0)


def _plain_conv() -> Block:
    """Return relu, conv, relu, conv: a branch without norms, with biases."""
    layers = {f"{kind}{i}": block for i in (1, 2) for kind, block in _half().items()}
    return Sequential(**layers)


def _half() -> dict[str, Block]:
    return {"act": Activation("relu"), "conv": Conv2d(4, 4, 3, padding=1)}


def _zero_gamma_mlp() -> Block:
    """Return W₁, BN, relu, W₂, BN with the last γ 0."""
    return Sequential(
        fc1=Linear(6, 8, bias=False),
        norm1=BatchNorm(8),
        act=Activation("relu"),
        fc2=Linear(8, 6, bias=False),
        norm2=BatchNorm(6, weight_init=ZERO),
    )


def _zero_gamma_conv() -> Block:
    """Return conv, BN, relu, conv, BN with the last γ 0."""
    branch = conv(4, 4).children()
    return Sequential(**{**branch, "norm2": BatchNorm(4, weight_init=ZERO)})


CASES: Final[tuple[Case, ...]] = (
    Case(
        "rezero",
        "scaled",
        lambda: rezero(mlp()),
        ROWS,
        "x + a f(x)",
        "2003.04887, equation 1",
        init="a = 0: the identity",
    ),
    Case(
        "skip_init",
        "scaled",
        lambda: skip_init(_plain_conv()),
        IMAGE,
        "x + a f(x)",
        "2002.10444",
        init="a = 0: the identity",
    ),
    Case(
        "layer_scale",
        "scaled",
        lambda: layer_scale(mlp(8, 6, "gelu"), 8, 1e-5),
        TOKENS,
        "x + λ ⊙ f(x)",
        "2103.17239, equation 4",
        init="λ = 0.1 … 1e-6 by depth",
        oracle="timm.layers.LayerScale",
    ),
    Case(
        "layer_scale_conv",
        "scaled",
        lambda: layer_scale(conv(4, 4), 4, 1e-6, axis=1),
        IMAGE,
        "x + λ ⊙ f(x), λ over channels",
        "2103.17239, equation 4; 2201.03545",
        init="λ = 1e-6",
        oracle="timm.layers.LayerScale2d",
    ),
    Case(
        "zero_gamma_mlp",
        "scaled",
        lambda: Residual(_zero_gamma_mlp(), activation="relu"),
        ROWS,
        "relu(x + BN(W₂ relu(BN(W₁ x))))",
        "1706.02677, section 5.1",
        init="last γ = 0: the identity for x ≥ 0",
    ),
    Case(
        "zero_gamma_conv",
        "scaled",
        lambda: Residual(_zero_gamma_conv(), activation="relu"),
        IMAGE,
        "relu(x + f(x))",
        "1706.02677, section 5.1",
        init="last γ = 0: the identity for x ≥ 0",
    ),
    Case(
        "zero_last_mlp",
        "scaled",
        lambda: Residual(
            Sequential(fc1=Linear(6, 8), act=Activation("relu"), fc2=Linear(8, 6, weight_init=ZERO, bias_init=ZERO))
        ),
        ROWS,
        "x + W₂ relu(W₁ x)",
        "1901.09321, section 3, rule 1",
        init="W₂ = 0: the identity",
    ),
    Case(
        "constant_scale",
        "scaled",
        lambda: Residual(conv(4, 4), scale=0.1, activation="relu"),
        IMAGE,
        "relu(x + m f(x))",
        "1602.07261, section 3.3",
        init="m = 0.1 … 0.3",
    ),
    Case(
        "norm_free",
        "scaled",
        lambda: Repeat(Weighted(mlp(), scale=0.2), 3, vary={"inner": Weighted.norm_free(3)}),
        ROWS,
        "x + α f(βₗ x), βₗ = 1/√Varₗ, Varₗ₊₁ = Varₗ + α²",
        "2101.08692, section 4",
        init="α = 0.2",
    ),
    Case(
        "variance_by_depth",
        "scaled",
        lambda: Repeat(Weighted(mlp()), 3, vary=Weighted.by_depth(3)),
        ROWS,
        "√((i − 1)/i) x + √(1/i) f(x)",
        "keeps the variance of the stream",
    ),
    Case(
        "fixup_basic",
        "scaled",
        lambda: fixup_basic(4, 4, depth=9),
        IMAGE,
        "relu(x + s W₂(relu(W₁(x + b₁ₐ) + b₁ᵦ) + b₂ₐ) + b₂ᵦ)",
        "1901.09321, section 3",
        init="W₁ He · L^(−1/2), W₂ = 0, s = 1, b = 0: the identity for x ≥ 0",
    ),
    Case(
        "fixup_basic_project",
        "scaled",
        lambda: fixup_basic(4, 6, depth=9, stride=2),
        IMAGE,
        "relu(P(x + b₁ₐ) + s W₂(relu(W₁(x + b₁ₐ) + b₁ᵦ) + b₂ₐ) + b₂ᵦ)",
        "1901.09321, section 3",
        init="W₁ He · L^(−1/2), W₂ = 0, s = 1, b = 0",
    ),
    Case(
        "fixup_bottleneck",
        "scaled",
        lambda: fixup_bottleneck(4, 3, 6, depth=16, stride=2),
        IMAGE,
        "relu(P(x + b₁ₐ) + s W₃(relu(W₂(relu(W₁(x + b₁ₐ) + b₁ᵦ) + b₂ₐ) + b₂ᵦ) + b₃ₐ) + b₃ᵦ)",
        "1901.09321, section 3",
        init="W₁, W₂ He · L^(−1/4), W₃ = 0, s = 1, b = 0",
    ),
    Case(
        "stochastic_depth",
        "scaled",
        lambda: stochastic_depth(conv(4, 4), 0.3),
        IMAGE,
        "x + (b / p) f(x), b ~ Bern(p) a sample",
        "1603.09382, equation 2",
    ),
    Case(
        "stochastic_depth_stack",
        "scaled",
        lambda: Repeat(stochastic_depth(mlp(), 0.0), 3, vary={"branch.drop.rate": DropPath.linear(0.5, 3)}),
        ROWS,
        "x + (b / pₗ) f(x), 1 − pₗ = rate · l/(n − 1)",
        "1603.09382, section 3",
        init="rates rise linearly from 0",
    ),
    Case(
        "fixup_resnet",
        "network",
        partial(fixup_resnet, (2, 1), (3, 5), num_classes=3, in_channels=4),
        IMAGE,
        "W mean(blocks(relu(conv(x) + b₁))) + b₂",
        "1901.09321, section 3",
        init="convolutions as in fixup_basic, W = 0",
    ),
)
