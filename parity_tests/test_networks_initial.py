"""Initial values follow the source library's: leaf by leaf the same mean, spread and kind of distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity_tests.libraries import (
    timm,
    timm_layers,
    timm_nfnet,
    timm_resnet,
    timm_resnetv2,
    timm_vit,
    torchvision,
    transformers,
    vision_convnext,
    vision_resnet,
    vision_vit,
)
from pure import nets
from pure.block import Block
from pure.interop import to_state_dict
from pure.interop.scheme import Source

NONE: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}

FAMILIES: dict[str, tuple[Source, Callable[[], Block], Callable[[], nn.Module]]] = {
    "resnet18": ("torchvision", nets.resnet18, lambda: torchvision.models.resnet18()),
    "bottlenecks": (
        "torchvision",
        lambda: nets.resnet_v1((1, 1, 1, 1), groups=2, width_per_group=32),
        lambda: vision_resnet.ResNet(vision_resnet.Bottleneck, [1, 1, 1, 1], groups=2, width_per_group=32),
    ),
    "zero_gamma": (
        "torchvision",
        lambda: nets.resnet_v1((1, 1, 1, 1), zero_gamma=True),
        lambda: vision_resnet.ResNet(vision_resnet.Bottleneck, [1, 1, 1, 1], zero_init_residual=True),
    ),
    "resnet18d": ("timm", nets.resnet18d, lambda: timm.create_model("resnet18d")),
    "seresnet": (
        "timm",
        lambda: nets.seresnet50(widths=(32, 32, 64, 64)),
        lambda: timm_resnet.ResNet(
            timm_resnet.Bottleneck, (3, 4, 6, 3), channels=(32, 32, 64, 64), block_args={"attn_layer": "se"}
        ),
    ),
    "resnet_v2": (
        "timm",
        lambda: nets.resnet_v2((1, 2), widths=(128, 256)),
        lambda: timm_resnetv2.ResNetV2(
            [1, 2], (128, 256), conv_layer=timm_layers.create_conv2d, norm_layer=timm_layers.BatchNormAct2d
        ),
    ),
    "norm_free_resnet": (
        "timm",
        lambda: nets.norm_free_resnet((1, 2), widths=(128, 256), skip_init=True),
        lambda: timm_nfnet.NormFreeNet(timm_nfnet._nfres_cfg((1, 2), (128, 256)), skipinit=True),
    ),
    "densenet": (
        "torchvision",
        lambda: nets.densenet(32, (2, 3), 64),
        lambda: torchvision.models.DenseNet(32, (2, 3), 64),
    ),
    "mobilenet_v2": ("torchvision", nets.mobilenet_v2, lambda: torchvision.models.mobilenet_v2()),
    "convnext_torchvision": (
        "torchvision",
        lambda: nets.convnext((1, 2), (64, 128)),
        lambda: vision_convnext.ConvNeXt(
            [vision_convnext.CNBlockConfig(64, 128, 1), vision_convnext.CNBlockConfig(128, None, 2)]
        ),
    ),
    "convnext_timm": (
        "timm",
        lambda: nets.convnext((1, 1, 2, 1), (32, 64, 64, 128)),
        lambda: timm.models.convnext.ConvNeXt(depths=(1, 1, 2, 1), dims=(32, 64, 64, 128)),
    ),
    "convnextv2": (
        "timm",
        lambda: nets.convnext((1, 1, 2, 1), (32, 64, 64, 128), response_norm=True, layer_scale=None),
        lambda: timm.models.convnext.ConvNeXt(
            depths=(1, 1, 2, 1), dims=(32, 64, 64, 128), use_grn=True, ls_init_value=None
        ),
    ),
    "vit_torchvision": (
        "torchvision",
        lambda: nets.vit_b_16(image_size=64, features=128, depth=2, heads=4, representation_size=64),
        lambda: vision_vit.VisionTransformer(64, 16, 2, 4, 128, 512, representation_size=64),
    ),
    "vit_timm": (
        "timm",
        lambda: nets.vision_transformer(image_size=64, features=128, depth=2, heads=4, init_values=1e-5),
        lambda: timm_vit.VisionTransformer(64, 16, embed_dim=128, depth=2, num_heads=4, init_values=1e-5),
    ),
    "gpt2": (
        "transformers",
        lambda: nets.gpt2(vocab_size=99, positions=64, features=128, depth=4, heads=4),
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=99, n_positions=64, n_embd=128, n_layer=4, n_head=4, **NONE)
        ),
    ),
    "bert": (
        "transformers",
        lambda: nets.bert_base(vocab_size=99, positions=64, features=128, depth=2, heads=4, pooler=True),
        lambda: transformers.BertModel(
            transformers.BertConfig(
                vocab_size=99,
                max_position_embeddings=64,
                hidden_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=512,
                **NONE,
            )
        ),
    ),
    "llama": (
        "transformers",
        lambda: nets.llama(vocab_size=99, features=128, depth=2, heads=4, kv_heads=2, hidden=256, attention_bias=True),
        lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=99,
                hidden_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=256,
                attention_bias=True,
                **NONE,
            )
        ),
    ),
}
ENOUGH = 500
"""Values from which a spread is known to a few percent."""
RANDOM = {"normal", "uniform"}


def kind(leaf: Tensor) -> str:
    """Whether values are all alike, lie within √3 deviations as uniform ones do, or reach further as normal ones do."""
    spread = leaf.double().std(correction=0)
    if not spread > 1e-12:
        return f"{float(leaf.flatten()[0]):.3g}"
    return "uniform" if float(leaf.double().abs().max() / spread) < 1.9 else "normal"


def follow_one_rule(a: Tensor, b: Tensor) -> bool:
    """Whether two samples of one shape have the same kind, spread and mean; of few values only what is constant."""
    kinds = {kind(a), kind(b)}
    if a.numel() < ENOUGH or not kinds <= RANDOM:
        return len(kinds) == 1 or kinds <= RANDOM
    error = 5 / a.numel() ** 0.5  # more than three times the error of both samples together
    spreads = [float(leaf.double().std()) for leaf in (a, b)]
    means = [float(leaf.double().mean()) for leaf in (a, b)]
    return (
        len(kinds) == 1 and abs(spreads[0] / spreads[1] - 1) < error and abs(means[0] - means[1]) < error * spreads[1]
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_values_follow_the_library_s_rule(name: str) -> None:
    source, make, library = FAMILIES[name]
    torch.manual_seed(0)
    theirs = library().state_dict()
    block = make()
    ours = to_state_dict(block, *block.init(torch.Generator().manual_seed(1)), source)
    assert ours.keys() == theirs.keys()
    wrong = {
        leaf_name: (
            kind(ours[leaf_name]),
            float(ours[leaf_name].double().std()),
            kind(leaf),
            float(leaf.double().std()),
        )
        for leaf_name, leaf in theirs.items()
        if not follow_one_rule(ours[leaf_name], leaf)
    }
    assert not wrong, wrong
