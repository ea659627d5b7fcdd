"""The gated residual network of the temporal fusion transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ArgumentError, ShapeError
from pure.layers.activation import activation
from pure.layers.dropout import Dropout
from pure.layers.linear import Linear
from pure.layers.norm import LayerNorm
from pure.tags import tag

__all__ = ["GatedResidualNetwork"]


@dataclass(frozen=True, repr=False)
class GatedResidualNetwork(Composite):
    """LayerNorm(S(a) + GLU(W₁ ELU(W₂ a + b₂ + W₃ c) + b₁)), GLU(h) = σ(W₄ h + b₄) ⊙ (W₅ h + b₅), over the last axis.

    extras: `context`, c (batch, context_features) for the whole sample, or (batch, …, context_features) with the axes
    of a; without it c = 0.

    Children: `fc2` (W₂), `context` (W₃, no bias), `fc1` (W₁), `gate` (W₄), `value` (W₅), `norm`; `skip`, where
    `out_features` differs from `features`; `drop`.

    Tags: "gate" (σ(…)), "branch" (GLU), "stream" (the sum in front of the norm).

    Args:
        features: size of the last axis of a.
        hidden: size of ELU(…) and of W₁'s output.
        out_features: size of the last axis of the output; None is `features`.
        context_features: size of the last axis of c; None for a block without context.
        dropout: rate of dropping values of W₁'s output, in training.

    Raises:
        ArgumentError: a context for a block without `context_features`.
        ShapeError: a context of another shape.

    Source: Lim et al. 2019 (1912.09363), equations 2 to 5.

    Example:
        >>> block = GatedResidualNetwork(4, 6, context_features=3)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 5, 4), {}, {"context": torch.ones(2, 3)}).shape
        torch.Size([2, 5, 4])
    """

    features: int
    hidden: int
    out_features: int | None = None
    context_features: int | None = None
    dropout: float = 0.0

    def parts(self) -> dict[str, Block]:
        """Return the layers."""
        out = self.features if self.out_features is None else self.out_features
        found: dict[str, Block] = {"fc2": Linear(self.features, self.hidden)}
        if self.context_features is not None:
            found["context"] = Linear(self.context_features, self.hidden, bias=False)
        found |= {"fc1": Linear(self.hidden, self.hidden), "gate": Linear(self.hidden, out)}
        found |= {"value": Linear(self.hidden, out), "norm": LayerNorm(out)}
        if out != self.features:
            found["skip"] = Linear(self.features, out)
        if self.dropout:
            found["drop"] = Dropout(self.dropout)
        return found

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the normalised sum."""
        children = self.children()
        hidden = run("fc2", x)
        if "context" in extras:
            hidden = hidden + self._context(run, x, extras["context"])
        hidden = run("fc1", activation("elu")(hidden))
        if "drop" in children:
            hidden = run("drop", hidden)
        gate = tag(torch.sigmoid(run("gate", hidden)), "gate", kind="gate")
        branch = tag(gate * run("value", hidden), "branch", kind="branch")
        return run("norm", tag((run("skip", x) if "skip" in children else x) + branch, "stream"))

    def _context(self, run: Run, x: Any, context: Any) -> Any:
        """Return W₃ c, with axes of size 1 where a has some that c has not."""
        if self.context_features is None:
            raise ArgumentError(f"{self}: a context is given: set context_features, or leave it out of extras")
        whole = context.ndim == 2
        axes = x.shape[:1] if whole else x.shape[:-1]
        if context.shape[:-1] != axes:
            raise ShapeError(
                f"{self}: context {tuple(context.shape)} for input {tuple(x.shape)}: expected (batch, "
                f"{self.context_features}), or the input's axes in front"
            )
        c = run("context", context)
        return c.reshape(c.shape[:1] + (1,) * (x.ndim - 2) + c.shape[1:]) if whole else c
