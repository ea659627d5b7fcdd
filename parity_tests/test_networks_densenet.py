"""DenseNets equal torchvision's, timm's and pytorchcv's: checkpoints, outputs, gradients, new state, counts."""

import re
from typing import Any

import pytest
import torch

from parity_tests.libraries import conv_oracles, pytorchcv_models, timm, torchvision
from parity_tests.network_parity import assert_same, count, picture
from parity_tests.oracles.oracle import Flat, Oracle, assert_equal, differences, shifted
from pure import nets, tree
from pure.errors import ArgumentError

both_modes = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])


@both_modes
@pytest.mark.parametrize("name", ["densenet121", "densenet161", "densenet169", "densenet201"])
def test_preset_equals_torchvision(name: str, training: bool) -> None:
    assert_same(
        getattr(nets, name)(), getattr(torchvision.models, name)(), None, picture(2, 3, 64, 64), training=training
    )


def test_training_with_dropout_equals_torchvision() -> None:
    module = torchvision.models.densenet121(drop_rate=0.2, num_classes=5)
    block = nets.densenet121(drop_rate=0.2, num_classes=5)
    assert_same(block, module, None, picture(2, 3, 64, 64), training=True, call=conv_oracles.replayed_dropout)


@both_modes
def test_another_member_equals_torchvision(training: bool) -> None:
    module = torchvision.models.DenseNet(6, (2, 3, 1), 10, bn_size=3, num_classes=7)
    block = nets.densenet(6, (2, 3, 1), 10, bottleneck=3, num_classes=7)
    assert_same(block, module, "torchvision", picture(2, 3, 64, 64), training=training)


def test_other_channels_equal_timm() -> None:
    module = timm.create_model("densenet121", in_chans=1, num_classes=4)
    block = nets.densenet121(in_channels=1, num_classes=4)
    assert_same(block, module, "timm", picture(2, 1, 64, 64), training=True)


def assert_equals_oracle(block: Any, oracle: Oracle, training: bool) -> None:
    module = oracle.make().double()
    params, state = block.init(torch.Generator().manual_seed(0), torch.float64)
    gains = {name: leaf for name, leaf in tree.flatten(params).items() if leaf.ndim == 1}
    params = tree.unflatten({**tree.flatten(params), **shifted(gains, 1)})
    found = differences(oracle, module, block, params, shifted(state, 2), picture(2, 3, 32, 32), {}, training=training)
    assert_equal(oracle, found)


@both_modes
def test_densenet40_12_equals_its_formula(training: bool) -> None:
    oracle = Oracle(
        lambda: conv_oracles.PlainDenseNet(12, 12, 16, 10, 0.2),
        conv_oracles.plain_densenet_names(12),
        conv_oracles.replayed_dropout,
    )
    assert_equals_oracle(nets.densenet40_12(drop_rate=0.2), oracle, training)


def pytorchcv_names(flat: Flat) -> Flat:
    """Our leaves under pytorchcv's names; its transitions open a stage and its units have one or two convolutions."""
    renamed = {}
    deep = any(".branch.norm2." in name for name in flat)
    for name, leaf in flat.items():
        name = name.replace("features.conv0", "features.init_block").replace("norm5", "post_activ.bn")
        name = name.replace("classifier", "output")
        name = re.sub(r"denseblock(\d)\.denselayer(\d+)\.branch\.", r"stage\1.unit\2.", name)
        name = re.sub(
            r"unit(\d+)\.(norm|conv)(\d)",
            lambda m: f"unit{m[1]}.conv{m[3] if deep else ''}.{'bn' if m[2] == 'norm' else 'conv'}",
            name,
        )
        name = re.sub(
            r"transition(\d)\.(norm|conv)",
            lambda m: f"stage{int(m[1]) + 1}.trans{int(m[1]) + 1}.conv.{'bn' if m[2] == 'norm' else 'conv'}",
            name,
        )
        renamed[name] = leaf
    return renamed


@both_modes
def test_densenet_bc100_12_equals_pytorchcv(training: bool) -> None:
    oracle = Oracle(lambda: pytorchcv_models.get_model("densenet100_k12_bc_cifar10"), pytorchcv_names)
    assert_equals_oracle(nets.densenet_bc100_12(), oracle, training)


def test_a_compressed_densenet_without_bottlenecks_equals_pytorchcv() -> None:
    block = nets.densenet_cifar(40, 12, compression=0.5, stem_channels=24)
    assert count(block) == 599_050, "pytorchcv's densenet40_k12 is not the paper's"
    assert_equals_oracle(
        block, Oracle(lambda: pytorchcv_models.get_model("densenet40_k12_cifar10"), pytorchcv_names), True
    )


def test_weights_start_as_torchvision_starts_them() -> None:
    params, _ = nets.densenet(8, (2,), 16, num_classes=10).init(torch.Generator().manual_seed(0))
    flat = tree.flatten(params)
    weight = flat["features.denseblock1.denselayer1.branch.conv1.weight"]
    assert float(weight.std()) == pytest.approx((2 / 16) ** 0.5, rel=0.1), "He's rule over the inputs"
    assert not flat["classifier.bias"].any()


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ArgumentError, match="3n \\+ 4"):
        nets.densenet_cifar(41, 12)
    with pytest.raises(ArgumentError, match="compression=0"):
        nets.densenet(compression=0)
    with pytest.raises(ArgumentError, match="growth=0"):
        nets.densenet(growth=0)
