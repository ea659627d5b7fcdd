"""Vision transformers equal torchvision's and timm's, with their checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from torch import nn

import pure
from parity_tests.libraries import placement_oracles, timm, timm_layers, timm_vit, torchvision, vision_vit
from parity_tests.network_parity import assert_equal, assert_round_trip, count, picture, randomised
from parity_tests.oracles.oracle import Oracle, differences
from parity_tests.oracles.oracle import assert_equal as oracle_equal
from pure import tree
from pure.block import Block
from pure.errors import ArgumentError, RankError, ShapeError
from pure.interop import CheckpointError, resize_positions
from pure.interop.checkpoints import from_state_dict, to_state_dict
from pure.interop.scheme import Source
from pure.layers import DropPath
from pure.layers.patches import ClassToken, MeanToken
from pure.nets.transformers import vit

NAMES = (
    "vit_b_16",
    "vit_b_32",
    "vit_l_16",
    "vit_l_32",
    "vit_h_14",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
)
INIT = {"init_values": 1e-5}


@lru_cache(maxsize=1)
def smaller(name: str, **options: Any) -> nn.Module:
    """Return the preset with every size its own but the image's, which is 32, so that five tokens are enough."""
    torch.manual_seed(0)
    if name == "vit_b_16":
        return randomised(vision_vit.VisionTransformer(32, 16, 12, 12, 768, 3072))
    return randomised(timm.create_model(name, img_size=32, **options))


PRESETS: dict[str, tuple[Source, Callable[[], Block], Callable[[], nn.Module]]] = {
    "vit_b_16": ("torchvision", partial(vit.vit_b_16, image_size=32), partial(smaller, "vit_b_16")),
    "vit_small_patch16_224": (
        "timm",
        partial(vit.vit_small_patch16_224, image_size=32),
        partial(smaller, "vit_small_patch16_224"),
    ),
    "vit_small_patch16_224_init_values": (
        "timm",
        partial(vit.vit_small_patch16_224, image_size=32, **INIT),
        partial(smaller, "vit_small_patch16_224", **INIT),
    ),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", PRESETS)
def test_preset_equals_the_library(name: str, training: bool) -> None:
    source, make, library = PRESETS[name]
    assert_equal(make(), library(), source, picture(2, 3, 32, 32), training=training)
    assert_round_trip(make(), library().state_dict(), source)


@lru_cache(maxsize=1)
def meta(name: str) -> nn.Module:
    """Return the library's preset without memory."""
    with torch.device("meta"):
        return torchvision.models.get_model(name) if "patch" not in name else timm.create_model(name, device="meta")


@pytest.mark.parametrize("name", NAMES)
def test_size_and_names_are_the_library_s(name: str) -> None:
    block = getattr(vit, name)()
    source: Source = "timm" if "patch" in name else "torchvision"
    assert count(block) == sum(leaf.numel() for leaf in meta(name).parameters())
    params, _ = block.init(torch.Generator(), device="meta")
    written = to_state_dict(block, params, source=source)
    given = meta(name).state_dict()
    assert {key: leaf.shape for key, leaf in written.items()} == {key: leaf.shape for key, leaf in given.items()}


def test_size_without_a_head() -> None:
    headless = timm.create_model("vit_small_patch16_224", device="meta", num_classes=0)
    assert count(vit.vit_small_patch16_224(num_classes=0)) == sum(leaf.numel() for leaf in headless.parameters())


def test_vit_b_16_of_whole_images_equals_torchvision_s() -> None:
    torch.manual_seed(0)
    module = randomised(torchvision.models.vit_b_16()).eval()
    block = vit.vit_b_16()
    state_dict = module.state_dict()
    assert_round_trip(block, state_dict, "torchvision")
    params, _ = from_state_dict(block, state_dict)
    x = picture(1, 3, 224, 224)
    with torch.no_grad():
        expected, y = module(x), block(params, x)
    assert float((y - expected).norm() / expected.norm()) < 1e-10


def replaced(module: nn.Module, path_rate: float = 0.0, depth: int = 1) -> nn.Module:
    """Return the module whose dropouts take masks; drop-path's rates are not rounded as timm's are."""
    rates = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Dropout) and part.p > 0:
            rates[name] = part.p
        elif isinstance(part, timm_layers.DropPath):
            rates[name] = DropPath.linear(path_rate, depth)[int(name.split(".")[1])]
            assert rates[name] == pytest.approx(part.drop_prob, rel=1e-6)
        elif hasattr(part, "fused_attn"):
            part.fused_attn = False  # or the masks would be drawn inside
    return placement_oracles.with_masks(module, rates)


def masks_in_order(module: nn.Module, x: torch.Tensor, extras: Any, noise: Any) -> torch.Tensor:
    masks = [part for part in module.modules() if isinstance(part, placement_oracles.Masked)]
    for part, mask in zip(masks, tree.leaves(noise), strict=True):
        part.mask = mask
    return module(x)


def assert_equal_with_masks(block: Block, module: nn.Module, source: Source, size: int, masks: int) -> None:
    """Fail unless both train alike with the block's masks, which are as many as said."""
    assert sum(isinstance(part, placement_oracles.Masked) for part in module.modules()) == masks
    params, state = from_state_dict(block, module.state_dict(), source)
    oracle = Oracle(lambda: module, placement_oracles.by_scheme(source), masks_in_order)
    x = picture(4, 3, size, size)
    oracle_equal(oracle, differences(oracle, module, block, params, state, x, {}, training=True))


def test_all_kinds_of_dropout_equal_timm_s() -> None:
    rates = {"pos_drop_rate": 0.1, "proj_drop_rate": 0.2, "attn_drop_rate": 0.3, "drop_rate": 0.4}
    sizes = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7, "img_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    module = timm_vit.VisionTransformer(**sizes, **rates, drop_path_rate=0.5, init_values=0.1)
    block = vit.vision_transformer(
        image_size=16,
        patch_size=8,
        num_classes=7,
        features=24,
        depth=3,
        heads=3,
        init_values=0.1,
        position_dropout=0.1,
        dropout=0.2,
        attention_dropout=0.3,
        head_dropout=0.4,
        drop_path_rate=0.5,
    )
    assert_equal_with_masks(block, replaced(randomised(module), 0.5, 3), "timm", 16, 1 + 3 * 4 + 2 * 2 + 1)


def test_drop_path_in_the_preset_equals_timm_s() -> None:
    block = vit.vit_small_patch16_224(image_size=32, drop_path_rate=0.3, **INIT)
    module = replaced(smaller("vit_small_patch16_224", drop_path_rate=0.3, **INIT), 0.3, 12)
    assert_equal_with_masks(block, module, "timm", 32, 11 * 2)


def test_dropout_equals_torchvision_s() -> None:
    torch.manual_seed(0)
    module = replaced(randomised(vision_vit.VisionTransformer(16, 8, 2, 3, 24, 30, dropout=0.25, num_classes=7)))
    sizes = {"image_size": 16, "patch_size": 8, "features": 24, "depth": 2, "heads": 3, "hidden": 30}
    block = vit.vit_b_16(**sizes, num_classes=7, dropout=0.25)
    assert_equal_with_masks(block, module, "torchvision", 16, 1 + 2 * 3)


MEMBERS: dict[str, tuple[Source, Callable[[], Block], Callable[[], nn.Module]]] = {
    "mean_of_a_wide_image_without_qkv_bias": (
        "timm",
        lambda: vit.vision_transformer(
            image_size=(8, 16),
            patch_size=(4, 8),
            in_channels=1,
            num_classes=3,
            features=12,
            depth=2,
            heads=4,
            hidden=30,
            qkv_bias=False,
            pool="mean",
        ),
        lambda: timm_vit.VisionTransformer(
            img_size=(8, 16),
            patch_size=(4, 8),
            in_chans=1,
            num_classes=3,
            embed_dim=12,
            depth=2,
            num_heads=4,
            mlp_ratio=2.5,
            qkv_bias=False,
            global_pool="avg",
        ),
    ),
    "representation": (
        "torchvision",
        lambda: vit.vit_b_16(
            image_size=12,
            patch_size=4,
            num_classes=3,
            features=12,
            depth=2,
            heads=4,
            hidden=30,
            representation_size=9,
        ),
        lambda: vision_vit.VisionTransformer(12, 4, 2, 4, 12, 30, num_classes=3, representation_size=9),
    ),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", MEMBERS)
def test_other_members_of_the_family_equal_the_library_s(name: str, training: bool) -> None:
    source, make, library = MEMBERS[name]
    torch.manual_seed(0)
    module = randomised(library())
    x = picture(3, 1, 8, 16) if source == "timm" else picture(3, 3, 12, 12)
    assert_equal(make(), module, source, x, training=training)
    assert_round_trip(make(), module.state_dict(), source)


@pytest.mark.parametrize("name", ["vit_b_16", "vit_small_patch16_224"])
def test_initial_values_have_the_library_s_spread(name: str) -> None:
    torch.manual_seed(0)
    options = {"image_size": 32, "depth": 2}
    if name == "vit_b_16":
        module: nn.Module = vision_vit.VisionTransformer(32, 16, 2, 12, 768, 3072)
    else:
        module = timm.create_model(name, img_size=32, depth=2)
    block = getattr(vit, name)(**options)
    params, _ = block.init(torch.Generator().manual_seed(0))
    ours = to_state_dict(block, params, source="timm" if "patch" in name else "torchvision")
    for key, leaf in module.state_dict().items():
        mine, theirs = float(ours[key].std()), float(leaf.std())
        if theirs and leaf.numel() > 1000:
            assert mine == pytest.approx(theirs, rel=0.05), key
        assert (mine == 0) == (theirs == 0), key
        assert float(ours[key].mean()) == pytest.approx(float(leaf.mean()), abs=0.01), key


def test_the_two_libraries_names_are_told_apart() -> None:
    block = vit.vit_b_16(image_size=8, patch_size=4, features=8, depth=1, heads=2)
    params, _ = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(ArgumentError, match="expected source="):
        to_state_dict(block, params)
    for source in ("timm", "torchvision"):
        again, _ = from_state_dict(block, to_state_dict(block, params, source=source))
        assert all(torch.equal(a, b) for a, b in zip(tree.leaves(again), tree.leaves(params), strict=True))


def test_other_sizes_and_names_are_refused() -> None:
    block = vit.vit_tiny_patch16_224(image_size=32, depth=1)
    params, _ = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(ShapeError, match="image_size"):
        block(params, torch.zeros(1, 3, 48, 48))
    with pytest.raises(RankError, match="batch, tokens"):
        ClassToken(4)({"weight": torch.zeros(1, 1, 4)}, torch.zeros(3, 4))
    with pytest.raises(ShapeError, match="4 features"):
        ClassToken(4)({"weight": torch.zeros(1, 1, 4)}, torch.zeros(2, 3, 5))
    with pytest.raises(RankError, match="more than 1 tokens"):
        MeanToken(1)({}, torch.zeros(2, 1, 4))
    with pytest.raises(ArgumentError, match="skip"):
        MeanToken(-1)
    with pytest.raises(ArgumentError, match="do not tile"):
        vit.vit_b_16(image_size=100)
    with pytest.raises(ArgumentError, match="pool"):
        vit.vision_transformer(pool="max")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="initial"):
        vit.vision_transformer(initial="jax")  # type: ignore[arg-type]


def test_every_branch_is_tagged() -> None:
    block = vit.vision_transformer(image_size=8, patch_size=4, features=8, depth=2, heads=2, num_classes=3)
    params, _ = block.init(torch.Generator().manual_seed(0), torch.float64)
    _, seen = pure.capture(block)(params, picture(2, 3, 8, 8))
    branches = [name for name in seen if name.endswith("branch")]
    assert branches == [f"blocks.{i}.{part}.branch" for i in (0, 1) for part in ("attention", "mlp")]


@pytest.mark.parametrize("registers", [0, 2])
def test_a_checkpoint_at_another_image_size_is_resized_as_timm_does(registers: int) -> None:
    sizes: dict[str, Any] = {"embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3, "reg_tokens": registers}
    small, large = (timm_vit.VisionTransformer(img_size=side, patch_size=4, **sizes).eval() for side in (16, 24))
    small = randomised(small).float()
    block = vit.vision_transformer(
        image_size=24, patch_size=4, features=8, depth=1, heads=2, num_classes=3, registers=registers
    )
    given = small.state_dict()
    with pytest.raises(
        CheckpointError, match=r"'pos_embed'.*another image size: .*image_size=…, or .*resize_positions"
    ):
        from_state_dict(block, given)
    theirs = timm_vit.checkpoint_filter_fn(given, large, interpolation="bicubic", antialias=True)
    resized = resize_positions(block, given)
    assert torch.equal(resized["pos_embed"], theirs["pos_embed"])
    large.load_state_dict(theirs)
    params, state = tree.cast(from_state_dict(block, resized), torch.float64)
    x = picture(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(block(params, x, state), large.double()(x), rtol=1e-12, atol=1e-12)


def test_what_has_no_positions_to_resize_is_refused() -> None:
    block = vit.vision_transformer(image_size=16, patch_size=4, features=8, depth=1, heads=2)
    with pytest.raises(ArgumentError, match=r"no pos_embed or encoder\.pos_embedding"):
        resize_positions(block, {})
    with pytest.raises(ArgumentError, match=r"shape \(1, 7, 8\): expected \(1, 1 \+ side², 8\)"):
        resize_positions(block, {"pos_embed": torch.zeros(1, 7, 8)})
    with pytest.raises(ArgumentError, match="expected a vision transformer"):
        resize_positions(pure.Linear(2, 2), {"pos_embed": torch.zeros(1, 5, 8)})
