"""Pictures as data URIs, so that a page needs no other file: photographs, digits and heat maps."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["digits", "heat", "photograph", "ramp_css"]

RAMP = ("cde2fb", "9ec5f4", "6da7ec", "3987e5", "256abf", "184f95", "0d366b")
"""One hue from light to dark: a larger value is darker."""


def _uri(image: Image.Image, kind: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def photograph(image: Tensor, *, quality: int = 82) -> str:
    """Return (3, height, width) values of 0…1 as a JPEG data URI."""
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return _uri(Image.fromarray(np.ascontiguousarray(levels)), "JPEG", quality=quality, optimize=True)


def digits(pictures: Tensor) -> str:
    """Return (count, 8, 8) digits of 0…16 side by side, dark on white, as a PNG data URI."""
    count = len(pictures)
    strip = torch.zeros(10, 10 * count)
    for i, picture in enumerate(pictures):
        strip[1:9, 10 * i + 1 : 10 * i + 9] = picture / 16
    levels = (255 - strip * 255).round().to(torch.uint8).numpy()
    return _uri(Image.fromarray(levels), "PNG", optimize=True)


def heat(values: Tensor, low: float, high: float) -> str:
    """Return a (rows, columns) map as a PNG data URI, coloured by the logarithm between two positive limits."""
    span = math.log10(high) - math.log10(low) or 1.0
    part = ((values.double().clamp(min=low).log10() - math.log10(low)) / span).clamp(0, 1).numpy()
    steps = np.array([[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in RAMP], dtype=float)
    places = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(part, places, steps[:, i]) for i in range(3)]
    return _uri(Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8)), "PNG", optimize=True)


def ramp_css() -> str:
    """Return the heat map's colours as a CSS gradient."""
    return f"linear-gradient(to right, {', '.join(f'#{colour}' for colour in RAMP)})"
