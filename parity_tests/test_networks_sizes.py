"""Every network has its exact published number of parameters, says so, and tells its output's shape quickly."""

from __future__ import annotations

import time
from typing import Any

import pytest

from parity_tests.network_parity import count
from pure import nets
from pure.errors import ArgumentError

LARGE, SMALL, ROW, TOKENS = (2, 3, 224, 224), (2, 3, 32, 32), (2, 784), (2, 5)
A, B = {"shortcut": "A"}, {"shortcut": "B"}
DIGITS = {"in_features": 784, "width": 50, "out_features": 10, "depth": 50}
LLAMA = {"vocab_size": 128256, "features": 2048, "depth": 16, "heads": 32, "kv_heads": 8, "hidden": 8192, "tied": True}

SIZES: list[tuple[str, dict[str, Any], int, tuple[int, ...], tuple[int, ...]]] = [
    ("resnet18", {}, 11_689_512, LARGE, (2, 1000)),
    ("resnet34", {}, 21_797_672, LARGE, (2, 1000)),
    ("resnet50", {}, 25_557_032, LARGE, (2, 1000)),
    ("resnet50", {"stride_in": "1x1"}, 25_557_032, LARGE, (2, 1000)),
    ("resnet101", {}, 44_549_160, LARGE, (2, 1000)),
    ("resnet152", {}, 60_192_808, LARGE, (2, 1000)),
    ("resnext50_32x4d", {}, 25_028_904, LARGE, (2, 1000)),
    ("wide_resnet50_2", {}, 68_883_240, LARGE, (2, 1000)),
    ("wide_resnet101_2", {}, 126_886_696, LARGE, (2, 1000)),
    ("resnet18d", {}, 11_708_744, LARGE, (2, 1000)),
    ("resnet50d", {}, 25_576_264, LARGE, (2, 1000)),
    ("seresnet50", {}, 28_088_024, LARGE, (2, 1000)),
    ("resnetv2_50", {}, 25_549_352, LARGE, (2, 1000)),
    ("nf_resnet50", {}, 25_557_032, LARGE, (2, 1000)),
    ("resnet20", A, 269_722, SMALL, (2, 10)),
    ("resnet32", A, 464_154, SMALL, (2, 10)),
    ("resnet44", A, 658_586, SMALL, (2, 10)),
    ("resnet56", A, 853_018, SMALL, (2, 10)),
    ("resnet110", A, 1_727_962, SMALL, (2, 10)),
    ("resnet1202", A, 19_421_274, SMALL, (2, 10)),
    ("resnet20", B, 272_474, SMALL, (2, 10)),
    ("resnet32", B, 466_906, SMALL, (2, 10)),
    ("resnet44", B, 661_338, SMALL, (2, 10)),
    ("resnet56", B, 855_770, SMALL, (2, 10)),
    ("resnet110", B, 1_730_714, SMALL, (2, 10)),
    ("preresnet110", A, 1_727_962, SMALL, (2, 10)),
    ("preresnet164", B, 1_703_258, SMALL, (2, 10)),
    ("preresnet1001", B, 10_327_706, SMALL, (2, 10)),
    ("wrn28_10", {}, 36_479_194, SMALL, (2, 10)),
    ("cifar_pyramidnet", {"depth": 110, "alpha": 48}, 1_772_706, SMALL, (2, 10)),
    ("cifar_pyramidnet", {"depth": 110, "alpha": 84}, 3_904_446, SMALL, (2, 10)),
    ("cifar_pyramidnet", {"depth": 110, "alpha": 270}, 28_485_477, SMALL, (2, 10)),
    ("fixup_resnet20", {}, 268_393, SMALL, (2, 10)),
    ("fixup_resnet110", {}, 1_720_138, SMALL, (2, 10)),
    ("densenet121", {}, 7_978_856, LARGE, (2, 1000)),
    ("densenet161", {}, 28_681_000, LARGE, (2, 1000)),
    ("densenet169", {}, 14_149_480, LARGE, (2, 1000)),
    ("densenet201", {}, 20_013_928, LARGE, (2, 1000)),
    ("densenet40_12", {}, 1_019_722, SMALL, (2, 10)),
    ("densenet_bc100_12", {}, 769_162, SMALL, (2, 10)),
    ("mobilenet_v2", {}, 3_504_872, LARGE, (2, 1000)),
    ("mobilenetv2_timm", {}, 3_504_872, LARGE, (2, 1000)),
    ("convnext_tiny", {}, 28_589_128, LARGE, (2, 1000)),
    ("convnext_small", {}, 50_223_688, LARGE, (2, 1000)),
    ("convnext_base", {}, 88_591_464, LARGE, (2, 1000)),
    ("convnext_large", {}, 197_767_336, LARGE, (2, 1000)),
    ("convnextv2_tiny", {}, 28_635_496, LARGE, (2, 1000)),
    ("convnextv2_small", {}, 50_318_440, LARGE, (2, 1000)),
    ("convnextv2_base", {}, 88_717_800, LARGE, (2, 1000)),
    ("convnextv2_large", {}, 197_956_840, LARGE, (2, 1000)),
    ("unet", {"in_channels": 3, "out_channels": 2}, 28_942_850, (2, 3, 64, 64), (2, 2, 64, 64)),
    ("vit_b_16", {}, 86_567_656, LARGE, (2, 1000)),
    ("vit_b_32", {}, 88_224_232, LARGE, (2, 1000)),
    ("vit_l_16", {}, 304_326_632, LARGE, (2, 1000)),
    ("vit_l_32", {}, 306_535_400, LARGE, (2, 1000)),
    ("vit_h_14", {}, 632_045_800, LARGE, (2, 1000)),
    ("vit_tiny_patch16_224", {}, 5_717_416, LARGE, (2, 1000)),
    ("vit_small_patch16_224", {}, 22_050_664, LARGE, (2, 1000)),
    ("vit_small_patch16_224", {"init_values": 1e-5}, 22_059_880, LARGE, (2, 1000)),
    ("vit_base_patch16_224", {}, 86_567_656, LARGE, (2, 1000)),
    ("vit_large_patch16_224", {}, 304_326_632, LARGE, (2, 1000)),
    ("mlp_mixer", {}, 59_880_472, LARGE, (2, 1000)),
    ("gmlp", {}, 19_422_656, LARGE, (2, 1000)),
    ("gpt2", {}, 124_439_808, TOKENS, (2, 5, 50257)),
    ("gpt2", {"head": False}, 124_439_808, TOKENS, (2, 5, 768)),
    ("gpt2_medium", {}, 354_823_168, TOKENS, (2, 5, 50257)),
    ("bert_base", {}, 108_891_648, TOKENS, (2, 5, 768)),
    ("bert_base", {"pooler": True}, 109_482_240, TOKENS, (2, 768)),
    ("llama", {}, 6_738_415_616, TOKENS, (2, 5, 32000)),
    ("llama", LLAMA, 1_235_814_400, TOKENS, (2, 5, 128256)),
    ("gemma2", {}, 2_614_341_888, TOKENS, (2, 5, 256000)),
    ("tutorial_resnet", {}, 268_736, SMALL, (2, 128, 32, 32)),
    ("plain_mlp", DIGITS, 167_260, ROW, (2, 10)),
    ("skip_mlp", DIGITS, 167_260, ROW, (2, 10)),
    ("highway_mlp", DIGITS, 294_760, ROW, (2, 10)),
    ("dense_mlp", DIGITS, 142_560, ROW, (2, 10)),
]
"""Network, options, parameters, and the shapes of an input and its output."""

WITHOUT_SIZE = {
    "convnext",
    "densenet",
    "fixup_resnet",
    "norm_free_resnet",
    "resnet_v1",
    "resnet_v2",
    "vision_transformer",
}
WITHOUT_SIZE |= {"cifar_preresnet", "cifar_resnet", "cifar_wide_resnet", "densenet_cifar", "residual_mlp"}
WITHOUT_SIZE |= {"dynamic_net", "residual_block", "residual_mlp_block", "simple_block", "simple_block_with_skip"}
WITHOUT_SIZE |= {"bert_layer", "gpt2_block", "llama_block", "mixer_block", "transformer_block", "transformer_layer"}
"""General builders and single blocks."""


@pytest.mark.parametrize(
    ("name", "options", "size", "x_shape", "y_shape"), SIZES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_size_and_shape(
    name: str, options: dict[str, Any], size: int, x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> None:
    block = nets.create(name, **options)
    assert count(block) == size
    started = time.process_time()
    assert block.out_shape(x_shape) == y_shape
    assert time.process_time() - started < 3, "shapes are inferred without memory or arithmetic"


def test_every_network_has_a_size_and_says_it() -> None:
    sized = {name for name, *_ in SIZES}
    assert sized | WITHOUT_SIZE == set(nets.names())
    assert not sized & WITHOUT_SIZE
    for name in sized - {"cifar_pyramidnet"}:
        said = nets.NETWORKS[name].__doc__ or ""
        assert any(f"{size:,} parameters" in said for other, _, size, _, _ in SIZES if other == name), name


def test_every_network_s_docstring_has_an_example_or_names_the_network_whose_options_it_takes() -> None:
    for name, make in nets.NETWORKS.items():
        said = make.__doc__ or ""
        assert "Example:" in said or any(f"`{other}`" in said for other in nets.names() if other != name), name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "'resnet19' is unknown.*did you mean 'resnet18'"),
        (18, {}, "network 18 is unknown"),
        ("resnet18", {"num_class": 3}, "'num_class' is unknown.*did you mean 'num_classes'.*depths, block"),
        ("vit_b_16", {"feature": 3}, "did you mean 'features'"),
        ("densenet40_12", {"num_clases": 3}, "did you mean 'num_classes'"),
        ("gpt2_medium", {"vocabsize": 3}, "did you mean 'vocab_size'"),
        ("fixup_resnet20", {"depths": (1,)}, "'depths' is unknown.*num_classes, in_channels"),
        ("resnet50", {"depths": (1, 1)}, "depths is its own.*'resnet_v1'"),
        ("cifar_resnet", {}, "missing 1 required.*'depth'"),
        ("gpt2", {"depth": -1}, "depth=-1: expected at least 1"),
        ("bert_base", {"depth": 0}, "depth=0"),
        ("llama", {"depth": 0}, "depth=0"),
        ("vit_b_16", {"depth": 0}, "depth=0"),
        ("llama", {"heads": 3}, "3 heads do not divide 4096"),
        ("skip_mlp", {**DIGITS, "depth": 0}, "depth=0"),
        ("residual_mlp", {"features": 2, "hidden_features": 2, "depth": 0}, "depth=0"),
        ("cifar_resnet", {"depth": 20, "widths": ()}, "widths=.*three"),
        ("convnext", {"depths": (1, 0), "widths": (4, 8)}, "depths="),
        ("densenet", {"blocks": (2, 0)}, "blocks="),
    ],
    ids=str,
)
def test_wrong_options_are_named(name: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        nets.create(name, **options)
