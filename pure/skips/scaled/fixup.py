"""Fixup: residual blocks without norms, with scalars and a depth-dependent initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pure.block import Block
from pure.compose.adapt import Rename
from pure.compose.chain import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant, Device
from pure.layers.activation import Activation
from pure.layers.conv import Conv2d
from pure.layers.scale import Scale
from pure.layers.shift import Shift
from pure.skips.additive.conv_blocks import HE
from pure.skips.additive.residual import Residual
from pure.skips.additive.shortcut import Identity, Project

__all__ = ["FixupNormal", "fixup", "fixup_basic", "fixup_bottleneck"]


@dataclass(frozen=True)
class FixupNormal:
    """He's normal rule (fan_out) times depth^(−1/(2 layers − 2)): all layers of a branch but the last.

    Args:
        depth: number of residual branches in the network, L.
        layers: number of layers in a branch, m.

    Raises:
        ArgumentError: depth below 1, or fewer than two layers.

    Source: Zhang et al. 2019 (1901.09321), section 3, rule 2.

    Example:
        >>> weight = FixupNormal(depth=16)((64, 64, 3, 3), torch.Generator().manual_seed(0))
        >>> abs(weight.std() - 16**-0.5 * (2 / (64 * 9)) ** 0.5) < 1e-3
        tensor(True)
    """

    depth: int
    layers: int = 2

    def __post_init__(self) -> None:
        if self.depth < 1 or self.layers < 2:
            raise ArgumentError(f"{self}: expected a depth of at least 1 and at least 2 layers a branch")

    def __call__(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> Tensor:
        """Return a new tensor of `shape`, drawn from `generator`."""
        return HE(shape, generator, dtype, device) * self.depth ** (-1 / (2 * self.layers - 2))


def fixup(layers: Sequence[Block], shortcut: Block = Identity()) -> Block:
    """Return relu(S(x) + s · Wₘ(… relu(W₁(x + b₁ₐ) + b₁ᵦ) … + bₘₐ) + bₘᵦ) with learnt scalars: s = 1, b = 0.

    An identity carries x; any other shortcut sees x + b₁ₐ, as the branch does. Leaves: `conv1` … `convm`, `scale`,
    `bias1a`, `bias1b`, … and `shortcut`.

    Args:
        layers: W₁ … Wₘ without biases, at least two; see `FixupNormal` for the first and zeros for the last.
        shortcut: S.

    Raises:
        ArgumentError: fewer than two layers.

    Source: Zhang et al. 2019 (1901.09321), section 3 and figure 1.

    Example:
        >>> from pure import tree
        >>> block = fixup([Conv2d(2, 2, 1, bias=False), Conv2d(2, 2, 1, bias=False)])
        >>> tree.names(block.init(torch.Generator().manual_seed(0))[0])
        ['bias1a.bias', 'conv1.weight', 'bias1b.bias', 'bias2a.bias', 'conv2.weight', 'scale.weight', 'bias2b.bias']
    """
    if len(layers) < 2:
        raise ArgumentError(f"fixup of {len(layers)} layers: expected at least two in a branch")
    parts: dict[str, Block] = {}
    for index, layer in enumerate(layers, 1):
        parts |= {f"bias{index}a": Shift(), f"conv{index}": layer}
        last = index == len(layers)
        parts |= {"scale": Scale(), f"bias{index}b": Shift()} if last else {f"bias{index}b": Shift()}
        if not last:
            parts[f"act{index}"] = Activation("relu")
    names = [name for name in parts if not name.startswith("act")]
    if isinstance(shortcut, Identity):
        block = Residual(Sequential(**parts), activation="relu")
        return Rename(block, {f"branch.{name}": name for name in names})
    first = parts.pop("bias1a")
    whole = Sequential(bias1a=first, block=Residual(Sequential(**parts), shortcut, activation="relu"))
    moved = {f"block.branch.{name}": name for name in names if name != "bias1a"}
    return Rename(whole, moved | ({} if shortcut.has_params is False else {"block.shortcut": "shortcut"}))


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int, depth: int, layers: int) -> Conv2d:
    """Return W without a bias; depth 0 for the last one, which starts at 0."""
    rule = FixupNormal(depth, layers) if depth else Constant(0.0)
    return Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False, weight_init=rule)


def _shortcut(in_channels: int, out_channels: int, stride: int, shortcut: Block | None) -> Block:
    if shortcut is not None:
        return shortcut
    if in_channels == out_channels and stride == 1:
        return Identity()
    return Project(in_channels, out_channels, stride=stride, bias=False)


def fixup_basic(
    in_channels: int, out_channels: int, *, depth: int, stride: int = 1, shortcut: Block | None = None
) -> Block:
    """Return the block of two 3×3 convolutions, m = 2, with the published initial values.

    Args:
        in_channels: channels of the stream.
        out_channels: channels of the block's output.
        depth: number of residual branches in the whole network, L.
        stride: of the first convolution.
        shortcut: None is the identity, or a 1×1 projection where the shape changes.

    Source: Zhang et al. 2019 (1901.09321), section 3.

    Example:
        >>> block = fixup_basic(2, 2, depth=9)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> x = torch.rand(1, 2, 5, 5)
        >>> torch.equal(block(params, x), x)
        True
    """
    first = _conv(in_channels, out_channels, 3, stride, depth, 2)
    last = _conv(out_channels, out_channels, 3, 1, 0, 2)
    return fixup([first, last], _shortcut(in_channels, out_channels, stride, shortcut))


def fixup_bottleneck(
    in_channels: int, width: int, out_channels: int, *, depth: int, stride: int = 1, shortcut: Block | None = None
) -> Block:
    """Return Fixup's bottleneck: 1×1, 3×3 (strided) and 1×1 convolutions, m = 3.

    Args:
        in_channels: channels of the stream.
        width: channels of the 3×3 convolution.
        out_channels: channels of the block's output.
        depth: number of residual branches in the whole network, L.
        stride: of the 3×3 convolution.
        shortcut: None is the identity, or a 1×1 projection where the shape changes.

    Source: Zhang et al. 2019 (1901.09321), section 3.

    Example:
        >>> fixup_bottleneck(4, 2, 8, depth=9, stride=2).out_shape((1, 4, 6, 6))
        (1, 8, 3, 3)
    """
    layers = [
        _conv(in_channels, width, 1, 1, depth, 3),
        _conv(width, width, 3, stride, depth, 3),
        _conv(width, out_channels, 1, 1, 0, 3),
    ]
    return fixup(layers, _shortcut(in_channels, out_channels, stride, shortcut))
