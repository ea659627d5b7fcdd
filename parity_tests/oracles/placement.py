"""Norm placements and vision transformers, against PyTorch, timm, torchvision, transformers and plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, PatchEmbed
from timm.models import cait, vision_transformer
from torch import Tensor, nn
from torchvision.models import vision_transformer as torchvision_vit

from parity_tests.oracles.basic import Plain, mlp
from parity_tests.oracles.masks import Masked
from parity_tests.oracles.oracle import Flat, Oracle
from pure.interop.schemes.vit import SCHEMES


def with_masks(module: nn.Module, rates: dict[str, float]) -> nn.Module:
    """Return the module with `Masked` at the dotted names given."""
    for name, rate in rates.items():
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, Masked(rate))
    return module


def replay(masks: dict[str, str]) -> Callable[[nn.Module, Any, Any, Any], Any]:
    """Return a call that puts the block's own masks, {module's name: dotted path in the noise}, into the module."""

    def call(module: nn.Module, x: Tensor, extras: Any, noise: Any) -> Any:
        for name, path in masks.items():
            if noise:
                part = noise
                for key in path.split("."):
                    part = part[key]
                module.get_submodule(name).mask = part["mask"]
        return module(x)

    return call


def fc(m: Any, x: Tensor) -> Tensor:
    return m.fc2(torch.tanh(m.fc1(x)))


def formula(function: Any, *norms: type[nn.Module], **parts: nn.Module) -> Plain:
    named = {f"norm{index}" if index else "norm": make(6) for index, make in enumerate(norms)}
    return Plain(function, **mlp(), **named, **parts)


def attend(x: Tensor, q: nn.Linear, k: nn.Linear, v: nn.Linear, heads: int, causal: bool = False) -> Tensor:
    """Attention by its formula, a token and a head at a time; keys and values shared by neighbouring heads."""
    size = q.out_features // heads
    queries, keys, values = q(x), k(x), v(x)
    shared = keys.shape[-1] // size
    outs = []
    for head in range(heads):
        own, other = slice(head * size, (head + 1) * size), head * shared // heads
        kv = slice(other * size, (other + 1) * size)
        rows = []
        for t in range(x.shape[1]):
            seen = slice(0, t + 1 if causal else None)
            scores = torch.einsum("bd,btd->bt", queries[:, t, own], keys[:, seen, kv]) / size**0.5
            rows.append(torch.einsum("bt,btd->bd", scores.exp() / scores.exp().sum(1, True), values[:, seen, kv]))
        outs.append(torch.stack(rows, 1))
    return torch.cat(outs, -1)


def deep(m: Any, x: Tensor) -> Tensor:
    alpha = 12**0.25
    x = m.norm1(alpha * x + m.out(attend(x, m.q, m.k, m.v, 2)))
    return m.norm2(alpha * x + m.fc2(F.gelu(m.fc1(x))))


def peri(m: Any, x: Tensor) -> Tensor:
    x = x + m.b(m.out(attend(m.a(x), m.q, m.k, m.v, 4, causal=True)))
    h = m.c(x)
    return x + m.d(m.down(F.gelu(m.gate(h), approximate="tanh") * m.up(h)))


def linears(bias: bool = True, **sizes: tuple[int, int]) -> dict[str, nn.Module]:
    return {name: nn.Linear(*size, bias=bias) for name, size in sizes.items()}


def rms() -> nn.Module:
    return nn.RMSNorm(8, eps=1e-6)


def encoder_layer(first: bool, activation: str) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, activation, norm_first=first, batch_first=True)
    masked = {"dropout": 0.25, "dropout1": 0.25, "dropout2": 0.25}
    return with_masks(layer, masked) if first else layer


TORCH_LAYER = {
    "attention.branch.norm": "norm1",
    "attention.branch.f.qkv.weight": "self_attn.in_proj_weight",
    "attention.branch.f.qkv.bias": "self_attn.in_proj_bias",
    "attention.branch.f.out": "self_attn.out_proj",
    "mlp.branch.norm": "norm2",
    "mlp.branch.f.fc1": "linear1",
    "mlp.branch.f.fc2": "linear2",
}


def post_names() -> dict[str, str]:
    moved = {name.replace("branch.f", "add.branch.f"): theirs for name, theirs in TORCH_LAYER.items()}
    return {name.replace("branch.norm", "norm"): theirs for name, theirs in moved.items()}


def masked_tokens(module: nn.Module, x: Tensor, extras: Any, noise: Any) -> Tensor:
    return module(x, src_key_padding_mask=extras["mask"] <= 0)


TIMM_BLOCK = {
    "attention.branch.norm": "norm1",
    "attention.branch.f.qkv": "attn.qkv",
    "attention.branch.f.out": "attn.proj",
    "attention.branch.scale.weight": "ls1.gamma",
    "mlp.branch.norm": "norm2",
    "mlp.branch.f": "mlp",
    "mlp.branch.scale.weight": "ls2.gamma",
}
PATHS = {"drop_path1": "attention.branch.drop", "drop_path2": "mlp.branch.drop"}


def timm_block(kind: Any, **options: Any) -> nn.Module:
    block = kind(8, 2, norm_layer=partial(nn.LayerNorm, eps=1e-6), **options)
    return with_masks(block, dict.fromkeys(PATHS, 0.25))


def parallel_block() -> nn.Module:
    norm = partial(nn.LayerNorm, eps=1e-6)
    block = vision_transformer.ParallelScalingBlock(8, 2, 1.5, qkv_bias=True, init_values=1.0, norm_layer=norm)
    return with_masks(block, {"mlp_drop": 0.25, "drop_path": 0.25})


def parallel_names(flat: Flat) -> Flat:
    """The first feed-forward layer and q, k, v are one matrix."""
    if not flat:
        return {}
    f = "branch.f."
    joined = {
        f"in_proj.{leaf}": torch.cat([flat[f"{f}mlp.fc1.{leaf}"], flat[f"{f}attention.qkv.{leaf}"]])
        for leaf in ("weight", "bias")
    }
    pairs = {"branch.norm": "in_norm", f + "attention.out": "attn_out_proj", f + "mlp.fc2": "mlp_out_proj"}
    rest = {
        theirs + "." + leaf: flat[f"{ours}.{leaf}"] for ours, theirs in pairs.items() for leaf in ("weight", "bias")
    }
    return {**joined, **rest, "ls.gamma": flat["branch.scale.weight"]}


def torchvision_block() -> nn.Module:
    block = torchvision_vit.EncoderBlock(2, 8, 12, 0.0, 0.0)
    return with_masks(block, {"dropout": 0.25, "mlp.2": 0.25, "mlp.4": 0.25})


def timm_vit() -> nn.Module:
    sizes = {"img_size": 8, "patch_size": 4, "num_classes": 5, "embed_dim": 8, "depth": 2, "num_heads": 2}
    return with_masks(
        vision_transformer.VisionTransformer(**sizes, init_values=0.1),
        {f"blocks.1.drop_path{branch}": 0.25 for branch in (1, 2)},
    )


def by_scheme(source: str) -> Callable[[Flat], Flat]:
    """Return the names of the checkpoints, which are then held against the library by all that is compared here."""
    scheme = next(scheme for scheme in SCHEMES if scheme.source == source)

    def translate(flat: Flat) -> Flat:
        names = scheme.translate(list(flat))
        assert names is not None
        return {theirs: rule.save(flat[ours]) if rule.save else flat[ours] for ours, (theirs, rule) in names.items()}

    return translate


BRANCH = {"branch.f": "", "branch.norm": "norm"}
POST = {"add.branch.f": "", "norm": "norm"}


def path(f: Any) -> nn.Module:
    return Plain(lambda m, x: x + m.drop(f(m, x)), **mlp(), norm=nn.LayerNorm(6), drop=Masked(0.25))


ORACLES = {
    "pre_norm": Oracle(lambda: formula(lambda m, x: x + fc(m, m.norm(x)), nn.LayerNorm), BRANCH),
    "post_norm": Oracle(lambda: formula(lambda m, x: m.norm(x + fc(m, x)), nn.LayerNorm), POST),
    "res_post_norm": Oracle(lambda: path(lambda m, x: m.norm(fc(m, x))), BRANCH, call=replay({"drop": "branch.drop"})),
    "sandwich_norm": Oracle(
        lambda: Plain(
            lambda m, x: x + m.norm1(m.drop(fc(m, m.norm(x)))),
            **mlp(),
            norm=nn.RMSNorm(6, eps=1e-6),
            norm1=nn.RMSNorm(6, eps=1e-6),
            drop=Masked(0.25),
        ),
        {**BRANCH, "branch.out_norm": "norm1"},
        call=replay({"drop": "branch.dropout"}),
    ),
    "deep_norm": Oracle(lambda: formula(lambda m, x: m.norm(12**0.25 * x + fc(m, x)), nn.LayerNorm), POST),
    "parallel_branches": Oracle(
        lambda: Plain(
            lambda m, x: x + 0.5 * m.drop(fc(m, m.norm(x)) + m.second(m.norm(x))),
            **mlp(),
            norm=nn.LayerNorm(6),
            second=nn.Linear(6, 6),
            drop=Masked(0.25),
        ),
        {"branch.f.first": "", "branch.f.second": "second", "branch.norm": "norm"},
        call=replay({"drop": "branch.drop"}),
    ),
    "layer_pre_norm": Oracle(
        lambda: encoder_layer(True, "gelu"),
        TORCH_LAYER,
        call=replay(
            {
                "dropout": "mlp.branch.f.dropout",
                "dropout1": "attention.branch.dropout",
                "dropout2": "mlp.branch.dropout",
            }
        ),
    ),
    "layer_post_norm": Oracle(lambda: encoder_layer(False, "relu"), post_names(), call=masked_tokens),
    "layer_deep_norm": Oracle(
        lambda: Plain(
            deep,
            **linears(q=(8, 8), k=(8, 8), v=(8, 8), out=(8, 8), fc1=(8, 12), fc2=(12, 8)),
            norm1=nn.LayerNorm(8),
            norm2=nn.LayerNorm(8),
        ),
        {"attention.add.branch.f": "", "mlp.add.branch.f": "", "attention.norm": "norm1", "mlp.norm": "norm2"},
    ),
    "layer_sandwich": Oracle(
        lambda: Plain(
            peri,
            **linears(False, q=(8, 8), k=(8, 4), v=(8, 4), out=(8, 8), gate=(8, 12), up=(8, 12), down=(12, 8)),
            a=rms(),
            b=rms(),
            c=rms(),
            d=rms(),
        ),
        {
            "attention.branch.f": "",
            "mlp.branch.f": "",
            "attention.branch.norm": "a",
            "attention.branch.out_norm": "b",
            "mlp.branch.norm": "c",
            "mlp.branch.out_norm": "d",
        },
    ),
    "vit_block": Oracle(
        lambda: timm_block(vision_transformer.Block, qkv_bias=True, init_values=1.0), TIMM_BLOCK, call=replay(PATHS)
    ),
    "vit_res_post_block": Oracle(lambda: timm_block(vision_transformer.ResPostBlock), TIMM_BLOCK, call=replay(PATHS)),
    "vit_parallel_block": Oracle(
        parallel_block,
        parallel_names,
        call=replay({"mlp_drop": "branch.f.mlp.dropout", "drop_path": "branch.drop"}),
    ),
    "vit_encoder_block": Oracle(
        torchvision_block,
        {
            "attention.branch.norm": "ln_1",
            "attention.branch.f.qkv.weight": "self_attention.in_proj_weight",
            "attention.branch.f.qkv.bias": "self_attention.in_proj_bias",
            "attention.branch.f.out": "self_attention.out_proj",
            "mlp.branch.norm": "ln_2",
            "mlp.branch.f.fc1": "mlp.0",
            "mlp.branch.f.fc2": "mlp.3",
        },
        call=replay(
            {
                "dropout": "attention.branch.dropout",
                "mlp.2": "mlp.branch.f.dropout",
                "mlp.4": "mlp.branch.dropout",
            }
        ),
    ),
    "cait_block": Oracle(
        lambda: cait.LayerScaleBlock(8, 2, norm_layer=partial(nn.LayerNorm, eps=1e-6), attn_block=Attention),
        {**TIMM_BLOCK, "attention.branch.scale.weight": "gamma_1", "mlp.branch.scale.weight": "gamma_2"},
    ),
    "patch_embedding": Oracle(lambda: PatchEmbed(8, 4, 3, 6)),
    "class_token": Oracle(
        lambda: Plain(
            lambda m, x: torch.cat([torch.ones_like(x[:, :1]) * m.token.weight, x], 1),
            token=nn.Linear(8, 1, bias=False),
        ),
        lambda flat: {"token.weight": flat["weight"][0]} if flat else {},
    ),
    "mean_token": Oracle(lambda: Plain(lambda m, x: x[:, 1:].sum(1) / 4)),
    "vit": Oracle(
        timm_vit,
        by_scheme("timm"),
        call=replay(
            {
                "blocks.1.drop_path1": "blocks.1.attention.branch.drop",
                "blocks.1.drop_path2": "blocks.1.mlp.branch.drop",
            }
        ),
    ),
    "vit_torchvision": Oracle(
        lambda: torchvision_vit.VisionTransformer(8, 4, 2, 2, 8, 12, num_classes=5, representation_size=6),
        by_scheme("torchvision"),
    ),
}
