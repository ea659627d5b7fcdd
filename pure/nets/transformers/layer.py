"""One transformer layer, from sizes and names, with its norms in any of the usual places."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Literal, get_args

from pure.block import Block
from pure.compose.initialize import Initialize
from pure.errors import ArgumentError, nearest
from pure.initializers import Initializer, KaimingUniform, XavierNormal
from pure.layers.attention import Attention
from pure.layers.norm import LayerNorm, RMSNorm
from pure.layers.rotary import Rotary
from pure.layers.scale import Scale
from pure.nets.transformers.parts import feed_forward, transformer_block
from pure.skips.gated.glu import GLU
from pure.skips.scaled.norm_placement import (
    deep_norm,
    deep_norm_constants,
    parallel_branches,
    post_norm,
    pre_norm,
    res_post_norm,
    sandwich,
)

__all__ = ["GATED", "Placement", "transformer_layer"]

Placement = Literal["pre", "post", "res_post", "sandwich", "deep", "parallel"]
NormName = Literal["layer", "layer_without_bias", "rms"]

GATED: Final[dict[str, str]] = {
    "glu": "sigmoid",
    "reglu": "relu",
    "geglu": "gelu",
    "geglu_tanh": "gelu_tanh",
    "swiglu": "silu",
}
"""Name of a gated feed-forward layer → the activation of its gate (Shazeer 2020, 2002.05202)."""

DEFAULT: Final = KaimingUniform()


def transformer_layer(
    features: int,
    heads: int,
    *,
    hidden: int | None = None,
    mlp: str = "gelu",
    norm: NormName = "layer",
    eps: float | None = None,
    placement: Placement = "pre",
    bias: bool = True,
    qkv_bias: bool | None = None,
    fused: bool = False,
    kv_heads: int | None = None,
    causal: bool = False,
    rotary: Rotary | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
    scale: float = 1.0,
    layer_scale: float | None = None,
    layers: int | None = None,
    weight_init: Initializer = DEFAULT,
    bias_init: Initializer | None = None,
    out_init: Initializer | None = None,
) -> Block:
    """Return a transformer layer: (batch, tokens, features) to the same.

    "pre" x + f(LN x), "post" LN(x + f x), "res_post" x + LN(f x), "sandwich" x + LN(f(LN x)), "deep" LN(αx + f x),
    each first with attention and then with the feed-forward branch; "parallel" x + attention(LN x) + mlp(LN x).

    extras: `mask` (batch, tokens), optional, as in `Attention`. Leaves: those of the placement (`pure.skips`) under
    `attention` and `mlp`, with those of `Attention` and of the feed-forward branch under `f`.

    Args:
        features: size of a token.
        heads: of the attention.
        hidden: of the feed-forward branch; None for 4 · features.
        mlp: its activation, plain as in `pure.layers.Activation` or gated: "glu", "reglu", "geglu", "geglu_tanh",
            "swiglu".
        norm: "layer", "layer_without_bias" or "rms".
        eps: of the norm; None for the norm's own.
        placement: "pre", "post", "res_post", "sandwich", "deep" or "parallel".
        bias: whether the linear maps have a bias.
        qkv_bias: whether queries, keys and values have one; None for `bias`.
        fused: whether one matrix gives queries, keys and values.
        kv_heads: heads of keys and values; None for `heads`.
        causal: whether a token sees itself and earlier ones only.
        rotary: rotary positions.
        dropout: rate after the activation and, except for "parallel", on each branch's output.
        attention_dropout: rate of dropping attention probabilities.
        drop_path: rate of dropping a sample's branch.
        scale: constant in front of each branch.
        layer_scale: initial value of a learnt gain, one per feature, in place of `scale`; None for no such gain.
        layers: how many layers the stack has, for "deep", which takes α, β and Xavier's rule from it.
        weight_init: rule for the weights; not for "deep".
        bias_init: rule for the biases, except those of a gated feed-forward branch.
        out_init: rule for the last weight of both branches, such as `Normal(std=0.02 / math.sqrt(2 * layers))` in
            GPT-2; None for `weight_init`; not for "deep".

    Raises:
        ArgumentError: an unknown name, `layers` without "deep" or "deep" without `layers`, a constant and a learnt
            gain together, or "deep" with `fused`, where q and k start unlike v.

    Source: Vaswani et al. 2017 (1706.03762), section 3; the placements as in `pure.skips`.

    Example:
        >>> import torch
        >>> block = transformer_layer(8, 2, mlp="swiglu", norm="rms", bias=False, causal=True, rotary=Rotary())
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """
    if (placement == "deep") != (layers is not None):
        raise ArgumentError(
            f"transformer_layer placement={placement!r}, layers={layers}: 'deep' needs the number of layers, "
            "the others take none"
        )
    if placement == "deep" and fused:
        raise ArgumentError("transformer_layer placement='deep', fused=True: expected fused=False, q and v start apart")
    if layer_scale is not None and scale != 1.0:
        raise ArgumentError(f"transformer_layer scale={scale}, layer_scale={layer_scale}: expected one of them")
    attention = Attention(
        features,
        heads,
        kv_heads=kv_heads,
        causal=causal,
        bias=bias if qkv_bias is None else qkv_bias,
        out_bias=bias,
        fused=fused,
        rotary=rotary,
        dropout=attention_dropout,
        weight_init=weight_init,
        bias_init=bias_init,
        out_init=out_init,
    )
    inner = hidden or 4 * features
    last = out_init or weight_init
    branch: Block
    if mlp in GATED:
        gate = GATED[mlp]
        branch = GLU(features, inner, gate, bias=bias, dropout=dropout, weight_init=weight_init, down_init=last)
    else:
        branch = feed_forward(
            features,
            inner,
            mlp,
            bias=bias,
            dropout=dropout,
            weight_init=weight_init,
            bias_init=bias_init,
            out_init=last,
        )
    gain = scale if layer_scale is None else Scale(features, layer_scale)
    around = _norm(norm, features, eps)
    if placement == "parallel":
        return parallel_branches(around, scale=gain, drop_path=drop_path, attention=attention, mlp=branch)
    constants = deep_norm_constants(1 if layers is None else layers)
    by_name: dict[str, Callable[..., Block]] = {
        "pre": pre_norm,
        "post": post_norm,
        "res_post": res_post_norm,
        "sandwich": sandwich,
        "deep": partial(deep_norm, alpha=constants.alpha),
    }
    if placement not in by_name:
        known = get_args(Placement)
        raise ArgumentError(f"placement={placement!r}{nearest(placement, known)}: expected one of {', '.join(known)}")
    placed = partial(by_name[placement], norm=around, scale=gain, dropout=dropout, drop_path=drop_path)
    block = transformer_block(placed, attention, branch)
    if placement != "deep":
        return block
    small, one = XavierNormal(constants.beta), XavierNormal()
    return Initialize(block, {"*.q.weight": one, "*.k.weight": one, "*.f.*.weight": small})


def _norm(name: str, features: int, eps: float | None = None) -> Block:
    """Return the norm of that name over the last axis, with its own eps if none is given."""
    makers: dict[str, Callable[..., Block]] = {
        "layer": LayerNorm,
        "layer_without_bias": partial(LayerNorm, bias=False),
        "rms": RMSNorm,
    }
    if name not in makers:
        raise ArgumentError(f"norm={name!r}{nearest(name, makers)}: expected one of {', '.join(get_args(NormName))}")
    return makers[name](features) if eps is None else makers[name](features, eps=eps)
