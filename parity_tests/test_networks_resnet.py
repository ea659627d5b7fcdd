"""ResNets, version 1 and 2 and norm-free, equal torchvision's and timm's, with their checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

from parity_tests.libraries import timm, timm_layers, timm_nfnet, timm_resnet, timm_resnetv2, torchvision, vision_resnet
from parity_tests.network_parity import assert_equal, assert_round_trip, picture, randomised
from parity_tests.oracles.masks import masked
from pure.block import Block, specification
from pure.errors import ArgumentError, TreeError
from pure.interop.checkpoints import from_state_dict, to_state_dict
from pure.interop.scheme import Source
from pure.nets.convolutional import nf_resnet, resnet
from pure.nets.convolutional import resnetv2 as pure_v2

PRESETS: dict[str, tuple[Source, Callable[..., Block]]] = {
    "resnet18": ("torchvision", resnet.resnet18),
    "resnet34": ("torchvision", resnet.resnet34),
    "resnet50": ("torchvision", resnet.resnet50),
    "resnet101": ("torchvision", resnet.resnet101),
    "resnet152": ("torchvision", resnet.resnet152),
    "resnext50_32x4d": ("torchvision", resnet.resnext50_32x4d),
    "wide_resnet50_2": ("torchvision", resnet.wide_resnet50_2),
    "resnet18d": ("timm", resnet.resnet18d),
    "resnet50d": ("timm", resnet.resnet50d),
    "seresnet50": ("timm", resnet.seresnet50),
    "resnetv2_50": ("timm", pure_v2.resnetv2_50),
    "nf_resnet50": ("timm", nf_resnet.nf_resnet50),
}
TIMM = [name for name, (source, _) in PRESETS.items() if source == "timm"]


@lru_cache(maxsize=1)
def library(name: str, **options: Any) -> nn.Module:
    """Return the library's network with random gains and statistics."""
    torch.manual_seed(0)
    if PRESETS[name][0] == "torchvision":
        return randomised(torchvision.models.get_model(name, **options))
    return randomised(timm.create_model(name, **options))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", PRESETS)
def test_preset_equals_the_library(name: str, training: bool) -> None:
    source, make = PRESETS[name]
    assert_equal(
        make(), library(name), source, picture(*((4, 3, 64, 64) if training else (2, 3, 40, 40))), training=training
    )


@pytest.mark.parametrize("name", TIMM)
def test_preset_equals_the_library_with_the_same_drop_path(name: str) -> None:
    source, make = PRESETS[name]
    block = make(drop_path_rate=0.3)
    module = masked(library(name, drop_path_rate=0.3), 0.3)
    assert_equal(block, module, source, picture(4, 3, 64, 64), training=True)


@pytest.mark.parametrize("name", PRESETS)
def test_checkpoint_comes_back(name: str) -> None:
    source, make = PRESETS[name]
    assert_round_trip(make(), library(name).state_dict(), source)


def test_the_largest_preset_has_the_names_and_shapes_of_torchvision() -> None:
    block = resnet.wide_resnet101_2()
    with torch.device("meta"):
        theirs = torchvision.models.wide_resnet101_2().state_dict()
    ours = to_state_dict(block, *specification(block), source="torchvision")
    assert {name: leaf.shape for name, leaf in ours.items()} == {name: leaf.shape for name, leaf in theirs.items()}


def vision_grey() -> nn.Module:
    module = vision_resnet.ResNet(vision_resnet.Bottleneck, [1, 2, 1, 1], num_classes=7, groups=2, width_per_group=32)
    module.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return module


def v2_module(**options: Any) -> nn.Module:
    return timm_resnetv2.ResNetV2(
        conv_layer=timm_layers.create_conv2d, norm_layer=timm_layers.BatchNormAct2d, in_chans=2, **options
    )


MEMBERS: dict[str, tuple[Source, Callable[[], Block], Callable[[], nn.Module]]] = {
    "grouped_bottlenecks": (
        "torchvision",
        lambda: resnet.resnet_v1((1, 2, 1, 1), num_classes=7, in_channels=1, groups=2, width_per_group=32),
        vision_grey,
    ),
    "narrow_deep_stem": (
        "timm",
        lambda: resnet.resnet_v1(
            (1, 2, 1, 1),
            block="basic",
            widths=(8, 12, 16, 20),
            num_classes=5,
            in_channels=2,
            stem="deep",
            stem_channels=12,
            avg_down=True,
        ),
        lambda: timm_resnet.ResNet(
            timm_resnet.BasicBlock,
            (1, 2, 1, 1),
            5,
            2,
            channels=(8, 12, 16, 20),
            stem_width=6,
            stem_type="deep",
            avg_down=True,
        ),
    ),
    "v2_deep_stem_pooled": (
        "timm",
        lambda: pure_v2.resnet_v2(
            (2, 1), widths=(40, 72), num_classes=5, in_channels=2, stem="deep", stem_channels=16, avg_down=True
        ),
        lambda: v2_module(
            layers=[2, 1], channels=(40, 72), num_classes=5, stem_type="deep", stem_chs=16, avg_down=True
        ),
    ),
    "v2_basic": (
        "timm",
        lambda: pure_v2.resnet_v2(
            (1, 2), block="basic", widths=(16, 24), num_classes=5, in_channels=2, stem_channels=16
        ),
        lambda: v2_module(layers=[1, 2], channels=(16, 24), num_classes=5, stem_chs=16, basic=True, bottle_ratio=1.0),
    ),
    "norm_free_skip_init": (
        "timm",
        lambda: nf_resnet.norm_free_resnet(
            (2, 2),
            widths=(40, 72),
            num_classes=5,
            in_channels=2,
            stem_channels=16,
            skip_init=True,
            activation="silu",
            alpha=0.3,
        ),
        lambda: timm_nfnet.NormFreeNet(
            timm_nfnet._nfres_cfg((2, 2), (40, 72), act_layer="silu"), 5, 2, stem_chs=16, skipinit=True, alpha=0.3
        ),
    ),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", MEMBERS)
def test_other_members_of_the_family_equal_the_library(name: str, training: bool) -> None:
    source, make, module = MEMBERS[name]
    torch.manual_seed(1)
    other, block = randomised(module()), make()
    assert_round_trip(block, other.state_dict(), source)
    channels = next(iter(other.parameters())).shape[1]
    assert_equal(block, other, source, picture(4, channels, 64, 64), training=training)


DROPPED: dict[str, tuple[Callable[..., Block], Callable[..., nn.Module]]] = {
    "resnet": (
        lambda **options: resnet.resnet_v1((1, 1, 1, 1), block="basic", widths=(8, 8, 8, 8), num_classes=5, **options),
        lambda **options: timm_resnet.ResNet(
            timm_resnet.BasicBlock, (1, 1, 1, 1), 5, channels=(8, 8, 8, 8), drop_rate=0.25, **options
        ),
    ),
    "resnet_v2": (
        lambda **options: pure_v2.resnet_v2((1, 1), widths=(16, 24), num_classes=5, stem_channels=8, **options),
        lambda **options: timm_resnetv2.ResNetV2(
            [1, 1],
            (16, 24),
            5,
            stem_chs=8,
            conv_layer=timm_layers.create_conv2d,
            norm_layer=timm_layers.BatchNormAct2d,
            drop_rate=0.25,
            **options,
        ),
    ),
    "norm_free_resnet": (
        lambda **options: nf_resnet.norm_free_resnet(
            (1, 1), widths=(16, 24), num_classes=5, stem_channels=8, **options
        ),
        lambda **options: timm_nfnet.NormFreeNet(
            timm_nfnet._nfres_cfg((1, 1), (16, 24)), 5, stem_chs=8, drop_rate=0.25, **options
        ),
    ),
}


@pytest.mark.parametrize("name", DROPPED)
def test_dropout_in_front_of_the_head_and_drop_path_equal_the_library(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, module = DROPPED[name]
    block, x = make(dropout=0.25, drop_path_rate=0.4), picture(6, 3, 32, 32)
    mask = block.noise(tuple(x.shape), torch.Generator().manual_seed(1), dtype=x.dtype)["drop"]["mask"]
    assert 0 < float(mask.mean()) < 1

    def given(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return x * mask.reshape(x.shape) / (1 - p) if training and p else x

    monkeypatch.setattr(torch.nn.functional, "dropout", given)
    torch.manual_seed(0)
    assert_equal(block, masked(randomised(module(drop_path_rate=0.4)), 0.4), "timm", x, training=True)


def test_plain_resnets_have_the_same_names_in_both_libraries() -> None:
    block = resnet.resnet18(num_classes=3)
    params, state = block.init(torch.Generator().manual_seed(0))
    assert (
        to_state_dict(block, params, state, "timm").keys() == to_state_dict(block, params, state, "torchvision").keys()
    )
    timm.create_model("resnet18", num_classes=3).load_state_dict(to_state_dict(block, params, state, "timm"))


def test_another_head_is_drawn_where_the_checkpoint_has_too_many_classes() -> None:
    given = library("resnet18").state_dict()
    block = resnet.resnet18(num_classes=10)
    with pytest.raises(TreeError, match=r"fc\.weight"):
        from_state_dict(block, given)
    params, _ = from_state_dict(block, given, ignore="fc")
    assert params["fc"]["weight"].shape == (10, 512)
    assert torch.equal(params["conv1"]["weight"], given["conv1.weight"])


def test_a_zero_gamma_starts_each_block_as_its_shortcut() -> None:
    block = resnet.resnet18(zero_gamma=True, num_classes=3)
    params, _ = block.init(torch.Generator().manual_seed(0))
    module = vision_resnet.ResNet(vision_resnet.BasicBlock, [2, 2, 2, 2], num_classes=3, zero_init_residual=True)
    named = to_state_dict(block, params, block.init(torch.Generator())[1], "torchvision")
    zeros = {name for name, leaf in module.named_parameters() if "bn" in name and "weight" in name and not leaf.any()}
    assert zeros == {name for name, leaf in named.items() if "bn" in name and "weight" in name and not leaf.any()}


def test_convolutions_start_with_hes_variance() -> None:
    params, _ = resnet.resnet18().init(torch.Generator().manual_seed(0))
    weight = params["layer3"]["0"]["branch"]["conv1"]["weight"]
    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"block": "wide"},
        {"stem": "5x5"},
        {"depths": (1, 2)},
        {"depths": (0, 1, 1, 1)},
        {"stride_in": "2x2"},
        {"block": "basic", "groups": 2},
    ],
    ids=str,
)
def test_wrong_options_say_what_is_expected(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"expected|options of"):
        resnet.resnet_v1(**options)
