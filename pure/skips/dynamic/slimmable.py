"""Slimmable layers: one set of weights, run at any of several widths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Applied, Block, Extras, Params, Shape, State, check_params, specification
from pure.composite import Composite, Run
from pure.errors import ArgumentError, ShapeError
from pure.initializers import Device
from pure.layers.conv import Conv2d, spread
from pure.layers.linear import Linear
from pure.layers.norm import BatchNorm
from pure.tree import Tree

__all__ = ["SlimConv2d", "SlimLinear", "Slimmable", "SwitchableBatchNorm"]


def _part(active: int | None, full: int, what: str) -> int:
    if active is None:
        return full
    if not 1 <= active <= full:
        raise ArgumentError(f"{what}={active}: expected between 1 and the full width {full}")
    return active


def _sliced(block: Linear | Conv2d, params: Params, full: Shape, out: int, inner: int) -> Params:
    """Return W[:out, :inner] and b[:out] of full-sized leaves; `full` is the shape of W."""
    if len(params) != 1 + block.bias or any(leaf.shape != full[: leaf.ndim] for leaf in params.values()):
        check_params(block, params)
    return {name: leaf[:out, :inner] if name == "weight" else leaf[:out] for name, leaf in params.items()}


@dataclass(frozen=True, repr=False)
class SlimLinear(Linear):
    """y = x W[:o, :i]ᵀ + b[:o]: a `Linear` of which the first i inputs and o outputs are used.

    Args:
        active_in: i; None is all. The other arguments are those of `Linear`, at full width.
        active_out: o; None is all.

    Raises:
        ArgumentError: an active size below 1 or above the full one.

    Source: Yu et al. 2018 (1812.08928), section 3.

    Example:
        >>> block = SlimLinear(4, 6, active_in=2, active_out=3)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> params["weight"].shape, block(params, torch.ones(5, 2)).shape
        (torch.Size([6, 4]), torch.Size([5, 3]))
    """

    active_in: int | None = None
    active_out: int | None = None
    _slim: Linear = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        i = _part(self.active_in, self.in_features, "SlimLinear active_in")
        o = _part(self.active_out, self.out_features, "SlimLinear active_out")
        object.__setattr__(self, "_slim", Linear(i, o, self.bias))

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the affine map by the active part."""
        full = (self.out_features, self.in_features)
        return self._slim.forward(_sliced(self, params, full, self._slim.out_features, self._slim.in_features), x)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape with `active_out` features."""
        return self._slim.out_shape(x_shape)


@dataclass(frozen=True, repr=False)
class SlimConv2d(Conv2d):
    """y = W[:o, :i] ∗ x + b[:o]: a `Conv2d` of which the first i input and o output channels are used.

    Args:
        active_in: i; None is all. The other arguments are those of `Conv2d`, at full width.
        active_out: o; None is all.

    Raises:
        ArgumentError: an active size below 1 or above the full one, or more than one group.

    Source: Yu et al. 2018 (1812.08928), section 3.

    Example:
        >>> block = SlimConv2d(4, 6, 3, active_in=2, active_out=3)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> params["weight"].shape, block(params, torch.ones(1, 2, 5, 5)).shape
        (torch.Size([6, 4, 3, 3]), torch.Size([1, 3, 3, 3]))
    """

    active_in: int | None = None
    active_out: int | None = None
    _slim: Conv2d = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups != 1:
            raise ArgumentError(f"SlimConv2d groups={self.groups}: a slice of grouped channels is not defined, use 1")
        i = _part(self.active_in, self.in_channels, "SlimConv2d active_in")
        o = _part(self.active_out, self.out_channels, "SlimConv2d active_out")
        slim = Conv2d(i, o, self.kernel_size, self.stride, self.padding, self.dilation, 1, self.bias)
        object.__setattr__(self, "_slim", slim)

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the convolution by the active part."""
        kernel = spread(self.kernel_size, self.dims, "kernel_size")
        full = (self.out_channels, self.in_channels, *kernel)
        return self._slim.forward(_sliced(self, params, full, self._slim.out_channels, self._slim.in_channels), x)


@dataclass(frozen=True, repr=False)
class SwitchableBatchNorm(Composite):
    """One BatchNorm per width; only the active one's statistics and gains change.

    Children: "0", "1", … in the order of `channels`.

    Args:
        channels: the channels at each width.
        active: which width.

    Raises:
        ArgumentError: no widths, or an active one that is not there.

    Source: Yu et al. 2018 (1812.08928), section 3.

    Example:
        >>> block = SwitchableBatchNorm((2, 4), active=0)
        >>> params, state = block.init(torch.Generator().manual_seed(0))
        >>> list(params), block(params, torch.ones(1, 2, 3, 3), state).shape
        (['0', '1'], torch.Size([1, 2, 3, 3]))
    """

    channels: tuple[int, ...]
    active: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        _index("SwitchableBatchNorm", self.active, len(self.channels))
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the norms."""
        return {str(index): BatchNorm(channels) for index, channels in enumerate(self.channels)}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the active norm of x."""
        return run(str(self.active % len(self.channels)), x)


def _index(owner: str, active: int, count: int) -> None:
    if not -count <= active < count:
        raise ArgumentError(f"{owner} active={active} of {count} widths: expected one of 0 … {count - 1}")


@dataclass(frozen=True, repr=False)
class Slimmable(Block):
    """One network at several widths that share parameters; training runs all of them.

    In training the output is that of every width, stacked along axis 1: (batch, widths, …), for a loss that sums over
    them; each width updates its own batch statistics.

    Args:
        blocks: the network at each width, made of `SlimLinear`, `SlimConv2d` and `SwitchableBatchNorm` (or whatever
            else has the same parameters at every width); all give one output shape.
        active: which width evaluation uses.

    Raises:
        ArgumentError: no blocks, an active one that is not there, or blocks whose parameters or state differ.
        ShapeError: training with outputs that differ in shape.

    Source: Yu et al. 2018 (1812.08928), algorithm 1.

    Example:
        >>> from pure import Sequential
        >>> def net(width):
        ...     return Sequential(SlimLinear(4, 8, active_out=width), SlimLinear(8, 3, active_in=width))
        >>> block = Slimmable((net(2), net(8)), active=0)
        >>> params, state = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(5, 4)).shape, block.apply(params, torch.ones(5, 4), state, {}, True)[0].shape
        (torch.Size([5, 3]), torch.Size([5, 2, 3]))
    """

    blocks: tuple[Block, ...]
    active: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        _index("Slimmable", self.active, len(self.blocks))
        shapes = [
            [{name: leaf.shape for name, leaf in tree.flatten(part).items()} for part in specification(block)]
            for block in self.blocks
        ]
        if any(other != shapes[0] for other in shapes):
            raise ArgumentError("Slimmable: blocks differ in their parameters or state: slice full-sized leaves")

    @property
    def stochastic(self) -> bool:
        """Whether any width is."""
        return any(block.stochastic for block in self.blocks)

    def children(self) -> dict[str, Block]:
        """Return the children of the active width."""
        return self.blocks[self.active].children()

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the full-sized parameters."""
        return self.blocks[0].init(generator, dtype, device)

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the active width's output, in training all widths' outputs and the new state."""
        if not training:
            return self.blocks[self.active].apply(params, x, state, extras)
        outs = []
        for index, block in enumerate(self.blocks):
            part = noise.get(str(index)) if noise else None
            y, state = block.apply(params, x, state, extras, True, part)
            outs.append(y)
            if y.shape != outs[0].shape:
                raise ShapeError(
                    f"Slimmable in training: width {index} gives {tuple(y.shape)}, width 0 {tuple(outs[0].shape)}: "
                    "expected one shape: end in a layer of full width, or train the blocks one by one"
                )
        return torch.stack(outs, 1), state

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw every width's noise, by its position."""
        return {
            str(index): block.noise(x_shape, generator, dtype=dtype, device=device)
            for index, block in enumerate(self.blocks)
            if block.stochastic
        }

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the active width's output shape."""
        return self.blocks[self.active].out_shape(x_shape)
