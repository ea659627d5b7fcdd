"""Names of vision transformers in torchvision and timm, of any size."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]


def _without_batch(leaf: Tensor) -> Tensor:
    return leaf.squeeze(0)


def _with_batch(leaf: Tensor) -> Tensor:
    return leaf.unsqueeze(0)


TORCHVISION: Final = "encoder.layers.encoder_layer_{i}."

SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme(
        "torchvision",
        "vision transformers",
        (
            Rule("patch_embed.proj.{leaf}", "conv_proj.{leaf}"),
            Rule("cls_token.weight", "class_token"),
            Rule("pos_embed.weight", "encoder.pos_embedding", _without_batch, _with_batch),
            Rule("blocks.{i}.attention.branch.norm.{leaf}", TORCHVISION + "ln_1.{leaf}"),
            Rule("blocks.{i}.attention.branch.f.qkv.{leaf}", TORCHVISION + "self_attention.in_proj_{leaf}"),
            Rule("blocks.{i}.attention.branch.f.out.{leaf}", TORCHVISION + "self_attention.out_proj.{leaf}"),
            Rule("blocks.{i}.mlp.branch.norm.{leaf}", TORCHVISION + "ln_2.{leaf}"),
            Rule("blocks.{i}.mlp.branch.f.fc1.{leaf}", TORCHVISION + "mlp.0.{leaf}"),
            Rule("blocks.{i}.mlp.branch.f.fc2.{leaf}", TORCHVISION + "mlp.3.{leaf}"),
            Rule("norm.{leaf}", "encoder.ln.{leaf}"),
            Rule("pre_logits.{leaf}", "heads.pre_logits.{leaf}"),
            Rule("head.{leaf}", "heads.head.{leaf}"),
        ),
    ),
    Scheme(
        "timm",
        "vision transformers",
        (
            Rule("patch_embed.proj.{leaf}", "patch_embed.proj.{leaf}"),
            Rule("{token}_token.weight", "{token}_token"),
            Rule("pos_embed.weight", "pos_embed", _without_batch, _with_batch),
            Rule("blocks.{i}.attention.branch.norm.{leaf}", "blocks.{i}.norm1.{leaf}"),
            Rule("blocks.{i}.attention.branch.f.qkv.{leaf}", "blocks.{i}.attn.qkv.{leaf}"),
            Rule("blocks.{i}.attention.branch.f.out.{leaf}", "blocks.{i}.attn.proj.{leaf}"),
            Rule("blocks.{i}.attention.branch.scale.weight", "blocks.{i}.ls1.gamma"),
            Rule("blocks.{i}.mlp.branch.norm.{leaf}", "blocks.{i}.norm2.{leaf}"),
            Rule("blocks.{i}.attention.branch.f.{part}.{leaf}", "blocks.{i}.attn.{part}.{leaf}"),
            Rule("blocks.{i}.mlp.branch.f.gate_up.{leaf}", "blocks.{i}.mlp.fc1.{leaf}"),
            Rule("blocks.{i}.mlp.branch.f.down.{leaf}", "blocks.{i}.mlp.fc2.{leaf}"),
            Rule("blocks.{i}.mlp.branch.f.{part}.{leaf}", "blocks.{i}.mlp.{part}.{leaf}"),
            Rule("blocks.{i}.mlp.branch.scale.weight", "blocks.{i}.ls2.gamma"),
            Rule("blocks.{i}.attention.branch.{j}.norm.{leaf}", "blocks.{i}.attns.{j}.norm.{leaf}"),
            Rule("blocks.{i}.attention.branch.{j}.f.qkv.{leaf}", "blocks.{i}.attns.{j}.attn.qkv.{leaf}"),
            Rule("blocks.{i}.attention.branch.{j}.f.out.{leaf}", "blocks.{i}.attns.{j}.attn.proj.{leaf}"),
            Rule("blocks.{i}.attention.branch.{j}.scale.weight", "blocks.{i}.attns.{j}.ls.gamma"),
            Rule("blocks.{i}.mlp.branch.{j}.norm.{leaf}", "blocks.{i}.ffns.{j}.norm.{leaf}"),
            Rule("blocks.{i}.mlp.branch.{j}.f.{part}.{leaf}", "blocks.{i}.ffns.{j}.mlp.{part}.{leaf}"),
            Rule("blocks.{i}.mlp.branch.{j}.scale.weight", "blocks.{i}.ffns.{j}.ls.gamma"),
            Rule("norm.{leaf}", "norm.{leaf}"),
            Rule("norm_pre.{leaf}", "norm_pre.{leaf}"),
            Rule("fc_norm.{leaf}", "fc_norm.{leaf}"),
            Rule("attn_pool.attend.latent.weight", "attn_pool.latent"),
            Rule("attn_pool.attend.out.{leaf}", "attn_pool.proj.{leaf}"),
            Rule("attn_pool.attend.{part}.{leaf}", "attn_pool.{part}.{leaf}"),
            Rule("attn_pool.mlp.branch.norm.{leaf}", "attn_pool.norm.{leaf}"),
            Rule("attn_pool.mlp.branch.f.{part}.{leaf}", "attn_pool.mlp.{part}.{leaf}"),
            Rule("head.{leaf}", "head.{leaf}"),
            Rule("heads.{head}.{leaf}", "{head}.{leaf}"),
        ),
    ),
)
