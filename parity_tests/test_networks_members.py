"""Checkpoints of random members of every family go in and out bit for bit, the source found by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from parity_tests.libraries import (
    timm,
    timm_layers,
    timm_nfnet,
    timm_resnet,
    timm_resnetv2,
    timm_vit,
    transformers,
    vision_convnext,
    vision_densenet,
    vision_mobilenet,
    vision_resnet,
    vision_vit,
)
from pure import nets, tree
from pure.block import Block
from pure.interop import from_state_dict, to_state_dict
from pure.interop.scheme import Source

Member = tuple[nn.Module, Block, tuple[Source, ...]]
NONE: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
ON_OFF = (False, True)


class Draw(random.Random):
    """Random sizes."""

    def some(self, number: int, *choices: int) -> tuple[int, ...]:
        return tuple(self.choice(choices) for _ in range(number))


def torchvision_resnet(draw: Draw) -> Member:
    depths, classes = draw.some(4, 1, 2, 3), draw.randint(1, 9)
    if draw.choice(ON_OFF):
        module = vision_resnet.ResNet(vision_resnet.BasicBlock, list(depths), num_classes=classes)
        return module, nets.resnet_v1(depths, block="basic", num_classes=classes), ("torchvision", "timm")
    options: dict[str, Any] = {"groups": draw.choice((1, 2, 4)), "width_per_group": draw.choice((8, 16, 64))}
    module = vision_resnet.ResNet(vision_resnet.Bottleneck, list(depths), num_classes=classes, **options)
    return module, nets.resnet_v1(depths, num_classes=classes, **options), ("torchvision", "timm")


def timm_resnet_v1(draw: Draw) -> Member:
    depths, widths = draw.some(4, 1, 2), draw.some(4, 8, 16, 24)
    classes, channels, stem = draw.randint(1, 9), draw.randint(1, 4), draw.choice((8, 16))
    basic, pooled, squeeze = draw.choice(ON_OFF), draw.choice(ON_OFF), draw.choice(ON_OFF)
    groups = 1 if basic else draw.choice((1, 2))
    module = timm_resnet.ResNet(
        timm_resnet.BasicBlock if basic else timm_resnet.Bottleneck,
        depths,
        classes,
        channels,
        channels=widths,
        stem_width=stem,
        stem_type="deep",
        avg_down=pooled,
        cardinality=groups,
        block_args={"attn_layer": "se"} if squeeze else None,
    )
    block = nets.resnet_v1(
        depths,
        block="basic" if basic else "bottleneck",
        widths=widths,
        num_classes=classes,
        in_channels=channels,
        stem="deep",
        stem_channels=2 * stem,
        avg_down=pooled,
        squeeze=squeeze,
        groups=groups,
    )
    return module, block, ("timm",)


def timm_resnet_v2(draw: Draw) -> Member:
    stages, classes, channels, stem = draw.randint(1, 4), draw.randint(1, 9), draw.randint(1, 4), draw.choice((8, 16))
    depths, widths = draw.some(stages, 1, 2), draw.some(stages, 16, 32, 40)
    basic, deep, pooled = draw.choice(ON_OFF), draw.choice(ON_OFF), draw.choice(ON_OFF)
    module = timm_resnetv2.ResNetV2(
        list(depths),
        widths,
        classes,
        channels,
        stem_chs=stem,
        stem_type="deep" if deep else "",
        avg_down=pooled,
        basic=basic,
        bottle_ratio=1.0 if basic else 0.25,
        conv_layer=timm_layers.create_conv2d,
        norm_layer=timm_layers.BatchNormAct2d,
    )
    block = nets.resnet_v2(
        depths,
        block="basic" if basic else "bottleneck",
        widths=widths,
        num_classes=classes,
        in_channels=channels,
        stem="deep" if deep else "7x7",
        stem_channels=stem,
        avg_down=pooled,
    )
    return module, block, ("timm",)


def timm_norm_free(draw: Draw) -> Member:
    stages, classes, channels, gain = draw.randint(1, 4), draw.randint(1, 9), draw.randint(1, 4), draw.choice(ON_OFF)
    depths, widths = draw.some(stages, 1, 2), draw.some(stages, 16, 32, 40)
    module = timm_nfnet.NormFreeNet(timm_nfnet._nfres_cfg(depths, widths), classes, channels, stem_chs=8, skipinit=gain)
    sizes: dict[str, Any] = {"num_classes": classes, "in_channels": channels, "stem_channels": 8}
    return module, nets.norm_free_resnet(depths, widths=widths, skip_init=gain, **sizes), ("timm",)


def torchvision_densenet(draw: Draw) -> Member:
    depths, growth, stem = draw.some(draw.randint(1, 4), 1, 2, 3), draw.choice((2, 6)), draw.choice((6, 8))
    wider, classes = draw.choice((1, 2, 4)), draw.randint(1, 9)
    module = vision_densenet.DenseNet(growth, depths, stem, bn_size=wider, num_classes=classes)
    return module, nets.densenet(growth, depths, stem, bottleneck=wider, num_classes=classes), ("torchvision", "timm")


def torchvision_mobilenet(draw: Draw) -> Member:
    width, nearest, classes = draw.choice((0.35, 0.75, 1.4)), draw.choice((4, 8)), draw.randint(1, 9)
    stages = tuple(
        (draw.choice((1, 2, 6)), draw.choice((8, 16, 24)), draw.randint(1, 3), draw.choice((1, 2)))
        for _ in range(draw.randint(1, 4))
    )
    module = vision_mobilenet.MobileNetV2(classes, width, [list(stage) for stage in stages], nearest)
    block = nets.mobilenet_v2(width, num_classes=classes, stages=stages, round_nearest=nearest)
    return module, block, ("torchvision",)


def torchvision_convnext(draw: Draw) -> Member:
    stages, classes = draw.randint(2, 4), draw.randint(1, 9)
    depths, widths = draw.some(stages, 1, 2, 3), draw.some(stages, 4, 8, 12)
    settings = [
        vision_convnext.CNBlockConfig(a, b, n) for a, b, n in zip(widths, (*widths[1:], None), depths, strict=True)
    ]
    return (
        vision_convnext.ConvNeXt(settings, num_classes=classes),
        nets.convnext(depths, widths, num_classes=classes),
        ("torchvision",),
    )


def timm_convnext(draw: Draw) -> Member:
    depths, widths = draw.some(4, 1, 2, 3), draw.some(4, 4, 8, 12)
    classes, channels, kernel, second = draw.randint(1, 9), draw.randint(1, 4), draw.choice((3, 7)), draw.choice(ON_OFF)
    scale = None if second else 1e-6
    module = timm.models.convnext.ConvNeXt(
        channels, classes, depths=depths, dims=widths, kernel_sizes=kernel, use_grn=second, ls_init_value=scale
    )
    block = nets.convnext(
        depths,
        widths,
        num_classes=classes,
        in_channels=channels,
        kernel_size=kernel,
        response_norm=second,
        layer_scale=scale,
    )
    return module, block, ("timm",)


def torchvision_vit(draw: Draw) -> Member:
    patch, depth, heads, hidden = draw.choice((4, 8)), draw.randint(1, 3), draw.choice((1, 2, 4)), draw.choice((12, 30))
    features, classes, width = heads * draw.choice((4, 8)), draw.randint(1, 9), draw.choice((None, 7))
    module = vision_vit.VisionTransformer(
        16, patch, depth, heads, features, hidden, num_classes=classes, representation_size=width
    )
    block = nets.vision_transformer(
        image_size=16,
        patch_size=patch,
        features=features,
        depth=depth,
        heads=heads,
        hidden=hidden,
        num_classes=classes,
        representation_size=width,
    )
    return module, block, ("torchvision",)


def timm_vision_transformer(draw: Draw) -> Member:
    patch, depth, heads, channels = draw.choice((4, 8)), draw.randint(1, 3), draw.choice((1, 2, 4)), draw.randint(1, 4)
    features, classes, mean = heads * draw.choice((4, 8)), draw.randint(0, 9), draw.choice(ON_OFF)
    options: dict[str, Any] = {"init_values": draw.choice((None, 1e-5)), "qkv_bias": draw.choice(ON_OFF)}
    module = timm_vit.VisionTransformer(
        16,
        patch,
        channels,
        classes,
        "avg" if mean else "token",
        embed_dim=features,
        depth=depth,
        num_heads=heads,
        **options,
    )
    block = nets.vision_transformer(
        image_size=16,
        patch_size=patch,
        in_channels=channels,
        num_classes=classes,
        features=features,
        depth=depth,
        heads=heads,
        pool="mean" if mean else "token",
        **options,
    )
    return module, block, ("timm",)


def transformers_gpt2(draw: Draw) -> Member:
    heads, depth, inner, head = draw.choice((1, 2, 4)), draw.randint(1, 3), draw.choice((None, 20)), draw.choice(ON_OFF)
    features = heads * draw.choice((4, 8))
    config = transformers.GPT2Config(
        vocab_size=7, n_positions=9, n_embd=features, n_layer=depth, n_head=heads, n_inner=inner, **NONE
    )
    module = transformers.GPT2LMHeadModel(config) if head else transformers.GPT2Model(config)
    block = nets.gpt2(vocab_size=7, positions=9, features=features, depth=depth, heads=heads, hidden=inner, head=head)
    return module, block, ("transformers",)


def transformers_bert(draw: Draw) -> Member:
    heads, depth, types, pooler = draw.choice((1, 2, 4)), draw.randint(1, 3), draw.randint(1, 3), draw.choice(ON_OFF)
    features = heads * draw.choice((4, 8))
    config = transformers.BertConfig(
        vocab_size=7,
        max_position_embeddings=9,
        hidden_size=features,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=20,
        type_vocab_size=types,
        **NONE,
    )
    sizes: dict[str, Any] = {"features": features, "depth": depth, "heads": heads, "hidden": 20, "types": types}
    block = nets.bert_base(vocab_size=7, positions=9, **sizes, pooler=pooler)
    return transformers.BertModel(config, add_pooling_layer=pooler), block, ("transformers",)


def transformers_llama(draw: Draw) -> Member:
    heads, depth, tied, head = draw.choice((2, 4, 8)), draw.randint(1, 3), draw.choice(ON_OFF), draw.choice(ON_OFF)
    shared, size, bias = draw.choice((1, 2, heads)), draw.choice((None, 6)), draw.choice(ON_OFF)
    features = heads * draw.choice((4, 8))
    config = transformers.LlamaConfig(
        vocab_size=7,
        hidden_size=features,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        intermediate_size=20,
        tie_word_embeddings=tied,
        attention_bias=bias,
        head_dim=size,
        **NONE,
    )
    block = nets.llama(
        vocab_size=7,
        features=features,
        depth=depth,
        heads=heads,
        kv_heads=shared,
        head_features=size,
        hidden=20,
        attention_bias=bias,
        tied=tied,
        head=head,
    )
    return transformers.LlamaForCausalLM(config) if head else transformers.LlamaModel(config), block, ("transformers",)


FAMILIES: tuple[Callable[[Draw], Member], ...] = (
    torchvision_resnet,
    timm_resnet_v1,
    timm_resnet_v2,
    timm_norm_free,
    torchvision_densenet,
    torchvision_mobilenet,
    torchvision_convnext,
    timm_convnext,
    torchvision_vit,
    timm_vision_transformer,
    transformers_gpt2,
    transformers_bert,
    transformers_llama,
)


def same(a: Any, b: Any) -> bool:
    """Whether two trees have the same names in the same order, and the same bits in the same dtype."""
    ours, theirs = tree.flatten(a), tree.flatten(b)
    alike = all(leaf.dtype == theirs[name].dtype and torch.equal(leaf, theirs[name]) for name, leaf in ours.items())
    return list(ours) == list(theirs) and alike


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_random_member_s_checkpoint_goes_in_and_out(family: Callable[[Draw], Member], seed: int) -> None:
    torch.manual_seed(seed)
    module, block, sources = family(Draw(seed))
    module = module.to((torch.float32, torch.bfloat16, torch.float64)[seed % 3])
    given = {name: leaf.clone() for name, leaf in module.state_dict().items()}
    found = from_state_dict(block, given)
    for source in sources:
        trees = from_state_dict(block, given, source)
        assert same(trees, found)
        written = to_state_dict(block, *trees, source)
        assert written.keys() == given.keys()
        assert all(leaf.dtype == given[name].dtype for name, leaf in written.items())
        assert all(torch.equal(leaf, given[name]) for name, leaf in written.items())
        module.load_state_dict(written)
