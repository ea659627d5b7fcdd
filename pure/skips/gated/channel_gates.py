"""Gates over the channels and the places of an image: ECA, CBAM and selective kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params
from pure.compose.chain import Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError
from pure.layers.activation import Activation
from pure.layers.alignment import widen
from pure.layers.conv import Conv1d, Conv2d
from pure.layers.norm import BatchNorm
from pure.tags import tag

__all__ = ["ECA", "ChannelAttention", "SelectiveKernel", "SpatialAttention", "cbam"]


def _image(block: Block, x: Tensor) -> Tensor:
    if x.ndim != 4:
        raise RankError(f"{block}: input {tuple(x.shape)}, expected (batch, channels, height, width)")
    return x


def _gated(x: Tensor, logit: Tensor) -> Tensor:
    return x * tag(torch.sigmoid(logit), "gate", kind="gate")


@dataclass(frozen=True, repr=False)
class ECA(Composite):
    """y = x ⊙ σ(w ∗ mean(x)): a gate a channel, from a convolution of the means along the channels.

    Child: `conv`, of one channel and no bias.

    Tags: "gate".

    Args:
        kernel_size: size of w, odd; `ECA.kernel_for(channels)` is the paper's rule.

    Raises:
        ArgumentError: an even size.
        RankError: x is not (batch, channels, height, width).

    Source: Wang et al. 2019 (1910.03151), section 3.2.

    Example:
        >>> block = ECA(ECA.kernel_for(64))
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(1, 64, 2, 2)).shape
        torch.Size([1, 64, 2, 2])
    """

    kernel_size: int = 3

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ArgumentError(f"ECA kernel_size={self.kernel_size}: expected an odd number")
        super().__post_init__()

    @staticmethod
    def kernel_for(channels: int) -> int:
        """Return the odd number near (log₂ channels + 1) / 2, at least 3.

        >>> [ECA.kernel_for(channels) for channels in (16, 256, 2048)]
        [3, 5, 7]
        """
        near = int((math.log2(channels) + 1) / 2)
        return max(near if near % 2 else near + 1, 3)

    def parts(self) -> dict[str, Block]:
        """Return the convolution along the channels."""
        return {"conv": Conv1d(1, 1, self.kernel_size, padding=self.kernel_size // 2, bias=False)}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the gated channels."""
        means = _image(self, x).mean((2, 3)).unsqueeze(1)
        return _gated(x, run("conv", means).squeeze(1)[:, :, None, None])


@dataclass(frozen=True, repr=False)
class ChannelAttention(Composite):
    """y = x ⊙ σ(M(mean(x)) + M(max(x))), M(v) = W₂ relu(W₁ v) over the channels, shared.

    Children: `fc1` and `fc2`, 1×1 convolutions.

    Tags: "gate".

    Args:
        channels: of the input.
        hidden: channels between the two convolutions.
        bias: whether they have biases.

    Raises:
        RankError: x is not (batch, channels, height, width).

    Source: Woo et al. 2018 (1807.06521), equation 2.

    Example:
        >>> ChannelAttention(16, 2).out_shape((1, 16, 5, 5))
        (1, 16, 5, 5)
    """

    channels: int
    hidden: int
    bias: bool = False

    def parts(self) -> dict[str, Block]:
        """Return the two convolutions."""
        return {
            "fc1": Conv2d(self.channels, self.hidden, 1, bias=self.bias),
            "fc2": Conv2d(self.hidden, self.channels, 1, bias=self.bias),
        }

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the gated channels."""
        pooled = _image(self, x).mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        mean, largest = (run("fc2", run("fc1", value).relu()) for value in pooled)
        return _gated(x, mean + largest)


@dataclass(frozen=True, repr=False)
class SpatialAttention(Composite):
    """y = x ⊙ σ(BN(w ∗ [mean(x), max(x)])), mean and maximum over the channels: a gate a place.

    Children: `conv` (2 → 1 channels, no bias), `norm`.

    Tags: "gate".

    Args:
        kernel_size: size of w, odd.

    Raises:
        ArgumentError: an even size.
        RankError: x is not (batch, channels, height, width).

    Source: Woo et al. 2018 (1807.06521), equation 3; the BatchNorm is that of the authors' code.

    Example:
        >>> SpatialAttention().out_shape((1, 16, 5, 5))
        (1, 16, 5, 5)
    """

    kernel_size: int = 7

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ArgumentError(f"SpatialAttention kernel_size={self.kernel_size}: expected an odd number")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the convolution and its norm."""
        return {"conv": Conv2d(2, 1, self.kernel_size, padding=self.kernel_size // 2, bias=False), "norm": BatchNorm(1)}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the gated places."""
        seen = torch.cat([_image(self, x).mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return _gated(x, run("norm", run("conv", seen)))


def cbam(channels: int, hidden: int, kernel_size: int = 7) -> Sequential:
    """Return channel attention, then spatial attention; children `channel` and `spatial`.

    In a residual block: `Residual(Sequential(f=branch, attention=cbam(channels, channels // 16)))`.

    Args:
        channels: of the input.
        hidden: channels between the two layers of the channel attention.
        kernel_size: of the spatial attention, odd.

    Raises:
        ArgumentError: an even size.

    Source: Woo et al. 2018 (1807.06521), equation 1.

    Example:
        >>> cbam(16, 2).out_shape((1, 16, 5, 5))
        (1, 16, 5, 5)
    """
    return Sequential(channel=ChannelAttention(channels, hidden), spatial=SpatialAttention(kernel_size))


@dataclass(frozen=True, repr=False)
class SelectiveKernel(Composite):
    """y = Σᵢ aᵢ ⊙ uᵢ, uᵢ = relu(BN(Kᵢ x)), a = softmax over i of W relu(BN(V mean(Σ uᵢ))), one aᵢ a channel.

    Kᵢ is a 3×3 convolution with dilation i + 1, i = 0 … paths − 1: windows of 3, 5, ….

    Children: `path0`, … (each `conv`, `norm`, `act`), `reduce` (V), `norm`, `select` (W), all without biases.

    Tags: "gate" (a, of shape (batch, paths, channels, 1, 1)).

    Args:
        in_channels: of x.
        out_channels: of y.
        hidden: channels of V's output.
        paths: number of windows to choose from.
        stride: of the convolutions.
        groups: of the convolutions.
        split: give each path its own share of the input's channels instead of all of them.

    Raises:
        ArgumentError: fewer than two paths, or channels that do not split.
        RankError: x is not (batch, channels, height, width).

    Source: Li et al. 2019 (1903.06586), section 3.1, equations 1 to 6; the split is timm's.

    Example:
        >>> SelectiveKernel(4, 6, 2).out_shape((1, 4, 5, 5))
        (1, 6, 5, 5)
    """

    in_channels: int
    out_channels: int
    hidden: int
    paths: int = 2
    stride: int = 1
    groups: int = 1
    split: bool = False

    def __post_init__(self) -> None:
        if self.paths < 2 or (self.split and self.in_channels % self.paths):
            raise ArgumentError(f"{self}: expected at least 2 paths, which divide the channels if they are split")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the paths, then the layers that choose."""
        given = self.in_channels // self.paths if self.split else self.in_channels
        found: dict[str, Block] = {}
        for index in range(self.paths):
            reach = index + 1
            conv = Conv2d(given, self.out_channels, 3, self.stride, reach, reach, self.groups, bias=False)
            found[f"path{index}"] = Sequential(conv=conv, norm=BatchNorm(self.out_channels), act=Activation("relu"))
        return found | {
            "reduce": Conv2d(self.out_channels, self.hidden, 1, bias=False),
            "norm": BatchNorm(self.hidden),
            "select": Conv2d(self.hidden, self.out_channels * self.paths, 1, bias=False),
        }

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the chosen mixture of the paths."""
        _image(self, x)
        given = x.chunk(self.paths, 1) if self.split else [x] * self.paths
        u = torch.stack([run(f"path{index}", part) for index, part in enumerate(given)], 1)
        logits = run("select", run("norm", run("reduce", u.sum(1).mean((2, 3), keepdim=True))).relu())
        gates = widen(logits.unflatten(1, (self.paths, self.out_channels))).softmax(1).to(x.dtype)
        return (tag(gates, "gate", kind="gate") * u).sum(1)
