"""Value residual: the first layer's values are mixed into every later layer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params, Shape
from pure.composite import Composite, Run
from pure.errors import ArgumentError
from pure.initializers import Device
from pure.layers.attention import Attention
from pure.tags import tag

__all__ = ["ValueResidual"]

Pair = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, repr=False)
class _MixedAttention(Attention):
    """Attention of (tokens, first values) with the values mix · V₁ + (1 − mix) · V; gives V₁ back beside its output."""

    mix: float = 0.5

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the attended tokens and the first values."""
        tokens, first = x if isinstance(x, tuple) else (x, None)
        q, k, v = self.project(run, tokens)
        mixed = v if first is None else self.mix * first + (1 - self.mix) * v
        y = self.finish(run, tokens, self.attend(run, q, k, mixed, self.allowed(tokens, extras)))
        return y, v if first is None else first


class _KeepsShape(Composite):
    """A composite all of whose children see tokens of the input's shape, though some get them in a pair."""

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw each child's noise for the input's shape."""
        return Block.noise(self, x_shape, generator, dtype=dtype, device=device)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)


@dataclass(frozen=True, repr=False)
class _Layer(_KeepsShape):
    """(x, V₁) → (x + attention(norm x, V₁), V₁), then x + mlp(x), if there is one."""

    norm: Block
    attention: Block
    mlp: Block | None = None

    def parts(self) -> dict[str, Block]:
        """Return the norm, the attention and what follows."""
        found = {"norm": self.norm, "attention": self.attention}
        return found if self.mlp is None else {**found, "mlp": self.mlp}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the stream and the first values."""
        tokens, first = x if isinstance(x, tuple) else (x, None)
        f, first = run("attention", (run("norm", tokens), first))
        y = tag(tokens + tag(f, "branch", kind="branch"), "stream")
        return y if self.mlp is None else run("mlp", y), first


@dataclass(frozen=True, repr=False)
class ValueResidual(_KeepsShape):
    """`depth` layers xₗ = xₗ₋₁ + attentionₗ(norm xₗ₋₁) whose values are Vₗ ← mix · V₁ + (1 − mix) · Vₗ.

    V₁ are the first layer's values, which stay as they are. Children: "0", "1", …, each with `norm`, `attention` and,
    if given, `mlp`.

    Tags: "branch", "stream" of each layer.

    Args:
        attention: the attention of every layer.
        norm: the norm in front of it.
        depth: how many layers there are.
        mlp: a block after each layer's attention, with its own skip, such as `pre_norm(feed_forward(…), norm)`.
        mix: weight of the first layer's values.

    Raises:
        ArgumentError: fewer than one layer, or an `attention` that is no `Attention`.

    Source: Zhou et al. 2024 (2410.17897), ResFormer with λ₁ = λ₂ = ½.

    Example:
        >>> from pure.layers import RMSNorm
        >>> block = ValueResidual(Attention(8, 2, causal=True), RMSNorm(8), depth=3)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 3, 8)).shape
        torch.Size([2, 3, 8])
    """

    attention: Block
    norm: Block
    depth: int = 2
    mlp: Block | None = None
    mix: float = 0.5

    def __post_init__(self) -> None:
        if self.depth < 1 or not isinstance(self.attention, Attention):
            raise ArgumentError(
                f"ValueResidual depth={self.depth}, attention={self.attention!r}: expected at least one layer and an "
                "Attention"
            )
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the layers."""
        assert isinstance(self.attention, Attention)
        options = {name: getattr(self.attention, name) for name in Attention.__dataclass_fields__ if name[0] != "_"}
        layer = _Layer(self.norm, _MixedAttention(**options, mix=self.mix), self.mlp)
        return {str(index): layer for index in range(self.depth)}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the last layer's stream."""
        pair: Pair = x, None
        for name in self.children():
            pair = run(name, pair)
        return pair[0]
