"""The table of cases: one literal row a block. Tests, export, benchmarks and the command line read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import torch

from pure import nets
from pure.block import Block, Shape
from pure.compose import Parallel, Repeat, Sequential
from pure.errors import ArgumentError, nearest
from pure.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv1d,
    Conv2d,
    Conv3d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool,
    RMSNorm,
)
from pure.skips import AvgPoolProject, Crop, DenseSkip, Dynamic, Highway, Interpolate, Pad, Project, Residual

__all__ = ["CASES", "Case", "case", "names"]

Family = Literal["layer", "shortcut", "additive", "gated", "dense", "dynamic", "composition", "network"]


@dataclass(frozen=True)
class Case:
    """One row: how to make a block, what to feed it, and where its formula comes from.

    Attributes:
        name: unique, in lower case.
        family: the section it belongs to.
        make: returns the block.
        x_shape: shape of an example input, batch axis first.
        formula: what it computes.
        source: paper and section, or the PyTorch class it equals.
        control: value for extras["control"], for dynamic blocks.
        smooth: whether second derivatives exist almost everywhere and are not all zero.
    """

    name: str
    family: Family
    make: Callable[[], Block]
    x_shape: Shape
    formula: str
    source: str
    control: float | bool | None = None
    smooth: bool = True

    def example(self, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Block, Any, Any, Any, Any]:
        """Return `(block, params, state, x, extras)` drawn from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        block = self.make()
        params, state = block.init(generator, dtype)
        x = torch.randn(self.x_shape, generator=generator, dtype=dtype)
        return block, params, state, x, {} if self.control is None else {"control": self.control}


def _mlp(features: int = 6, hidden: int = 8, activation: str = "tanh") -> Block:
    return Sequential(fc1=Linear(features, hidden), act=Activation(activation), fc2=Linear(hidden, features))


def _conv(in_channels: int, out_channels: int, padding: int = 1, stride: int = 1) -> Block:
    return Sequential(
        conv1=Conv2d(in_channels, out_channels, 3, padding=padding, stride=stride, bias=False),
        norm1=BatchNorm(out_channels),
        act=Activation("relu"),
        conv2=Conv2d(out_channels, out_channels, 3, padding=padding, bias=False),
        norm2=BatchNorm(out_channels),
    )


IMAGE: Final = (4, 4, 7, 7)
ROWS: Final = (5, 6)
HE: Final = "He et al. 2015 (1512.03385)"

CASES: Final[tuple[Case, ...]] = (
    Case("linear", "layer", lambda: Linear(6, 3), ROWS, "x Wᵀ + b", "torch.nn.Linear"),
    Case("conv1d", "layer", lambda: Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 9), "w ∗ x + b", "torch.nn.Conv1d"),
    Case("conv2d", "layer", lambda: Conv2d(4, 6, 3, dilation=2, groups=2), IMAGE, "w ∗ x + b", "torch.nn.Conv2d"),
    Case("conv2d_same", "layer", lambda: Conv2d(4, 3, 3, padding="same"), IMAGE, "w ∗ x + b", "torch.nn.Conv2d"),
    Case("conv3d", "layer", lambda: Conv3d(2, 4, (1, 3, 3)), (2, 2, 3, 5, 5), "w ∗ x + b", "torch.nn.Conv3d"),
    Case("batch_norm", "layer", lambda: BatchNorm(4), IMAGE, "γ (x − E x) / √(Var x + ε) + β", "1502.03167"),
    Case("layer_norm", "layer", lambda: LayerNorm(6), ROWS, "γ (x − E x) / √(Var x + ε) + β", "1607.06450"),
    Case("group_norm", "layer", lambda: GroupNorm(2, 4), IMAGE, "γ (x − E x) / √(Var x + ε) + β", "1803.08494"),
    Case("rms_norm", "layer", lambda: RMSNorm(6), ROWS, "γ x / √(E x² + ε)", "1910.07467"),
    Case("relu", "layer", lambda: Activation("relu"), ROWS, "max(x, 0)", "torch.nn.ReLU", smooth=False),
    Case("gelu", "layer", lambda: Activation("gelu"), ROWS, "x Φ(x)", "torch.nn.GELU"),
    Case("silu", "layer", lambda: Activation("silu"), ROWS, "x σ(x)", "torch.nn.SiLU"),
    Case("tanh", "layer", lambda: Activation("tanh"), ROWS, "tanh x", "torch.nn.Tanh"),
    Case("max_pool", "layer", lambda: MaxPool(3, 2, 1), IMAGE, "max over windows", "torch.nn.MaxPool2d", smooth=False),
    Case("avg_pool", "layer", lambda: AvgPool(2), IMAGE, "mean over windows", "torch.nn.AvgPool2d"),
    Case("global_avg_pool", "layer", GlobalAvgPool, IMAGE, "mean over space", "torch.nn.AdaptiveAvgPool2d(1)"),
    Case("flatten", "layer", Flatten, IMAGE, "(batch, features)", "torch.nn.Flatten"),
    Case("dropout", "layer", lambda: Dropout(0.25), ROWS, "x · mask / (1 − rate)", "Srivastava et al. 2014, section 4"),
    Case("project", "shortcut", lambda: Project(4, 6, stride=2, norm=True), IMAGE, "BN(W x)", f"{HE}, option B"),
    Case(
        "pad",
        "shortcut",
        lambda: Residual(Conv2d(4, 6, 3, padding=1, stride=2), Pad(stride=2)),
        IMAGE,
        "[x, 0] + f(x)",
        f"{HE}, option A",
    ),
    Case(
        "pad_centred",
        "shortcut",
        lambda: Residual(Conv2d(4, 7, 3, padding=1), Pad(where="centred")),
        IMAGE,
        "[0, x, 0] + f(x)",
        f"{HE}, option A",
    ),
    Case("crop", "shortcut", lambda: Residual(Conv2d(4, 4, 3), Crop()), IMAGE, "centre(x) + f(x)", "1505.04597"),
    Case(
        "interpolate",
        "shortcut",
        lambda: Residual(Conv2d(4, 4, 3), Interpolate()),
        IMAGE,
        "bilinear(x) + f(x)",
        "torch.nn.functional.interpolate",
    ),
    Case(
        "avg_pool_project",
        "shortcut",
        lambda: Residual(Conv2d(4, 6, 3, stride=2, padding=1), AvgPoolProject(4, 6)),
        IMAGE,
        "BN(W pool(x)) + f(x)",
        "1812.01187, figure 2c",
    ),
    Case("residual_mlp_block", "additive", lambda: Residual(_mlp(), scale=0.5), ROWS, "x + α W₂ σ(W₁ x)", HE),
    Case(
        "residual_conv",
        "additive",
        lambda: Residual(_conv(4, 6, stride=2), Project(4, 6, stride=2, bias=False, norm=True), activation="relu"),
        IMAGE,
        "relu(S(x) + f(x))",
        f"{HE}, figure 2",
    ),
    Case("highway", "gated", lambda: Highway.dense(6), ROWS, "T ⊙ H(x) + (1 − T) ⊙ x", "1505.00387, equation 3"),
    Case(
        "dense_block",
        "dense",
        lambda: Sequential(DenseSkip(Linear(6, 3)), Activation("tanh"), DenseSkip(Linear(9, 3))),
        ROWS,
        "[x, f(x)]",
        "1608.06993, equation 2",
    ),
    Case(
        "dynamic_select",
        "dynamic",
        lambda: Dynamic(_mlp()),
        ROWS,
        "f(x) if c > ½ else x",
        "torch.where",
        control=0.75,
    ),
    Case(
        "parallel",
        "composition",
        lambda: Parallel(Linear(6, 4), Sequential(Linear(6, 4), Activation("tanh")), join="product"),
        ROWS,
        "f₁(x) ⊙ f₂(x)",
        "composition",
    ),
    Case("repeat", "composition", lambda: Repeat(Residual(_mlp()), 3), ROWS, "f ∘ f ∘ f, stacked", "composition"),
    Case("simple_block", "network", partial(nets.simple_block, 6, 8, 3), ROWS, "W₂ relu(W₁ x)", "tutorial"),
    Case(
        "simple_block_with_skip",
        "network",
        partial(nets.simple_block_with_skip, 6, 8, 6),
        ROWS,
        "x + W₂ relu(W₁ x)",
        "tutorial",
    ),
    Case(
        "dynamic_net",
        "network",
        partial(nets.dynamic_net, 6, 8, 3),
        ROWS,
        "fc3(relu(fc2 h) if c > ½ else h), h = relu(fc1 x)",
        "tutorial",
        control=0.9,
    ),
    Case(
        "residual_block",
        "network",
        partial(nets.residual_block, 4, 6, 1, "project"),
        IMAGE,
        "S(x) + conv₂(relu(conv₁ x))",
        "tutorial",
    ),
    Case(
        "tutorial_resnet",
        "network",
        partial(nets.tutorial_resnet, (4, 6, 8)),
        IMAGE,
        "block₂(relu(block₁ x))",
        "tutorial",
    ),
    Case("residual_mlp", "network", partial(nets.residual_mlp, 6, 8, 3, 0.5, "tanh"), ROWS, "blocks in a row", HE),
    Case(
        "plain_mlp", "network", partial(nets.plain_mlp, 6, 8, 3, 4), ROWS, "relu(W x + b), repeated", "He et al. 2015"
    ),
    Case("skip_mlp", "network", partial(nets.skip_mlp, 6, 8, 3, 4), ROWS, "x + relu(W x + b)/√L, repeated", HE),
    Case(
        "dense_mlp",
        "network",
        partial(nets.dense_mlp, 6, 8, 3, 3, 4),
        ROWS,
        "[x, relu(W x + b)], repeated",
        "1608.06993",
    ),
    Case("highway_mlp", "network", partial(nets.highway_mlp, 6, 8, 3, 4), ROWS, "highway layers", "1505.00387"),
)


def names() -> list[str]:
    """Return the names of the rows."""
    return [row.name for row in CASES]


def case(name: str) -> Case:
    """Return the row of that name.

    Raises:
        ArgumentError: an unknown name.
    """
    by_name = {row.name: row for row in CASES}
    if name not in by_name:
        raise ArgumentError(f"case {name!r} is unknown{nearest(name, by_name)}: one of {', '.join(by_name)}")
    return by_name[name]
