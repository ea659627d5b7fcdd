"""Base of blocks with conditional computation: select a result, or branch and skip work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Applied, Reading, Shape
from pure.composite import Composite
from pure.errors import ArgumentError
from pure.tree import Tree

__all__ = ["Branching", "condition"]

Mode = Literal["select", "branch"]


@dataclass(frozen=True, repr=False)
class Branching(Composite):
    """A composite that computes some parts only where needed, in one of two equal modes.

    - "select" (default) computes everything and selects; differentiable and mappable by every `torch.func` transform,
      as in training.
    - "branch" computes a part only if a sample of the batch needs it, by `torch.cond`: for evaluation, and an `If` in
      ONNX. Training, and the transforms that PyTorch does not define for `torch.cond` (grad, vjp, jvp), need "select".

    Args:
        mode: "select" or "branch".

    Raises:
        ArgumentError: an unknown mode, or training in "branch" mode.
    """

    mode: Mode = field(default="select", kw_only=True)

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ArgumentError(
                f"{type(self).__name__} mode={self.mode!r}: expected one of {', '.join(get_args(Mode))}"
            )
        super().__post_init__()

    @property
    def stochastic(self) -> bool:
        """Whether training needs noise; "branch" mode does not train."""
        return self.mode == "select" and super().stochastic

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the output's shape, the same in both modes."""
        if self.mode == "branch":
            return dataclasses.replace(self, mode="select").out_shape(x_shape)
        return super().out_shape(x_shape)

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the output and the new state, in "branch" mode the state that was given."""
        if self.mode == "select":
            return super().apply(params, x, state, extras, training, noise)
        if training:
            raise ArgumentError(f"{type(self).__name__} in training with mode='branch': train with mode='select'")
        if isinstance(extras, Reading):
            extras.complete = True  # what is read inside torch.cond cannot be noted
        run = self.runner(params, state, extras)
        run.keeps_state = False
        return self.combine(run, params, x, extras), state

    def when(
        self, needed: Tensor, compute: Callable[..., Any], otherwise: Callable[..., Any], operands: tuple[Tensor, ...]
    ) -> Any:
        """Return `compute(*operands)`, or in "branch" mode `otherwise(*operands)` where nothing in `needed` is true.

        Args:
            needed: booleans, one for each sample (or token) that needs the computation.
            compute: right for all samples, whatever `needed` says.
            otherwise: the same result for samples that do not need the computation, without it.
            operands: what both are called with.
        """
        if self.mode == "select":
            return compute(*operands)
        return condition(needed.any(), _owned(compute), _owned(otherwise), operands)


def condition(
    needed: Tensor, compute: Callable[..., Any], otherwise: Callable[..., Any], operands: tuple[Tensor, ...]
) -> Any:
    """Return `torch.cond(needed, compute, otherwise, operands)`; closures may hold numbers.

    Run eagerly, `torch.cond` compiles them. A Python float that differs from an earlier call's (another threshold,
    another scale) becomes a symbol there, which the operator refuses; so floats are kept as they are.
    """
    if torch.compiler.is_dynamo_compiling():
        return torch.cond(needed, compute, otherwise, operands)
    with torch._dynamo.config.patch(specialize_float=True):
        return torch.cond(needed, compute, otherwise, operands)


def _owned(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` with contiguous, unaliased results, as `torch.cond` requires."""

    def run(*operands: Tensor) -> Any:
        return tree.tree_map(lambda leaf: leaf.clone(memory_format=torch.contiguous_format), fn(*operands))

    return run
