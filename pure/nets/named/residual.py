"""Names of residual networks: ResNet, ResNeXt, SE-, -RS, anti-aliased and pre-activation forms."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from pure.nets.convolutional.nf_resnet import norm_free_resnet
from pure.nets.convolutional.resnet import resnet_v1
from pure.nets.convolutional.resnetv2 import resnet_v2

__all__ = ["nf_resnet", "resnet", "resnetv2"]

DEPTHS: Final[dict[str, tuple[int, ...]]] = {
    "10": (1, 1, 1, 1),
    "14": (1, 1, 1, 1),
    "18": (2, 2, 2, 2),
    "26": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
    "269": (3, 30, 48, 8),
}
"""Blocks of each stage; the depths of `BASIC` have basic blocks, the others bottlenecks."""
RS_DEPTHS: Final = DEPTHS | {"270": (4, 29, 53, 4), "350": (4, 36, 72, 4), "420": (4, 44, 87, 4)}
BASIC: Final = ("10", "18", "34")

DEEP: Final[dict[str, Any]] = {"stem": "deep"}
FORMS: Final[dict[str, dict[str, Any]]] = {
    "": {},
    "c": DEEP,
    "d": {**DEEP, "avg_down": True},
    "s": {**DEEP, "stem_channels": 128},
    "t": {"stem": "tiered", "avg_down": True},
}
"""What the letter behind the depth says of the stem and the shortcuts."""
KINDS: Final[dict[str, dict[str, Any]]] = {
    "": {},
    "aa": {"antialias": "avg"},
    "blur": {"antialias": "blur"},
    "rs": {**FORMS["d"], "stem_pool": "conv", "squeeze": 0.25},
}
RESNET: Final = re.compile(
    r"(?P<wide>wide_)?(?P<se>se)?resne(?:t|(?P<next>x)t)(?P<kind>aa|blur|rs|)(?P<depth>\d+)(?P<form>[cdst]?)"
    r"(?:_(?P<groups>\d+)x(?P<width>\d+)d)?(?P<gn>_gn)?(?P<two>_2)?"
)
RESNETV2: Final = re.compile(r"resnetv2_(?P<depth>\d+)(?P<form>[dt]?)(?P<gn>_gn)?(?:x(?P<factor>\d+)(?P<bit>_bit))?")
V2_WIDTHS: Final = (256, 512, 1024, 2048)

Found = tuple[Callable[..., Any], dict[str, Any]] | None


def resnet(name: str) -> Found:
    """Return what `resnet50`, `seresnet152d`, `resnext101_32x8d`, `resnetrs200`, … stand for."""
    match = RESNET.fullmatch(name)
    if match is None or bool(match["next"]) != bool(match["groups"]) or bool(match["wide"]) != bool(match["two"]):
        return None
    depths = (RS_DEPTHS if match["kind"] == "rs" else DEPTHS).get(match["depth"])
    if depths is None:
        return None
    options: dict[str, Any] = {"depths": depths, "zero_gamma": True, **FORMS[match["form"]], **KINDS[match["kind"]]}
    if match["kind"] != "rs" and match["depth"] in BASIC:
        options["block"] = "basic"
    if match["se"]:
        options["squeeze"] = True
    if match["groups"]:
        options |= {"groups": int(match["groups"]), "width_per_group": int(match["width"])}
    if match["wide"]:
        options["width_per_group"] = 128
    if match["gn"]:
        options |= {"norm": "group", "zero_gamma": False}
    return resnet_v1, options


def resnetv2(name: str) -> Found:
    """Return what `resnetv2_50d`, `resnetv2_101x3_bit`, … stand for."""
    match = RESNETV2.fullmatch(name)
    depths = DEPTHS.get(match["depth"]) if match else None
    if match is None or depths is None:
        return None
    options: dict[str, Any] = {"depths": depths, **FORMS[match["form"]]}
    if match["gn"]:
        options["norm"] = "group"
    if match["depth"] in BASIC:
        options |= {"block": "basic", "widths": (64, 128, 256, 512)}
    if match["bit"]:
        factor = int(match["factor"])
        options |= {"widths": tuple(factor * width for width in V2_WIDTHS), "stem_channels": 64 * factor}
        options |= {"stem": "7x7_zeros", "norm": "group", "standard_eps": 1e-8}
    return resnet_v2, options


def nf_resnet(name: str) -> Found:
    """Return what `nf_resnet26`, … stand for."""
    match = re.fullmatch(r"nf_resnet(\d+)", name)
    depths = DEPTHS.get(match[1]) if match and match[1] not in BASIC else None
    return None if depths is None else (norm_free_resnet, {"depths": depths})
