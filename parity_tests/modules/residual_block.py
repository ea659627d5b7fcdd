"""The convolutional residual block, with each way to make its two sides addable."""

import torch
import torch.nn.functional as F
from torch import nn

SHORTCUTS = (None, "identity", "project", "pad", "pad_centred", "crop", "interpolate")


class ResidualBlock(nn.Module):
    """conv1 (3×3), ReLU, conv2 (3×3), plus the input.

    With `padding=0`, or with a change of channels, and no shortcut, the addition fails as it does in the tutorial.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result.
        padding: Padding of both convolutions; 1 or "same" keeps the height and width, 0 makes them 4 smaller.
        shortcut: None or "identity" adds the input as it is. "project" is a 1×1 convolution; "pad" appends channels
            of zeros and "pad_centred" puts half of them on each side; all three act on the centre of the input where
            the result is smaller. "crop" takes that centre and "interpolate" resizes bilinearly; a 1×1 convolution
            follows where the channels change.
    """

    def __init__(
        self, in_channels: int, out_channels: int, padding: int | str = 0, shortcut: str | None = None
    ) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ValueError(f"unknown shortcut {shortcut!r}, expected one of {SHORTCUTS}")
        self.kind = shortcut
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=padding)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=padding)
        changes = shortcut in ("crop", "interpolate") and in_channels != out_channels
        self.shortcut: nn.Module = nn.Identity()
        if shortcut == "project" or changes:
            self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(self.relu(self.conv1(x)))
        _, channels, height, width = out.shape
        if self.kind == "interpolate":
            x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
        elif self.kind in ("project", "pad", "pad_centred", "crop"):
            top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
            x = x[:, :, top : top + height, left : left + width]
        missing = channels - x.shape[1]
        if self.kind == "pad":
            x = F.pad(x, (0, 0, 0, 0, 0, missing))
        elif self.kind == "pad_centred":
            x = F.pad(x, (0, 0, 0, 0, missing // 2, missing - missing // 2))
        return out + self.shortcut(x)
