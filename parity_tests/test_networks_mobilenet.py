"""MobileNetV2 equals torchvision's: checkpoints, outputs, gradients, new state, counts."""

import pytest
import torch
from torch import nn

from parity_tests.libraries import conv_oracles, torchvision
from parity_tests.network_parity import assert_same, picture
from pure import tree
from pure.errors import ArgumentError
from pure.nets.convolutional.mobilenet import mobilenet_v2

both_modes = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])


@both_modes
def test_preset_equals_torchvision(training: bool) -> None:
    module = torchvision.models.mobilenet_v2()
    assert_same(mobilenet_v2(), module, None, picture(2, 3, 64, 64), training=training, call=conv_oracles.replayed)


@pytest.mark.parametrize(("width", "nearest"), [(0.35, 8), (0.75, 4), (1.4, 8)])
def test_other_widths_equal_torchvision(width: float, nearest: int) -> None:
    module = torchvision.models.mobilenet_v2(width_mult=width, round_nearest=nearest, num_classes=5, dropout=0.0)
    block = mobilenet_v2(width, round_nearest=nearest, num_classes=5, dropout=0.0)
    assert_same(block, module, "torchvision", picture(2, 3, 64, 64), training=True)


@both_modes
def test_other_stages_and_channels_equal_torchvision(training: bool) -> None:
    stages = ((2, 8, 2, 1), (1, 12, 1, 2), (4, 12, 2, 1))
    module = torchvision.models.MobileNetV2(4, inverted_residual_setting=[list(stage) for stage in stages])
    module.features[0][0] = nn.Conv2d(1, 32, 3, 2, 1, bias=False)
    block = mobilenet_v2(num_classes=4, in_channels=1, stages=stages)
    assert_same(block, module, None, picture(2, 1, 32, 32), training=training, call=conv_oracles.replayed)


def test_weights_start_as_torchvision_starts_them() -> None:
    params, _ = mobilenet_v2(num_classes=100).init(torch.Generator().manual_seed(0))
    flat = tree.flatten(params)
    weight = flat["features.18.conv.weight"]
    assert float(weight.std()) == pytest.approx((2 / 1280) ** 0.5, rel=0.02), "He's rule over the outputs"
    assert float(flat["classifier.1.weight"].std()) == pytest.approx(0.01, rel=0.02)
    assert not flat["classifier.1.bias"].any()


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ArgumentError, match="stages"):
        mobilenet_v2(stages=())
    with pytest.raises(ArgumentError, match="stride=3"):
        mobilenet_v2(stages=((1, 16, 1, 3),))
