"""Names of vision transformers in torchvision and timm, of any size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.block import Block
from pure.errors import ArgumentError
from pure.interop.scheme import Rule, Scheme
from pure.layers.embedding import LearnedPositions
from pure.layers.patches import PatchEmbedding

__all__ = ["POSITIONS", "SCHEMES", "resize_positions"]


def _without_batch(leaf: Tensor) -> Tensor:
    return leaf.squeeze(0)


def _with_batch(leaf: Tensor) -> Tensor:
    return leaf.unsqueeze(0)


POSITIONS: Final = ("pos_embed", "encoder.pos_embedding")

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


def resize_positions(block: Block, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint whose learned positions fit a vision transformer at another image size.

    The positions of the patches are resized as images, bicubic and with antialiasing as timm does; those of the class
    token and of registers stay. All else is the given tensors.

    Args:
        block: the network at the size that is wanted, such as `nets.create(name, image_size=384)`.
        state_dict: a checkpoint of timm or torchvision of a model with square images.

    Raises:
        ArgumentError: the block is no vision transformer with learned positions, or the checkpoint has none that fit.

    Example:
        >>> import torch
        >>> from pure import nets
        >>> net = nets.vision_transformer(image_size=32, patch_size=8, features=8, depth=1, heads=2)
        >>> resize_positions(net, {"pos_embed": torch.zeros(1, 1 + 2 * 2, 8)})["pos_embed"].shape
        torch.Size([1, 17, 8])
    """
    parts = block.children()
    patches, positions = parts.get("patch_embed"), parts.get("pos_embed")
    if not isinstance(patches, PatchEmbedding) or not isinstance(positions, LearnedPositions):
        raise ArgumentError(
            f"{type(block).__name__}: expected a vision transformer of pure.nets with learned positions"
        )
    name = next((name for name in POSITIONS if name in state_dict), None)
    if name is None:
        raise ArgumentError(f"the checkpoint has no {' or '.join(POSITIONS)}: expected one of timm or torchvision")
    leaf = state_dict[name]
    rows, columns = patches.grid
    kept = positions.count - rows * columns
    side = math.isqrt(max(leaf.shape[1] - kept, 0))
    if leaf.ndim != 3 or side * side != leaf.shape[1] - kept or side == 0:
        raise ArgumentError(
            f"{name} has shape {tuple(leaf.shape)}: expected (1, {kept} + side², {positions.features}), the "
            "positions of square images"
        )
    image = leaf[:, kept:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    wide = image if image.element_size() > 2 else image.float()
    resized = F.interpolate(wide, (rows, columns), mode="bicubic", antialias=True).to(leaf.dtype)
    return {**state_dict, name: torch.cat((leaf[:, :kept], resized.flatten(2).mT), 1)}
