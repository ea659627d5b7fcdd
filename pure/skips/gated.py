"""Gated skips: y = T ⊙ H(x) + (1 − T) ⊙ x."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pure.block import Block, Params, State
from pure.children import expected_keys, require_keys, run_child
from pure.errors import ShapeError
from pure.initializers import Constant
from pure.layers.activation import Activation
from pure.layers.linear import Linear
from pure.tags import tag

__all__ = ["Highway"]


@dataclass(frozen=True, repr=False)
class Highway(Block):
    """y = T ⊙ H(x) + (1 − T) ⊙ x with T = σ(gate(x)) the transform gate.

    Tags: "gate" (T), "branch" (T ⊙ H(x)), "stream" (y).

    Args:
        transform: H, a block that keeps the input's shape.
        gate: the block before the sigmoid; start its bias at −1 … −3, so that the stream is carried at first.

    Raises:
        ShapeError: H(x) or T differs from x in shape.

    Source: Srivastava et al. 2015 (1505.00387), equations 3 and 5; gate bias, section 2.3.

    Example:
        >>> block = Highway.dense(8, gate_bias=-2.0)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 8)).shape
        torch.Size([2, 8])
    """

    transform: Block
    gate: Block
    _keys: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keys", expected_keys(self.children()))

    @classmethod
    def dense(cls, features: int, *, gate_bias: float = -2.0, activation: str = "relu") -> Highway:
        """Return the fully connected layer of the paper: H(x) = activation(W x + b), gate(x) = W′ x + gate_bias."""
        from pure.compose import Sequential

        transform = Sequential(linear=Linear(features, features), act=Activation(activation))
        return cls(transform, Linear(features, features, bias_init=Constant(gate_bias)))

    @property
    def has_params(self) -> bool | None:
        """Whether transform or gate has."""
        return None if self._keys is None else self._keys > 0

    def children(self) -> dict[str, Block]:
        """Return the transform and the gate."""
        return {"transform": self.transform, "gate": self.gate}

    def apply(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Mapping[str, Any],
        training: bool = False,
        noise: Any = None,
    ) -> tuple[Any, State]:
        """Return the mix and the new states of transform and gate."""
        require_keys(self, self._keys, params)
        new_state: State = {}
        h = run_child(self, "transform", self.transform, params, x, state, extras, training, noise, new_state)
        logit = run_child(self, "gate", self.gate, params, x, state, extras, training, noise, new_state)
        if h.shape != x.shape or logit.shape != x.shape:
            raise ShapeError(
                f"Highway: input {tuple(x.shape)}, transform {tuple(h.shape)}, gate {tuple(logit.shape)}: expected one "
                "shape: change width before the first highway layer"
            )
        t = tag(torch.sigmoid(logit), "gate", kind="gate")
        branch = tag(t * h, "branch", kind="branch")
        return tag(branch + (1 - t) * x, "stream"), new_state
