"""One row of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch

from pure.block import Block, Shape

__all__ = ["FAMILIES", "Case", "Family"]

Family = Literal[
    "layer",
    "shortcut",
    "additive",
    "scaled",
    "gated",
    "dense",
    "streams",
    "reversible",
    "dynamic",
    "transformer",
    "composition",
    "network",
]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class Case:
    """One row: how to make a block, its inputs, the formula's source, and its reference.

    Attributes:
        name: unique, in lower case.
        family: the section it belongs to.
        make: returns the block.
        x_shape: shape of an example input, batch axis first.
        formula: what it computes.
        source: paper and section, or the PyTorch class it equals.
        init: the initial values that the method depends on, if any.
        oracle: the independent implementation that the tests hold it against; "formula" is one written for the tests
            straight from the formula.
        control: value for extras["control"], for dynamic blocks.
        extras: shapes of further extras, batch axis first; an example draws them normal.
        tokens: size of the vocabulary, for a block whose input holds token indices.
        smooth: whether second derivatives exist almost everywhere and are not all zero.
        per_sample: whether a sample's output depends on that sample alone, in evaluation.
    """

    name: str
    family: Family
    make: Callable[[], Block]
    x_shape: Shape
    formula: str
    source: str
    init: str = ""
    oracle: str = "formula"
    control: float | bool | None = None
    extras: tuple[tuple[str, Shape], ...] = ()
    tokens: int | None = None
    smooth: bool = True
    per_sample: bool = True

    def example(self, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Block, Any, Any, Any, Any]:
        """Return `(block, params, state, x, extras)` drawn from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        block = self.make()
        params, state = block.init(generator, dtype)
        if self.tokens is None:
            x = torch.randn(self.x_shape, generator=generator, dtype=dtype)
        else:
            x = torch.randint(self.tokens, self.x_shape, generator=generator)
        extras: dict[str, Any] = {} if self.control is None else {"control": self.control}
        for name, shape in self.extras:
            extras[name] = torch.randn(shape, generator=generator, dtype=dtype)
        return block, params, state, x, extras

    def call(self) -> str:
        """Return the expression that makes the block: a network function's call, or its repr."""
        if isinstance(self.make, partial):
            return expression(self.make)
        return repr(self.make())


def expression(make: partial[Any]) -> str:
    """Return a partial as the call that it stands for.

    >>> from pure import nets
    >>> expression(partial(nets.simple_block, 6, 8, out_features=3))
    'nets.simple_block(6, 8, out_features=3)'
    """
    options: Mapping[str, Any] = make.keywords
    arguments = [*map(repr, make.args), *(f"{key}={value!r}" for key, value in options.items())]
    owner = make.func.__module__.split(".")[1]
    return f"{owner}.{getattr(make.func, '__qualname__', make.func)}({', '.join(arguments)})"
