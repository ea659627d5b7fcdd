"""Dropout and drop-path by masks that are given, put in place of a library module's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pure import tree


class Masked(nn.Module):
    """x · mask / (1 − rate) in training, with the mask that was last set: one value a sample, or one a value of x."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.mask: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * self.mask.reshape(self.mask.shape + (1,) * (x.ndim - self.mask.ndim)) / (1 - self.rate)


def masked(module: nn.Module, rate: float) -> nn.Module:
    """Return the module with the drop-path of its i-th of n blocks replaced, rate · i / (n − 1); `rate` if n is 1.

    The rates are computed anew because timm rounds some of them to float32.
    """
    blocks = [part for part in module.modules() if hasattr(part, "drop_path")]
    for index, block in enumerate(blocks):
        own = rate * index / (len(blocks) - 1) if len(blocks) > 1 else rate
        block.drop_path = Masked(own) if own else nn.Identity()
    return module


def replay(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    """Call the module with the noise that the block had, which holds one drop-path mask a block in order."""
    paths = [part for part in module.modules() if isinstance(part, Masked)]
    if noise is not None:
        masks = [mask for name, mask in tree.flatten(noise).items() if "drop_path" in name]
        for path, mask in zip(paths, masks, strict=True):
            path.mask = mask
    return module(x)
