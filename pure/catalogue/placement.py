"""Norm placement (pre, post, sandwich, DeepNorm, parallel), LayerScale and ViTs."""

from __future__ import annotations

from functools import partial
from typing import Final

from pure.catalogue.cases import Case
from pure.catalogue.parts import ROWS, TOKENS, mlp
from pure.layers import LayerNorm, Linear, RMSNorm
from pure.layers.patches import ClassToken, MeanToken, PatchEmbedding
from pure.nets.transformers import vit
from pure.nets.transformers.layer import transformer_layer
from pure.skips.scaled.factors import layer_scale_start
from pure.skips.scaled.norm_placement import (
    deep_norm,
    deep_norm_constants,
    parallel_branches,
    post_norm,
    pre_norm,
    res_post_norm,
    sandwich,
)

__all__ = ["CASES"]

DEEPNET: Final = "Wang et al. 2022 (2203.00555)"
LAYER: Final = "Vaswani et al. 2017 (1706.03762)"
TIMM: Final = "timm.models.vision_transformer"
SIXTH: Final = deep_norm_constants(6)
IMAGES: Final = (2, 3, 8, 8)

CASES: Final[tuple[Case, ...]] = (
    Case("pre_norm", "scaled", lambda: pre_norm(mlp(), LayerNorm(6)), ROWS, "x + f(LN x)", "2002.04745, table 1"),
    Case("post_norm", "scaled", lambda: post_norm(mlp(), LayerNorm(6)), ROWS, "LN(x + f x)", f"{LAYER}, section 3.1"),
    Case(
        "res_post_norm",
        "scaled",
        lambda: res_post_norm(mlp(), LayerNorm(6), drop_path=0.25),
        ROWS,
        "x + LN(f x)",
        "Liu et al. 2021 (2111.09883), section 3.2",
    ),
    Case(
        "sandwich_norm",
        "scaled",
        lambda: sandwich(mlp(), RMSNorm(6), dropout=0.25),
        ROWS,
        "x + RMS(f(RMS x))",
        "2105.13290, Sandwich-LN; 2502.02732, Peri-LN",
    ),
    Case(
        "deep_norm",
        "scaled",
        lambda: deep_norm(mlp(), LayerNorm(6), SIXTH.alpha),
        ROWS,
        "LN(α x + f x), α = (2N)^¼",
        f"{DEEPNET}, figure 2",
        init="Xavier's rule times β = (8N)^−¼ in feed-forward, value and output layers",
    ),
    Case(
        "parallel_branches",
        "scaled",
        lambda: parallel_branches(LayerNorm(6), first=mlp(), second=Linear(6, 6), scale=0.5, drop_path=0.25),
        ROWS,
        "x + f(LN x) + g(LN x)",
        "GPT-J",
    ),
    Case(
        "layer_pre_norm",
        "transformer",
        lambda: transformer_layer(8, 2, hidden=12, fused=True, dropout=0.25),
        TOKENS,
        "x + attention(LN x), then x + mlp(LN x)",
        f"{LAYER}, with the norm of 2002.04745",
        oracle="torch.nn.TransformerEncoderLayer",
    ),
    Case(
        "layer_post_norm",
        "transformer",
        lambda: transformer_layer(8, 2, hidden=12, fused=True, mlp="relu", placement="post"),
        (2, 6, 8),
        "LN(x + attention x), then LN(x + mlp x)",
        f"{LAYER}, section 3.1",
        oracle="torch.nn.TransformerEncoderLayer",
        extras=(("mask", (2, 6)),),
    ),
    Case(
        "layer_deep_norm",
        "transformer",
        lambda: transformer_layer(8, 2, hidden=12, placement="deep", layers=6),
        TOKENS,
        "LN(α x + attention x), then LN(α x + mlp x)",
        f"{DEEPNET}, section 4.1",
        init="Xavier's rule, times β but for queries and keys",
    ),
    Case(
        "layer_sandwich",
        "transformer",
        lambda: transformer_layer(
            8, 4, hidden=12, placement="sandwich", norm="rms", mlp="geglu_tanh", bias=False, kv_heads=2, causal=True
        ),
        TOKENS,
        "x + RMS(attention(RMS x)), then x + RMS(geglu(RMS x))",
        "Gemma 2 (2408.00118), section 2; 2502.02732",
    ),
    Case(
        "vit_block",
        "transformer",
        lambda: transformer_layer(8, 2, fused=True, eps=1e-6, layer_scale=1e-5, drop_path=0.25),
        TOKENS,
        "x + λ ⊙ attention(LN x), then x + μ ⊙ mlp(LN x)",
        "2010.11929, equations 2 and 3; LayerScale of 2103.17239",
        init="λ = μ = init_values",
        oracle=f"{TIMM}.Block",
    ),
    Case(
        "vit_res_post_block",
        "transformer",
        lambda: transformer_layer(8, 2, fused=True, eps=1e-6, placement="res_post", qkv_bias=False, drop_path=0.25),
        TOKENS,
        "x + LN(attention x), then x + LN(mlp x)",
        "Liu et al. 2021 (2111.09883), section 3.2",
        oracle=f"{TIMM}.ResPostBlock",
    ),
    Case(
        "vit_parallel_block",
        "transformer",
        lambda: transformer_layer(
            8, 2, hidden=12, fused=True, eps=1e-6, placement="parallel", layer_scale=1e-5, dropout=0.25, drop_path=0.25
        ),
        TOKENS,
        "x + λ ⊙ (attention(LN x) + mlp(LN x))",
        "Dehghani et al. 2023 (2302.05442), section 2",
        oracle=f"{TIMM}.ParallelScalingBlock",
    ),
    Case(
        "vit_encoder_block",
        "transformer",
        lambda: transformer_layer(8, 2, hidden=12, fused=True, eps=1e-6, dropout=0.25),
        TOKENS,
        "x + attention(LN x), then x + mlp(LN x)",
        "2010.11929, equations 2 and 3",
        oracle="torchvision.models.vision_transformer.EncoderBlock",
    ),
    Case(
        "cait_block",
        "transformer",
        lambda: transformer_layer(8, 2, fused=True, eps=1e-6, layer_scale=layer_scale_start(24), qkv_bias=False),
        TOKENS,
        "x + λ ⊙ attention(LN x), then x + μ ⊙ mlp(LN x)",
        "Touvron et al. 2021 (2103.17239), equation 4; without talking heads",
        init="λ = μ = 1e-5 in 24 blocks, 1e-6 in 36",
        oracle="timm.models.cait.LayerScaleBlock",
    ),
    Case(
        "patch_embedding",
        "layer",
        lambda: PatchEmbedding(3, 6, patch_size=4, image_size=8),
        IMAGES,
        "W p + b, one token a patch p",
        "2010.11929, section 3.1",
        oracle="timm.layers.PatchEmbed",
    ),
    Case("class_token", "layer", lambda: ClassToken(8), TOKENS, "[c, x]", "2010.11929, equation 1", init="c = 0"),
    Case("mean_token", "layer", lambda: MeanToken(1), TOKENS, "mean of x[1:]", 'Zhai et al. 2021 (2106.04560), "GAP"'),
    Case(
        "vit",
        "network",
        partial(
            vit.vision_transformer,
            image_size=8,
            patch_size=4,
            num_classes=5,
            features=8,
            depth=2,
            heads=2,
            init_values=0.1,
            drop_path_rate=0.25,
        ),
        IMAGES,
        "W LN(blocks([c, patches] + positions))[0]",
        "2010.11929, equations 1 to 4",
        init="truncated normal of 0.02",
        oracle=f"{TIMM}.VisionTransformer",
    ),
    Case(
        "vit_torchvision",
        "network",
        partial(
            vit.vit_b_16,
            image_size=8,
            patch_size=4,
            num_classes=5,
            features=8,
            depth=2,
            heads=2,
            hidden=12,
            representation_size=6,
        ),
        IMAGES,
        "W tanh(V LN(blocks([c, patches] + positions))[0])",
        "2010.11929, equations 1 to 4",
        init="Xavier's rule; the head 0",
        oracle="torchvision.models.vision_transformer.VisionTransformer",
    ),
)
