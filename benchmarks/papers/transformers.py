"""Transformers that read a digit as eight tokens, its rows, with any block around attention and feed-forward branch."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.papers.training import Batches, load
from pure import Attention, Block, Function, LayerNorm, Linear, Sequential
from pure.initializers import Constant, XavierNormal
from pure.nets.transformers.layer import transformer_layer
from pure.nets.transformers.parts import feed_forward, transformer_block
from pure.skips.scaled.factors import rezero

TOKENS, CLASSES = 8, 10
TOKEN_FEATURES = 16
XAVIER, ZERO = XavierNormal(), Constant()


def load_rows(dtype: torch.dtype = torch.float32) -> Batches:
    """The digits as (digits, 8 rows, 8 pixels and the row's number as one of eight)."""
    data = load(rows=True, dtype=dtype)
    return data._replace(x=_placed(data.x), test_x=_placed(data.test_x))


def _placed(x: Tensor) -> Tensor:
    return torch.cat([x, torch.eye(TOKENS, dtype=x.dtype).expand(len(x), -1, -1)], -1)


def layer(kind: str, features: int, heads: int, depth: int) -> Block:
    """One layer of attention and feed-forward branch, 4 · features wide inside, without dropout.

    Args:
        kind: "pre", "post", "deep" or "rezero".
        features: Of a token.
        heads: Of the attention.
        depth: How many layers the stack has; DeepNorm's constants come from it.
    """
    if kind == "rezero":
        rules = {"weight_init": XAVIER, "bias_init": ZERO}
        return transformer_block(
            rezero, Attention(features, heads, **rules), feed_forward(features, 4 * features, "relu", **rules)
        )
    return transformer_layer(
        features,
        heads,
        mlp="relu",
        placement=kind,
        layers=depth if kind == "deep" else None,
        weight_init=XAVIER,
        bias_init=ZERO,
    )


def reader(kind: str, features: int, heads: int, depth: int, wrap: Callable[[Block], Block] | None = None) -> Block:
    """Stem, `depth` layers (behind a last norm where they are pre-norm), the mean over the rows, and a linear head."""
    block = layer(kind, features, heads, depth)
    parts: dict[str, Block] = {
        "stem": Linear(TOKEN_FEATURES, features, weight_init=XAVIER, bias_init=ZERO),
        "layers": Sequential(*[block if wrap is None else wrap(block)] * depth),
    }
    if kind == "pre":
        parts["norm"] = LayerNorm(features)
    return Sequential(
        **parts,
        pool=Function(_mean_over_rows),
        head=Linear(features, CLASSES, weight_init=XAVIER, bias_init=ZERO),
    )


def _mean_over_rows(x: Tensor) -> Tensor:
    return x.mean(1)
