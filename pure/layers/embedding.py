"""Embeddings: token indices to rows of a matrix, learnt positions, and BERT's sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.block import Block, Extras, Params, Shape, State
from pure.composite import Composite, Run
from pure.errors import ArgumentError, DtypeError, RankError, ShapeError
from pure.initializers import Device, Initializer, Normal
from pure.layers.alignment import fits
from pure.layers.dropout import Dropout
from pure.layers.norm import LayerNorm
from pure.leaf import Leaf, describe

__all__ = ["BertEmbeddings", "Embedding", "LearnedPositions"]

NORMAL = Normal()


@dataclass(frozen=True, repr=False)
class _Table(Leaf):
    """A matrix `weight` (count, features) whose rows are looked up."""

    count: int
    features: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1 or self.features < 1:
            raise ArgumentError(f"{self}: expected at least one row and one feature")

    def leaf_names(self) -> tuple[str, ...]:
        """Return the name of the parameter."""
        return ("weight",)


@dataclass(frozen=True, repr=False)
class Embedding(_Table):
    """y = W[x]: (batch, …) integers to (batch, …, features).

    Leaf: `weight` (count, features), normal at first as in `torch.nn.Embedding`.

    Args:
        count: how many rows there are, such as the size of a vocabulary.
        features: size of each row.
        padding: an index whose row starts at zero and receives no gradient.
        weight_init: rule for the weight.

    Raises:
        ArgumentError: sizes below one, a padding index outside the table, or, on the CPU, an input outside it.
        DtypeError: the input holds no integers.
        RankError: the input has no batch axis.

    Source: `torch.nn.Embedding`.

    Example:
        >>> params, _ = Embedding(10, 4).init(torch.Generator().manual_seed(0))
        >>> Embedding(10, 4)(params, torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 4])
    """

    padding: int | None = None
    weight_init: Initializer = NORMAL

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding is not None and not 0 <= self.padding < self.count:
            raise ArgumentError(f"{self}: expected a padding index from 0 to {self.count - 1}")

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the weight."""
        weight = self.weight_init((self.count, self.features), generator, dtype, device)
        if self.padding is not None:
            kept = torch.arange(self.count, device=weight.device) != self.padding
            weight = weight * kept.to(dtype)[:, None]
        return {"weight": weight}, {}

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the rows."""
        if x.ndim < 2:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, tokens): one sample: x.unsqueeze(0)")
        if x.is_floating_point() and x.is_meta:  # shapes alone, which have no dtype
            x = torch.empty_like(x, dtype=torch.int64)
        if x.dtype not in (torch.int64, torch.int32):
            raise DtypeError(f"{self}: input is {x.dtype}, expected int64 or int32 indices below {self.count}")
        weight: Tensor = params["weight"]
        if weight.shape != (self.count, self.features):
            raise RuntimeError(f"weight {tuple(weight.shape)}")
        try:
            return F.embedding(x, weight, self.padding)
        except IndexError as error:
            raise ArgumentError(f"{self}: an index lies outside 0 to {self.count - 1}: check the vocabulary") from error

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, …, features)."""
        return (*x_shape, self.features)


@dataclass(frozen=True, repr=False)
class LearnedPositions(_Table):
    """y = x + W[:tokens]: a learnt vector for each position, added to (batch, tokens, features).

    Leaf: `weight` (count, features).

    Args:
        count: the most tokens that there can be.
        features: size of each token.
        weight_init: rule for the weight.

    Raises:
        ArgumentError: sizes below one.
        RankError: the input is not (batch, tokens, features).
        ShapeError: more tokens than `count`, or other features.

    Source: Gehring et al. 2017 (1705.03122), section 3.1.

    Example:
        >>> params, _ = LearnedPositions(8, 4).init(torch.Generator().manual_seed(0))
        >>> LearnedPositions(8, 4)(params, torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    weight_init: Initializer = NORMAL

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the weight."""
        return {"weight": self.weight_init((self.count, self.features), generator, dtype, device)}, {}

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the sum."""
        if x.ndim != 3:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, tokens, {self.features})")
        if x.shape[1] > self.count or x.shape[2] != self.features:
            raise ShapeError(
                f"{self}: input {describe(x)}, expected (batch, at most {self.count} tokens, {self.features})"
            )
        weight: Tensor = params["weight"]
        if not fits(weight, x) or weight.shape != (self.count, self.features):
            raise RuntimeError(f"weight {describe(weight)}")
        return x + weight[: x.shape[1]]

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)


@dataclass(frozen=True, repr=False)
class BertEmbeddings(Composite):
    """y = dropout(LN(word[x] + token_type[t] + position[:tokens])).

    extras: `token_type_ids` (batch, tokens), optional integers; 0 everywhere if not given.

    Args:
        vocab_size: how many tokens there are.
        features: size of each vector.
        positions: the most tokens that a sample can have.
        types: how many kinds of segment there are.
        padding: index of the token whose vector starts at zero and receives no gradient.
        dropout: rate after the norm.
        eps: of the norm.
        weight_init: rule for the three tables.
        count_tokens: a token's position is `padding` plus how many tokens other than padding stand up to it, and
            padding's own is `padding` (RoBERTa), instead of its place.

    Raises:
        DtypeError: an input, or token types, that hold no integers.
        ShapeError: token types of another shape than the input, or more tokens than `positions`.

    Source: Devlin et al. 2018 (1810.04805), section 3, figure 2.

    Example:
        >>> block = BertEmbeddings(10, 4, positions=8)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 4])
    """

    vocab_size: int
    features: int
    positions: int = 512
    types: int = 2
    padding: int | None = 0
    dropout: float = 0.0
    eps: float = 1e-12
    weight_init: Initializer = NORMAL
    count_tokens: bool = False

    def __post_init__(self) -> None:
        if self.count_tokens and self.padding is None:
            raise ArgumentError("BertEmbeddings count_tokens=True, padding=None: expected the index of padding")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the three tables, the norm and the dropout."""
        rule = self.weight_init
        found: dict[str, Block] = {
            "word": Embedding(self.vocab_size, self.features, self.padding, rule),
            "position": Embedding(self.positions, self.features, self.padding, rule)
            if self.count_tokens
            else LearnedPositions(self.positions, self.features, rule),
            "token_type": Embedding(self.types, self.features, weight_init=rule),
            "norm": LayerNorm(self.features, self.eps),
        }
        return {**found, "dropout": Dropout(self.dropout)} if self.dropout else found

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the embedded tokens."""
        types = extras.get("token_type_ids")
        if types is None:
            types = torch.zeros_like(x)
        elif types.shape != x.shape:
            raise ShapeError(
                f"BertEmbeddings: token_type_ids {tuple(types.shape)} for tokens {tuple(x.shape)}: expected one shape"
            )
        added = run("word", x) + run("token_type", types)
        if self.count_tokens:
            known = (x != self.padding).to(x.dtype)
            placed = added + run("position", known.cumsum(1) * known + self.padding)
        else:
            placed = run("position", added)
        y = run("norm", placed)
        return run("dropout", y) if self.dropout else y

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, tokens, features)."""
        return (*x_shape, self.features)
