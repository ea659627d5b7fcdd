"""Names of vision transformers and of networks of MLPs over tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from pure.nets.transformers.mixer import gmlp, mlp_mixer
from pure.nets.transformers.vit import vision_transformer

__all__ = ["deit", "mixer", "vit"]

Found = tuple[Callable[..., Any], dict[str, Any]] | None

SIZES: Final[dict[str, tuple[int, int, int, float]]] = {
    "tiny": (192, 12, 3, 4),
    "xsmall": (256, 10, 4, 4),
    "small": (384, 12, 6, 4),
    "wee": (256, 14, 4, 5),
    "little": (320, 14, 5, 5.6),
    "medium": (512, 12, 8, 4),
    "mediumd": (512, 20, 8, 4),
    "betwixt": (640, 12, 10, 4),
    "base": (768, 12, 12, 4),
    "large": (1024, 24, 16, 4),
    "intern300m": (1024, 24, 16, 4),
    "so150m": (896, 18, 14, 2.572),
    "so150m2": (832, 21, 13, 34 / 13),
    "so400m": (1152, 27, 16, 3.7362),
    "huge": (1280, 32, 16, 4),
    "giant": (1408, 40, 16, 48 / 11),
    "giantopt": (1536, 40, 16, 4),
    "gigantic": (1664, 48, 16, 64 / 13),
}
"""Features, depth, heads, and the feed-forward layers' width over the features."""
WIDE_GIANT: Final = (1536, 40, 24, 4)
"""The giant of DINOv2 and its successors."""

VIT: Final = re.compile(
    r"vit_(?P<size>[a-z]+\d*[a-z]*2?)_patch(?P<patch>\d+)(?P<words>(?:_[a-z0-9]+)*?)(?:_(?P<image>\d+))?(?P<last>_miil)?"
)
DINO: Final[dict[str, Any]] = {"init_values": 1e-5, "num_classes": 0}
RADIO: Final[dict[str, Any]] = {"token_positions": False, "final_norm": False, "num_classes": 0}
WORDS: Final[dict[str, dict[str, Any]]] = {
    "clip": {"pre_norm": True, "eps": 1e-5},
    "quickgelu": {"activation": "quick_gelu"},
    "gap": {"class_token": False, "pool": "mean", "norm_first": True},
    "map": {"class_token": False, "pool": "attention"},
    "siglip": {"class_token": False, "pool": "attention", "num_classes": 0},
    "dinov2": DINO,
    "tipsv2": {**DINO, "init_values": 1.0},
    "radio": RADIO,
    "v3": {"registers": 7},
    "v4": {"registers": 9},
    "rpn": {"qkv_bias": False, "init_values": 1e-5, "class_token": False, "placement": "res_post", "pool": "mean"},
    "plus": {"features": 896, "hidden": 4 * 896, "heads": 14},
    "18x2": {"depth": 18, "branches": 2, "init_values": 1e-5},
    "36x1": {"depth": 36, "init_values": 1e-5},
}
"""What each word of a name stands for; later words and the rules of `vit` go before earlier ones."""
IMAGES: Final = {"dinov2": 518, "tipsv2": 448, "radio": 512}
"""Size of the images where the name has none."""


def vit(name: str) -> Found:
    """Return what `vit_small_patch16_224`, `vit_base_patch14_reg4_dinov2`, … stand for."""
    match = VIT.fullmatch(name)
    if match is None or match["size"] not in SIZES:
        return None
    size, words = match["size"], match["words"].split("_")[1:]
    registers = [int(word[3:]) for word in words if re.fullmatch(r"reg\d+", word)]
    rest = [word for word in words if not re.fullmatch(r"reg\d+", word)]
    image = match["image"] or next((IMAGES[word] for word in rest if word in IMAGES), None)
    if image is None or any(word not in WORDS for word in rest):
        return None
    options = _sized(size, int(match["patch"]), int(image))
    for word in rest:
        options |= WORDS[word]
    if match["last"]:
        options["qkv_bias"] = False
    if registers:
        options |= {"registers": registers[0], "token_positions": False}
    options |= _trained(size, int(match["patch"]), int(image), rest, registers)
    return vision_transformer, options


def _sized(size: str, patch: int, image: int) -> dict[str, Any]:
    """Return the options that a size stands for."""
    features, depth, heads, ratio = SIZES[size]
    sizes = {"features": features, "depth": depth, "heads": heads, "hidden": int(features * ratio)}
    whole = image // patch * patch  # timm's patches leave out the last pixels of an image that they do not tile
    return {"image_size": whole, "patch_size": patch, **sizes}


def _trained(size: str, patch: int, image: int, words: list[str], registers: list[int]) -> dict[str, Any]:
    """Return what depends on several words of a name: how these networks were trained."""
    options: dict[str, Any] = {}
    if size == "giant" and {"dinov2", "tipsv2", "radio"} & set(words):
        features, depth, heads, _ = WIDE_GIANT
        gated = "radio" not in words
        hidden = int(features * 2.66667 * 2) if gated else 4 * features
        options |= {"features": features, "depth": depth, "heads": heads, "hidden": hidden, "gated": gated}
        options |= {"activation": "silu"} if gated else {}
    if size == "so400m" and {"tipsv2", "radio"} & set(words):
        options["hidden"] = 4304
    tanh = size == "giantopt" or patch == 32 or (size, patch) == ("so400m", 16) or (size, image) == ("large", 512)
    if "siglip" in words and tanh:
        options["activation"] = "gelu_tanh"
    if "gap" in words and registers and size not in ("so150m",):
        options["norm_first"] = False
    if "gap" in words and registers and size not in ("base", "so150m"):
        options["init_values"] = 1e-5
    if "plus" in words and "clip" not in words:
        options["init_values"] = 1e-5
    if size == "so150m":
        options["token_positions"] = True
    if size == "so150m2":
        options |= {"qkv_bias": False, "token_positions": True}
    if words == ["gap"] and not registers:
        narrow = size in ("medium", "betwixt")
        options |= {"qkv_bias": False, "init_values": 1e-6} if narrow else {"heads": 16}
    if size == "intern300m":
        options |= {"init_values": 0.1, "final_norm": False, "num_classes": 0}
    if "radio" in words and size in ("base", "large"):
        options["init_values"] = 1e-5
    return options


def deit(name: str) -> Found:
    """Return what `deit_small_distilled_patch16_224`, `deit3_base_patch16_384`, … stand for."""
    match = re.fullmatch(r"deit(?P<three>3)?_(?P<size>[a-z]+)(?P<distilled>_distilled)?_patch(\d+)_(\d+)", name)
    if match is None or match["size"] not in SIZES:
        return None
    options = _sized(match["size"], int(match[4]), int(match[5]))
    if match["three"]:
        options |= {"token_positions": False, "init_values": 1e-6}
    if match["distilled"]:
        options["distilled"] = True
    return vision_transformer, options


MIXER: Final = {"s": (512, 8), "b": (768, 12), "l": (1024, 24)}
GMLP: Final = {"ti": 128, "s": 256, "b": 512}


def mixer(name: str) -> Found:
    """Return what `mixer_b16_224`, `gmlp_s16_224`, … stand for."""
    match = re.fullmatch(r"(?P<kind>mixer|gmlp)_(?P<size>[a-z]+)(?P<patch>\d+)_(?P<image>\d+)", name)
    if match is None or match["size"] not in (MIXER if match["kind"] == "mixer" else GMLP):
        return None
    sizes: dict[str, Any] = {"image_size": int(match["image"]), "patch_size": int(match["patch"])}
    if match["kind"] == "gmlp":
        return gmlp, {**sizes, "features": GMLP[match["size"]]}
    features, depth = MIXER[match["size"]]
    return mlp_mixer, {**sizes, "features": features, "depth": depth}
