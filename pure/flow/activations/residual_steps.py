"""Residual steps by depth: the input, the tagged branches and the output of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import UnsupportedError
from pure.tags import INPUT, Tagged

__all__ = ["Step", "missing", "plain", "steps_of"]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the stream.

    Attributes:
        path: of the stream's tag, such as "layers.3.stream".
        block: the path of the block that tagged it, such as "layers.3"; "" is the outermost one.
        x: what went into the step, None if that was no floating-point tensor.
        branches: what was tagged "branch" since, in the same block or inside it.
        y: the stream as tagged.
    """

    path: str
    block: str
    x: Tensor | None
    branches: tuple[Tagged, ...]
    y: Tensor


def steps_of(x: Any, seen: Sequence[Tagged]) -> list[Step]:
    """Return the steps, in the order in which their streams were tagged.

    What goes into a step is what its block was given; where a block tags its stream several times, the one before. A
    value that is only passed on by a block that names it, as `pure.Tag` does, comes from the last stream before.

    Args:
        x: what the whole function was given.
        seen: as `observe(fn, ("stream", "branch"), inputs=True)` lists it.

    Raises:
        UnsupportedError: a value that was tagged inside a transform.
    """
    current: dict[str, Any] = {"": x}
    waiting: list[Tagged] = []
    last = x
    steps: list[Step] = []
    for tagged in seen:
        if tagged.kind == INPUT:
            current[tagged.path.partition("#")[0]] = tagged.value
        elif tagged.kind == "branch":
            waiting.append(tagged._replace(value=plain(tagged)))
        elif tagged.kind == "stream":
            block, y = tagged.path.rpartition(".")[0], plain(tagged)
            own = [branch for branch in waiting if _within(branch.path, block)]
            waiting = [branch for branch in waiting if not _within(branch.path, block)]
            before = last if current.get(block, last) is y else current.get(block, last)
            steps.append(Step(tagged.path, block, _like(before, y), tuple(own), y))
            last = current[block] = y
    return steps


def plain(tagged: Tagged) -> Tensor:
    """Return a tagged value that is an ordinary tensor.

    Raises:
        UnsupportedError: it is none, or was tagged inside an inner transform, where it stands for several values.
    """
    value = tagged.value
    if not isinstance(value, Tensor):
        raise UnsupportedError(
            f"{tagged.path!r} was tagged as {tagged.kind} and is {type(value).__name__}: tag one tensor"
        )
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        raise UnsupportedError(f"{tagged.path!r} was tagged inside an inner torch.func transform: tag it outside")
    return value


def missing(what: str, kind: str, seen: Sequence[Tagged]) -> UnsupportedError:
    """Return the error for a network without the tag that a measurement needs."""
    found = sorted({tagged.kind for tagged in seen if tagged.kind != INPUT})
    advice = {
        "stream": 'tag what the skip carries, as in `return pure.tag(x + f, "stream")`, or put a pure.Tag() behind it',
        "branch": 'tag what is added, as in `x + pure.tag(f, "branch", kind="branch")`',
        "gate": 'tag the factor in 0…1, as in `t = pure.tag(torch.sigmoid(logit), "gate", kind="gate")`',
    }[kind]
    return UnsupportedError(
        f"{what} of a function that tags no {kind} (found: {', '.join(found) or 'no tags at all'}): {advice}"
    )


def _within(path: str, block: str) -> bool:
    return not block or path.startswith(block + ".")


def _like(value: Any, y: Tensor) -> Tensor | None:
    """Return the tensor of an input that goes on as `y`: the first of its shape, else the first of all."""
    tensors = [leaf for leaf in tree.leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return next((leaf for leaf in tensors if leaf.shape == y.shape), tensors[0] if tensors else None)
