"""Names of DenseNets, ConvNeXts and MobileNets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from pure.nets.convolutional.convnext import convnext as make_convnext
from pure.nets.convolutional.densenet import densenet as make_densenet
from pure.nets.convolutional.mobilenet import mobilenetv2_timm

__all__ = ["convnext", "densenet", "mobilenetv2"]

Found = tuple[Callable[..., Any], dict[str, Any]] | None

DENSE: Final[dict[str, tuple[int, tuple[int, ...]]]] = {
    "121": (32, (6, 12, 24, 16)),
    "161": (48, (6, 12, 36, 24)),
    "169": (32, (6, 12, 32, 32)),
    "201": (32, (6, 12, 48, 32)),
    "264": (48, (6, 12, 64, 48)),
}
"""Growth and layers of each block."""

CONVNEXT: Final = re.compile(r"convnext(?P<two>v2)?_(?P<size>[a-z]+)(?P<rms>_rms)?(?P<form>_ols|_hnf|_mlp|)")
SIZES: Final[dict[str, tuple[tuple[int, ...], int]]] = {
    "zepto": ((2, 2, 4, 2), 32),
    "atto": ((2, 2, 6, 2), 40),
    "femto": ((2, 2, 6, 2), 48),
    "pico": ((2, 2, 6, 2), 64),
    "nano": ((2, 2, 8, 2), 80),
    "tiny": ((3, 3, 9, 3), 96),
    "small": ((3, 3, 27, 3), 96),
    "base": ((3, 3, 27, 3), 128),
    "large": ((3, 3, 27, 3), 192),
    "xlarge": ((3, 3, 27, 3), 256),
    "huge": ((3, 3, 27, 3), 352),
    "xxlarge": ((3, 4, 30, 3), 384),
}
"""Blocks of each stage, and the width of the first."""
CONVOLUTIONAL: Final = ("zepto", "atto", "femto", "pico", "nano")
"""Sizes whose blocks have 1×1 convolutions."""


def densenet(name: str) -> Found:
    """Return what `densenet169`, `densenet264d`, `densenetblur121d`, … stand for."""
    match = re.fullmatch(r"densenet(?P<blur>blur)?(?P<depth>\d+)(?P<deep>d)?", name)
    if match is None or match["depth"] not in DENSE:
        return None
    growth, blocks = DENSE[match["depth"]]
    options = {"deep_stem": bool(match["deep"]), "blur": bool(match["blur"])}
    return make_densenet, {"growth": growth, "blocks": blocks, "stem_channels": 2 * growth, **options}


def convnext(name: str) -> Found:
    """Return what `convnext_pico_ols`, `convnextv2_huge`, … stand for."""
    match = CONVNEXT.fullmatch(name)
    if match is None or match["size"] not in SIZES:
        return None
    size, form = match["size"], match["form"]
    depths, width = SIZES[size]
    options: dict[str, Any] = {"depths": depths, "widths": tuple(width * 2**stage for stage in range(4))}
    options["convolutional"] = size in CONVOLUTIONAL or form == "_hnf"
    if match["two"]:
        options |= {"layer_scale": None, "response_norm": True}
    if match["rms"]:
        options["norm"] = "simple" if size == "zepto" else "rms"
    if size == "xxlarge":
        options["eps"] = 1e-5
    if form == "_ols":
        options["stem"] = {"zepto": "overlap_act", "nano": "overlap"}.get(size, "overlap_tiered")
    if form == "_hnf":
        options["head"] = "norm_first"
    if form == "_mlp":
        options["head_hidden"] = 8 * width
    return make_convnext, options


def mobilenetv2(name: str) -> Found:
    """Return what `mobilenetv2_100`, `mobilenetv2_110d`, … stand for: a percentage of the width, d deeper as well."""
    match = re.fullmatch(r"mobilenetv2_(\d{3})(d?)", name)
    if match is None:
        return None
    options: dict[str, Any] = {"width_mult": int(match[1]) / 100}
    if match[2]:
        deeper = {"110": 1.2, "120": 1.4}.get(match[1])
        if deeper is None:
            return None
        options |= {"depth_mult": deeper, "fixed_ends": True}
    return mobilenetv2_timm, options
