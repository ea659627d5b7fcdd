"""Norm placement in residual blocks: pre, post, res-post, sandwich, DeepNorm, parallel.

Each function composes `Residual` (or `Weighted`), `Sequential` and `Parallel`. The parts of a branch are named `norm`,
`f`, `dropout`, `scale` and `drop`, in the order in which they run; those that have no effect are left out.
"""

from __future__ import annotations

from typing import NamedTuple

from pure.block import Block
from pure.compose.chain import Sequential
from pure.compose.parallel import Parallel
from pure.errors import ArgumentError
from pure.layers.dropout import Dropout, DropPath
from pure.skips.additive.residual import Residual
from pure.skips.scaled.factors import Weighted

__all__ = [
    "DeepNormConstants",
    "deep_norm",
    "deep_norm_constants",
    "deep_norm_encoder_decoder",
    "parallel_branches",
    "post_norm",
    "pre_norm",
    "res_post_norm",
    "sandwich",
]


def _residual(
    before: Block | None,
    branch: Block,
    after: Block | None,
    *,
    scale: Block | float,
    dropout: float,
    drop_path: float,
    alpha: float = 1.0,
) -> Block:
    """Return α x + drop(scale(after(dropout(branch(before(x)))))), without no-op parts."""
    parts: list[tuple[str, Block | None]] = [
        ("norm", before),
        ("f", branch),
        ("dropout", Dropout(dropout) if dropout else None),
        ("norm" if before is None else "out_norm", after),
        ("scale", scale if isinstance(scale, Block) else None),
        ("drop", DropPath(drop_path) if drop_path else None),
    ]
    chain = Sequential(**{name: part for name, part in parts if part is not None})
    constant = 1.0 if isinstance(scale, Block) else scale
    return Residual(chain, scale=constant) if alpha == 1.0 else Weighted(chain, carry=alpha, scale=constant)


def pre_norm(
    branch: Block, norm: Block, *, scale: Block | float = 1.0, dropout: float = 0.0, drop_path: float = 0.0
) -> Block:
    """Return y = x + scale · f(norm(x)): the stream is never normalised and grows with depth.

    Leaves: `branch.norm`, `branch.f`, `branch.scale`.

    Args:
        branch: f.
        norm: any block that keeps the shape, such as `LayerNorm(features)` or `RMSNorm(features)`.
        scale: a constant, or a block such as `Scale(features, 1e-5)`, which is LayerScale.
        dropout: rate of dropping single values of f.
        drop_path: rate of dropping the whole branch of a sample.

    Source: Xiong et al. 2020 (2002.04745), table 1; Wang et al. 2019 (1906.01787), section 2.

    Example:
        >>> import torch
        >>> from pure import LayerNorm, Linear, tree
        >>> block = pre_norm(Linear(4, 4), LayerNorm(4))
        >>> tree.names(block.init(torch.Generator())[0])
        ['branch.norm.weight', 'branch.norm.bias', 'branch.f.weight', 'branch.f.bias']
    """
    return _residual(norm, branch, None, scale=scale, dropout=dropout, drop_path=drop_path)


def post_norm(
    branch: Block, norm: Block, *, scale: Block | float = 1.0, dropout: float = 0.0, drop_path: float = 0.0
) -> Block:
    """Return y = norm(x + scale · f(x)): the stream is normalised after every sum.

    Leaves: `add.branch.f`, `add.branch.scale`, `norm`. Arguments as for `pre_norm`.

    Source: Vaswani et al. 2017 (1706.03762), section 3.1.

    Example:
        >>> import torch
        >>> from pure import LayerNorm, Linear
        >>> block = post_norm(Linear(4, 4), LayerNorm(4))
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.rand(2, 4)).mean(-1).abs().max() < 1e-6
        tensor(True)
    """
    return deep_norm(branch, norm, 1.0, scale=scale, dropout=dropout, drop_path=drop_path)


def res_post_norm(
    branch: Block, norm: Block, *, scale: Block | float = 1.0, dropout: float = 0.0, drop_path: float = 0.0
) -> Block:
    """Return y = x + scale · norm(f(x)): every branch's output has the norm's scale.

    Leaves: `branch.f`, `branch.norm`, `branch.scale`. Arguments as for `pre_norm`.

    Source: Liu et al. 2021 (2111.09883), section 3.2, figure 1, Swin V2; also OLMo 2 (2501.00656).

    Example:
        >>> import torch
        >>> from pure import LayerNorm, Linear, tree
        >>> block = res_post_norm(Linear(4, 4), LayerNorm(4, bias=False))
        >>> tree.names(block.init(torch.Generator())[0])
        ['branch.f.weight', 'branch.f.bias', 'branch.norm.weight']
    """
    return _residual(None, branch, norm, scale=scale, dropout=dropout, drop_path=drop_path)


def sandwich(
    branch: Block,
    norm: Block,
    out_norm: Block | None = None,
    *,
    scale: Block | float = 1.0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Block:
    """Return y = x + scale · out_norm(f(norm(x))) (Peri-LN): f's input and output are bounded.

    Leaves: `branch.norm`, `branch.f`, `branch.out_norm`, `branch.scale`. Arguments as for `pre_norm`, and:

    Args:
        branch: f.
        norm: the norm before f.
        out_norm: the norm behind f; None is another one like `norm`.
        scale: a constant, or a block such as `Scale(features, 1e-5)`.
        dropout: rate of dropping single values of f.
        drop_path: rate of dropping the whole branch of a sample.

    Source: Ding et al. 2021 (2105.13290), Sandwich-LN; Kim et al. 2025 (2502.02732), Peri-LN.

    Example:
        >>> import torch
        >>> from pure import Linear, RMSNorm, tree
        >>> block = sandwich(Linear(4, 4, bias=False), RMSNorm(4))
        >>> tree.names(block.init(torch.Generator())[0])
        ['branch.norm.weight', 'branch.f.weight', 'branch.out_norm.weight']
    """
    after = norm if out_norm is None else out_norm
    return _residual(norm, branch, after, scale=scale, dropout=dropout, drop_path=drop_path)


def deep_norm(
    branch: Block,
    norm: Block,
    alpha: float,
    *,
    scale: Block | float = 1.0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Block:
    """Return y = norm(α x + scale · f(x)): post-norm that stays trainable at hundreds of layers.

    It belongs together with small initial weights: Xavier's rule with the gain β for the feed-forward layers and the
    value and output projections, with the gain 1 for query and key. `deep_norm_constants` gives both numbers.

    Leaves: `add.branch.f`, `add.branch.scale`, `norm`. Arguments as for `pre_norm`, and:

    Args:
        branch: f, with its initial weights already scaled by β.
        norm: the norm after the sum.
        alpha: the constant in front of the stream.
        scale: a constant, or a block such as `Scale(features, 1e-5)`.
        dropout: rate of dropping single values of f.
        drop_path: rate of dropping the whole branch of a sample.

    Source: Wang et al. 2022 (2203.00555), section 4.1 and figure 2.

    Example:
        >>> import torch
        >>> from pure import LayerNorm, Linear
        >>> from pure.initializers import XavierNormal
        >>> alpha, beta = deep_norm_constants(layers=12)
        >>> block = deep_norm(Linear(4, 4, weight_init=XavierNormal(beta)), LayerNorm(4), alpha)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """
    add = _residual(None, branch, None, scale=scale, dropout=dropout, drop_path=drop_path, alpha=alpha)
    return Sequential(add=add, norm=norm)


class DeepNormConstants(NamedTuple):
    """What DeepNorm needs: α in front of the stream, β in front of initial weights."""

    alpha: float
    beta: float


def deep_norm_constants(layers: int) -> DeepNormConstants:
    """Return α = (2N)^¼ and β = (8N)^−¼ for one stack of N layers, an encoder or a decoder.

    Each layer has two branches, and the bound on a step's change of the output is 2N · 2β² / α² = 1 at any depth.

    Args:
        layers: N, with attention and feed-forward branch counted as one layer.

    Raises:
        ArgumentError: fewer than one layer.

    Source: Wang et al. 2022 (2203.00555), figure 2 and section 4.3.

    Example:
        >>> alpha, beta = deep_norm_constants(8)
        >>> round(alpha, 6), round(beta, 6)
        (2.0, 0.353553)
    """
    _require_layers(layers)
    return DeepNormConstants((2 * layers) ** 0.25, (8 * layers) ** -0.25)


def deep_norm_encoder_decoder(encoder_layers: int, decoder_layers: int) -> tuple[DeepNormConstants, DeepNormConstants]:
    """Return the constants of an encoder of N layers and of its decoder of M layers.

    Encoder: α = 0.81 (N⁴M)^(1/16), β = 0.87 (N⁴M)^(−1/16). Decoder: α = (3M)^¼, β = (12M)^−¼.

    Args:
        encoder_layers: N.
        decoder_layers: M.

    Raises:
        ArgumentError: fewer than one layer.

    Source: Wang et al. 2022 (2203.00555), figure 2.

    Example:
        >>> encoder, decoder = deep_norm_encoder_decoder(6, 6)
        >>> round(encoder.alpha, 4), round(decoder.alpha, 4)
        (1.4179, 2.0598)
    """
    _require_layers(encoder_layers, decoder_layers)
    root = (encoder_layers**4 * decoder_layers) ** (1 / 16)
    encoder = DeepNormConstants(0.81 * root, 0.87 / root)
    return encoder, DeepNormConstants((3 * decoder_layers) ** 0.25, (12 * decoder_layers) ** -0.25)


def _require_layers(*counts: int) -> None:
    if min(counts) < 1:
        raise ArgumentError(f"layers={', '.join(map(str, counts))}: expected at least 1")


def parallel_branches(
    norm: Block | None, *, scale: Block | float = 1.0, drop_path: float = 0.0, **branches: Block
) -> Block:
    """Return y = x + scale · Σ fᵢ(norm(x)): branches share one normalised input (GPT-J).

    Leaves: `branch.norm`, `branch.f.<name>`, `branch.scale`.

    Args:
        norm: the norm that the branches share; None where each brings its own, as in GPT-NeoX.
        scale: a constant, or a block such as `Scale(features, 1e-5)`.
        drop_path: rate of dropping all branches of a sample together.
        branches: the branches by name, such as `attention=…, mlp=…`.

    Raises:
        ArgumentError: no branches.

    Source: Wang and Komatsuzaki 2021, GPT-J; Dehghani et al. 2023 (2302.05442), section 2.

    Example:
        >>> import torch
        >>> from pure import LayerNorm, Linear
        >>> block = parallel_branches(LayerNorm(4), attention=Linear(4, 4), mlp=Linear(4, 4))
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> sorted(params["branch"]["f"])
        ['attention', 'mlp']
    """
    return _residual(norm, Parallel(join="sum", **branches), None, scale=scale, dropout=0.0, drop_path=drop_path)
