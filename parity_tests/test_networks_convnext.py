"""ConvNeXt equals torchvision's and timm's, version 2 timm's: checkpoints, outputs, gradients, counts."""

from typing import Any

import pytest
import torch

from parity_tests.libraries import conv_oracles, timm, torchvision, vision_convnext
from parity_tests.network_parity import assert_same, picture
from pure import nets, tree
from pure.block import specification
from pure.errors import ArgumentError
from pure.interop import from_state_dict, to_state_dict

both_modes = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])


@pytest.mark.parametrize("name", [f"convnext{v}_{size}" for v in ("", "v2") for size in ("small", "base", "large")])
def test_larger_presets_have_the_libraries_names_and_shapes(name: str) -> None:
    block = getattr(nets, name)()
    with torch.device("meta"):
        modules = {"timm": timm.create_model(name)}
        if "v2" not in name:
            modules["torchvision"] = getattr(torchvision.models, name)()
    for source, module in modules.items():
        written = to_state_dict(block, *specification(block), source=source)  # type: ignore[arg-type]
        assert {key: leaf.shape for key, leaf in written.items()} == {
            key: leaf.shape for key, leaf in module.state_dict().items()
        }


@both_modes
def test_convnext_tiny_equals_torchvision(training: bool) -> None:
    module = torchvision.models.convnext_tiny(stochastic_depth_prob=0.3)
    block = nets.convnext_tiny(drop_path_rate=0.3)
    assert_same(block, module, "torchvision", picture(2, 3, 32, 32), training=training, call=conv_oracles.replayed)


@both_modes
@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_tiny"])
def test_preset_equals_timm(name: str, training: bool) -> None:
    module = timm.create_model(name, drop_path_rate=0.3)
    block = getattr(nets, name)(drop_path_rate=0.3)
    assert_same(block, module, "timm", picture(2, 3, 32, 32), training=training, call=conv_oracles.replayed)


def test_the_library_is_found_from_the_names() -> None:
    options: dict[str, Any] = {"num_classes": 3, "stochastic_depth_prob": 0.0}
    module = torchvision.models.ConvNeXt(
        [vision_convnext.CNBlockConfig(4, 8, 1), vision_convnext.CNBlockConfig(8, None, 1)], **options
    )
    block = nets.convnext((1, 1), (4, 8), num_classes=3)
    found = tree.flatten(from_state_dict(block, module.state_dict())[0])
    assert torch.equal(found["stages.1.blocks.0.branch.scale.weight"], module.features[3][0].layer_scale.flatten())
    with pytest.raises(ArgumentError, match="source="):
        to_state_dict(block, *from_state_dict(block, module.state_dict()))


@both_modes
def test_another_member_equals_torchvision(training: bool) -> None:
    stages = [
        vision_convnext.CNBlockConfig(4, 8, 2),
        vision_convnext.CNBlockConfig(8, 6, 1),
        vision_convnext.CNBlockConfig(6, None, 2),
    ]
    module = torchvision.models.ConvNeXt(stages, stochastic_depth_prob=0.4, layer_scale=0.1, num_classes=5)
    block = nets.convnext((2, 1, 2), (4, 8, 6), num_classes=5, layer_scale=0.1, drop_path_rate=0.4)
    assert_same(block, module, "torchvision", picture(2, 3, 32, 32), training=training, call=conv_oracles.replayed)


@both_modes
@pytest.mark.parametrize("version", [1, 2])
def test_another_member_equals_timm(version: int, training: bool) -> None:
    sizes: dict[str, Any] = {"num_classes": 5, "drop_path_rate": 0.25}
    new: dict[str, Any] = {"use_grn": True, "ls_init_value": None} if version == 2 else {"ls_init_value": 0.1}
    ours: dict[str, Any] = {"response_norm": True, "layer_scale": None} if version == 2 else {"layer_scale": 0.1}
    module = timm.models.convnext.ConvNeXt(2, depths=(1, 2, 1, 1), dims=(4, 8, 6, 8), kernel_sizes=5, **sizes, **new)
    block = nets.convnext((1, 2, 1, 1), (4, 8, 6, 8), in_channels=2, kernel_size=5, **sizes, **ours)
    assert_same(block, module, "timm", picture(2, 2, 32, 32), training=training, call=conv_oracles.replayed)


def test_weights_start_as_the_libraries_start_them() -> None:
    params, _ = nets.convnext((1, 1), (16, 32), num_classes=50).init(torch.Generator().manual_seed(0))
    flat = tree.flatten(params)
    assert float(flat["stages.1.blocks.0.branch.fc1.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(flat["head.fc.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert all(not leaf.any() for name, leaf in flat.items() if name.endswith("bias"))
    assert torch.equal(flat["stages.0.blocks.0.branch.scale.weight"], torch.full((16,), 1e-6))
    second, _ = nets.convnext((1,), (8,), layer_scale=None, response_norm=True).init(torch.Generator())
    assert not tree.flatten(second)["stages.0.blocks.0.branch.grn.weight"].any()


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ArgumentError, match="depths"):
        nets.convnext((1, 2), (8,))
