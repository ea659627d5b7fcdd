"""Forward and backward through a chain, block by block, in bounded memory and on a logarithmic scale.

The forward keeps the blocks' inputs and nothing else. The backward runs each block again on its input and pulls a
cotangent through that block alone, so the gradient w.r.t. every block's input comes at no extra cost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import Reading
from pure.errors import PureError, UnsupportedError
from pure.flow.auditing.block_chain import Link, Links
from pure.flow.shared.log_scale import Scaled
from pure.flow.shared.tracked_leaves import tracked
from pure.tags import Tagged, substitute

__all__ = [
    "Inputs",
    "Pull",
    "Pullback",
    "floating",
    "outermost_branch",
    "run_link",
    "versions",
]


def floating(x: Any) -> list[Tensor]:
    """Return the floating-point tensors of a stream."""
    if isinstance(x, Tensor):
        return [x] if x.is_floating_point() else []
    return [leaf for leaf in tree.leaves(x) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def versions(*values: Any) -> int:
    """Return a number that changes when a tensor of these trees is written to."""
    return sum(leaf._version for value in values for leaf in tree.leaves(value) if isinstance(leaf, Tensor))


def run_link(link: Link, x: Any, extras: Mapping[str, Any]) -> Any:
    """Return a link's output; errors name the link."""
    try:
        return link.block(link.params, x, link.state, Reading(extras))
    except PureError as error:
        error.path = (*(link.name.split(".") if link.name else ()), *error.path)
        raise


class Inputs:
    """What each link was given, kept by the forward and handed to the backward in reverse order.

    All inputs are kept while they fit the budget. Beyond it only every √L-th is, and the ones between are computed
    again, one stretch at a time: 2√L streams at once, for one more forward in all.

    Args:
        chain: the links.
        extras: what the network reads beside its input.
        budget_bytes: how much memory the inputs may take before they are thinned out.

    Attributes:
        every: 1 where every input is kept, else the distance of those that are.
        most: the largest number of streams held at any time.
    """

    def __init__(self, chain: Links, extras: Mapping[str, Any], budget_bytes: float) -> None:
        self.chain, self.extras, self.budget = chain, extras, budget_bytes
        self.every = 1
        self.most = 0
        self._kept: dict[int, Any] = {}
        self._stretch: dict[int, Any] = {}
        self._bytes = 0

    def keep(self, index: int, x: Any) -> None:
        """Keep the input of a link, or not; to be called in the order of the links."""
        if index % self.every:
            return
        self._kept[index] = x
        self._bytes += sum(part.numel() * part.element_size() for part in tree.leaves(x) if isinstance(part, Tensor))
        self.most = max(self.most, len(self._kept))
        if self._bytes > self.budget and self.every == 1 and len(self.chain) > 3:
            self.every = math.ceil(math.sqrt(len(self.chain)))
            self._kept = {at: x for at, x in self._kept.items() if at % self.every == 0}

    def drop(self, index: int) -> None:
        """Let go of the input of a link that will not be taken."""
        self._kept.pop(index, None)

    def take(self, index: int) -> Any:
        """Return the input of a link and let go of it; to be called in reverse order."""
        if index in self._stretch:
            return self._stretch.pop(index)
        start = index - index % self.every
        x = self._kept.pop(start)
        with torch.no_grad():
            for at in range(start, index):
                self._stretch[at] = x
                x = run_link(self.chain[at], x, self.extras)
        self.most = max(self.most, len(self._kept) + len(self._stretch) + 1)
        return x


class Pull:
    """A part of a network that has run, ready to pull cotangents of its output back.

    Attributes:
        inputs: the floating-point tensors of its input, as autograd knows them.
        outputs: those of its output.
        leaves: its parameters.
        before: the branch whose part is told from the rest, as a function of the input; None for none.
        behind: the same, as what the output is a function of.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    leaves: list[Tensor]
    before: Tensor | None = None
    behind: Tensor | None = None

    def _pull(self, parts: Sequence[Tensor], sources: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return what comes back past the branch, and what comes back through it; zeros where there is none."""
        if self.before is None or self.behind is None:
            past = _vjp(self.outputs, sources, parts)
            return past, [torch.zeros_like(source) for source in sources]
        *past, at_branch = _vjp(self.outputs, [*sources, self.behind], parts)
        return past, _vjp([self.before], sources, [at_branch])

    def full(self, cotangent: Scaled) -> tuple[Scaled, list[Tensor]]:
        """Return the cotangent of the input, and those of the parameters at the exponent of the one given."""
        past, through = self._pull(cotangent.parts, [*self.inputs, *self.leaves])
        whole = [a + b for a, b in zip(past, through, strict=True)] if self.before is not None else past
        count = len(self.inputs)
        return Scaled(whole[:count], cotangent.exponent).rescaled(), whole[count:]

    def through(self, cotangent: Scaled) -> Scaled:
        """Return the cotangent of the input alone."""
        past, through = self._pull(cotangent.parts, self.inputs)
        return Scaled([a + b for a, b in zip(past, through, strict=True)], cotangent.exponent).rescaled()

    def split(self, parts: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return what comes back to the input past the branch and what through it; all passes where there is none."""
        return self._pull(parts, self.inputs)


class Pullback(Pull):
    """One link, run on its input.

    Args:
        link: the link.
        x: its input.
        extras: what the network reads beside it.
        branch: the tagged path, inside the link, of the branch whose part is to be told from the rest; None for none.

    Attributes:
        y: the output.

    Raises:
        UnsupportedError: its input or output holds no floating-point tensor.
    """

    def __init__(self, link: Link, x: Any, extras: Mapping[str, Any], branch: str | None = None) -> None:
        self.leaves = []
        self.inputs = []
        self.link = dataclasses.replace(link, params=tracked(link.params, self.leaves))
        x = tracked(x, self.inputs)
        with torch.enable_grad():
            if branch is None:
                self.y = run_link(self.link, x, extras)
            else:

                def cut(tagged: Tagged) -> Any:
                    if tagged.path != branch or not isinstance(tagged.value, Tensor) or not tagged.value.requires_grad:
                        return tagged.value
                    self.before, self.behind = tagged.value, tagged.value.detach().requires_grad_()
                    return self.behind

                self.y = substitute(run_link, cut, "branch")(self.link, x, extras)
        self.outputs = floating(self.y)
        if not self.inputs or not self.outputs:
            raise UnsupportedError(
                f"{link.name or type(link.block).__name__}: its input or output holds no floating-point tensor, so no "
                "gradient passes: audit the blocks behind it, on what they are given"
            )


def _vjp(targets: Sequence[Tensor], sources: Sequence[Tensor], cotangent: Sequence[Tensor]) -> list[Tensor]:
    reached = [(target, c) for target, c in zip(targets, cotangent, strict=True) if target.requires_grad]
    if not reached or not sources:
        return [torch.zeros_like(source) for source in sources]
    found = torch.autograd.grad(
        [target for target, _ in reached],
        list(sources),
        [c for _, c in reached],
        retain_graph=True,
        allow_unused=True,
    )
    return [torch.zeros_like(s) if g is None else g for s, g in zip(sources, found, strict=True)]


def outermost_branch(seen: Sequence[Tagged]) -> Tagged | None:
    """Return the only outermost tag of kind "branch", None if there is none, or several side by side."""
    branches = [tagged for tagged in seen if tagged.kind == "branch"]
    if not branches:
        return None
    least = min(tagged.path.count(".") for tagged in branches)
    outer = [tagged for tagged in branches if tagged.path.count(".") == least]
    return outer[0] if len(outer) == 1 and isinstance(outer[0].value, Tensor) else None
