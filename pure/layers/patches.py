"""From an image to tokens: patches, and the learnt token in front of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params, Shape, State
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError, ShapeError
from pure.initializers import Constant, Device, Initializer, KaimingUniform
from pure.layers.alignment import fits
from pure.layers.conv import Conv2d, Sizes, spread
from pure.leaf import Leaf, describe

__all__ = ["ClassToken", "MeanToken", "PatchEmbedding"]


@dataclass(frozen=True, repr=False)
class PatchEmbedding(Composite):
    """Project image patches to tokens: (batch, in_channels, H, W) → (batch, tokens, features).

    Child: `proj`, a convolution whose stride is its kernel.

    Args:
        in_channels: channels of the image.
        features: size of a token.
        patch_size: height and width of a patch, one number for both.
        image_size: height and width of the image, one number for both.
        bias: whether the projection has a bias.
        weight_init: rule for the projection's weight.
        bias_init: rule for its bias; None is uniform within 1/√fan_in.

    Raises:
        ArgumentError: an image that the patches do not tile.
        ShapeError: an image of another size.

    Source: Dosovitskiy et al. 2020 (2010.11929), section 3.1.

    Example:
        >>> block = PatchEmbedding(3, 8, patch_size=4, image_size=8)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 4, 8])
    """

    in_channels: int
    features: int
    patch_size: Sizes = 16
    image_size: Sizes = 224
    bias: bool = True
    weight_init: Initializer = KaimingUniform()
    bias_init: Initializer | None = None

    def __post_init__(self) -> None:
        for what in ("patch_size", "image_size"):
            object.__setattr__(self, what, spread(getattr(self, what), 2, what))
        image, patch = self._sizes()
        if any(size < 1 or step < 1 or size % step for size, step in zip(image, patch, strict=True)):
            raise ArgumentError(f"PatchEmbedding: patches of {patch} do not tile an image of {image}: change one")
        super().__post_init__()

    def _sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return spread(self.image_size, 2, "image_size"), spread(self.patch_size, 2, "patch_size")

    @property
    def grid(self) -> tuple[int, int]:
        """How many patches an image has, down and across."""
        (height, width), (down, across) = self._sizes()
        return height // down, width // across

    @property
    def tokens(self) -> int:
        """How many tokens an image gives."""
        rows, columns = self.grid
        return rows * columns

    def parts(self) -> dict[str, Block]:
        """Return the projection."""
        proj = Conv2d(
            self.in_channels,
            self.features,
            self.patch_size,
            stride=self.patch_size,
            bias=self.bias,
            weight_init=self.weight_init,
            bias_init=self.bias_init,
        )
        return {"proj": proj}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the tokens, row by row."""
        if x.ndim == 4 and tuple(x.shape[2:]) != self.image_size:
            raise ShapeError(
                f"PatchEmbedding: input {describe(x)}, expected images of {self.image_size}: resize them, or make the "
                "network with image_size=…"
            )
        return run("proj", x).flatten(2).transpose(1, 2)


@dataclass(frozen=True, repr=False)
class ClassToken(Leaf):
    """[c, x]: learnt tokens in front of every sample's tokens, by default one.

    Leaf: `weight` (1, count, features).

    Args:
        features: size of a token.
        weight_init: rule for c.
        count: how many tokens; above 1 they are called registers.

    Raises:
        RankError: the input is not (batch, tokens, features).
        ShapeError: tokens of another size.

    Source: Dosovitskiy et al. 2020 (2010.11929), equation 1; Devlin et al. 2018 (1810.04805), section 3; registers:
    Darcet et al. 2023 (2309.16588), section 2.2.

    Example:
        >>> params, _ = ClassToken(4).init(torch.Generator())
        >>> ClassToken(4)(params, torch.zeros(2, 3, 4)).shape
        torch.Size([2, 4, 4])
    """

    features: int
    weight_init: Initializer = Constant(0.0)
    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise ArgumentError(f"ClassToken count={self.count}: expected at least 1")

    def leaf_names(self) -> tuple[str, ...]:
        """Return the name of the parameter."""
        return ("weight",)

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the tokens."""
        return {"weight": self.weight_init((1, self.count, self.features), generator, dtype, device)}, {}

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return `count` tokens more."""
        if x.ndim != 3:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, tokens, {self.features})")
        weight: Tensor = params["weight"]
        if x.shape[2] != self.features:
            raise ShapeError(f"{self}: input {describe(x)}, expected tokens of {self.features} features")
        if not fits(weight, x) or weight.shape != (1, self.count, self.features):
            raise RuntimeError(f"weight {describe(weight)}")
        return torch.cat([weight.expand(x.shape[0], self.count, self.features), x], 1)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, tokens + count, features)."""
        return (x_shape[0], x_shape[1] + self.count, *x_shape[2:])


@dataclass(frozen=True, repr=False)
class MeanToken(Leaf):
    """y = mean over the tokens behind the first `skip`: (batch, tokens, features) → (batch, features).

    Args:
        skip: how many tokens in front are left out, such as 1 for a class token.

    Raises:
        ArgumentError: a negative `skip`.
        RankError: the input is not (batch, tokens, features).

    Source: Zhai et al. 2021 (2106.04560), the "GAP" head.

    Example:
        >>> MeanToken(1)({}, torch.tensor([[[9.0], [1.0], [3.0]]]))
        tensor([[2.]])
    """

    skip: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip < 0:
            raise ArgumentError(f"MeanToken skip={self.skip}: expected 0 or more")

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the means."""
        if x.ndim != 3 or x.shape[1] <= self.skip:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, more than {self.skip} tokens, features)")
        mean: Tensor = x[:, self.skip :].mean(1)
        return mean

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, features)."""
        return (x_shape[0], *x_shape[2:])
