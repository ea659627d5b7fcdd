"""An adaptive enhancer: dark images run through an enhancing branch, bright ones pass.

The enhancing branch is two residual steps with parameters designed by hand:

- the light-enhancement curve of Guo et al. 2020 (Zero-DCE, 2001.06826, equation 2), x + α x (1 − x), repeated;
- local contrast, x + γ (x − blur(x)), a residual block in a residual block around a binomial blur.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pure

__all__ = [
    "ALPHA",
    "BINOMIAL",
    "DARK",
    "GAMMA",
    "STEPS",
    "designed",
    "encoded",
    "enhance",
    "linear_light",
    "row_luminance",
]

REC709 = (0.2126, 0.7152, 0.0722)
"""Weights of linear red, green and blue in relative luminance (ITU-R BT.709)."""

MIDDLE_GREY = 0.18
"""Luminance that photographers expose for."""

DARK = MIDDLE_GREY / 2
"""Mean luminance below which an image counts as dark: one stop under middle grey."""

STEPS = 4
ALPHA = 0.5
GAMMA = 0.35
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)


def linear_light(image: Tensor) -> Tensor:
    """Undo sRGB's transfer curve (IEC 61966-2-1); values of 0…1 in, relative intensities of 0…1 out."""
    return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def encoded(light: Tensor) -> Tensor:
    """Apply sRGB's transfer curve, the inverse of `linear_light`."""
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def row_luminance(image: Tensor) -> Tensor:
    """Return the mean relative luminance of each row, (height,), of sRGB images (batch, 3, height, width).

    Row by row, because one mean over a quarter of a million pixels costs a digit in ONNX Runtime, which adds one after
    the other where PyTorch adds pairwise: the verdict on such a mean fails.
    """
    weights = torch.tensor(REC709, dtype=image.dtype, device=image.device)
    return (linear_light(image) * weights[:, None, None]).sum(1).mean(2).mean(0)


def _curve(params: Any, x: Tensor) -> Tensor:
    return params["alpha"][:, None, None] * x * (1 - x)


def _rim(params: Any, x: Tensor) -> Tensor:
    return F.pad(x, (2, 2, 2, 2), mode="replicate")


def _clip(params: Any, x: Tensor) -> Tensor:
    return x.clamp(0.0, 1.0)


def enhancer() -> pure.Block:
    """Return the network: f(x) where extras["control"], the darkness 1 − luminance, exceeds 1 − DARK, else x."""
    lift = pure.Repeat(pure.Residual(pure.Function(_curve, _alpha)), STEPS)
    along_rows, along_columns = (pure.Conv2d(3, 3, size, groups=3, bias=False) for size in ((1, 5), (5, 1)))
    blur = pure.Sequential(rim=pure.Function(_rim), rows=along_rows, columns=along_columns)
    detail = pure.Residual(pure.Residual(blur, scale=-1.0), scale=GAMMA)
    branch = pure.Sequential(lift=lift, detail=detail, clip=pure.Function(_clip))
    return pure.Dynamic(branch, threshold=1 - DARK, mode="branch")


def _alpha(generator: torch.Generator, dtype: torch.dtype, device: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return {"alpha": torch.full((3,), ALPHA, dtype=dtype, device=device)}, {}


def designed() -> dict[str, Any]:
    """Return the parameters: nothing here is trained."""
    block = enhancer()
    params, _ = block.init(torch.Generator().manual_seed(0))
    kernel = (torch.tensor(BINOMIAL) / sum(BINOMIAL)).expand(3, 1, 5)
    blur = params["branch"]["detail"]["branch"]["branch"]
    blur["rows"]["weight"], blur["columns"]["weight"] = kernel[:, :, None].clone(), kernel[..., None].clone()
    pure.check_params(block, params)
    return params


def enhance(params: Any, image: Tensor) -> dict[str, Tensor]:
    """Enhance an image if it is dark; this is the function that is exported.

    Args:
        params: as `designed` gives them.
        image: (1, 3, height, width), sRGB values of 0…1.

    Returns:
        {"image": the same shape, "row_luminance": (height,), whose mean is what the decision was made on}.
    """
    rows = row_luminance(image)
    return {"image": enhancer()(params, image, {}, {"control": 1 - rows.mean()}), "row_luminance": rows}
