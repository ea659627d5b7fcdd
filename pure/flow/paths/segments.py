"""A pure function cut at its tags: what every tagged value is computed from, and linear maps from cut to cut.

While the function runs once, each tagged value is replaced by a new leaf of the same value. So the function falls into
segments, each from some cuts to one, and its derivative into theirs; what passes from segment to segment can be seen,
counted and changed on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, DtypeError, UnsupportedError
from pure.flow.paths.graded_tangents import GradedTangents, aligned
from pure.flow.shared.input_checks import purely
from pure.flow.shared.math_attention import composed_attention
from pure.tags import Tagged, substitute

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cut", "Rule", "Segments", "cut_at_tags", "detached", "pull", "push"]

KINDS = ("stream", "branch", "gate")

SECOND = (
    "forward mode needs the second derivative of every operation, which one lacks: split the gradient of a loss "
    "instead, by path_spectrum_of_loss"
)

RESCALE_EVERY = 4
"""Cuts between two looks at the size of the rows."""


@dataclass(frozen=True, eq=False)
class Cut:
    """One place where the function is cut.

    Attributes:
        path: where it was tagged; "" for the input and the output.
        kind: "input", "stream", "branch", "gate" or "output".
        value: what the segment in front of it computes.
        leaf: what the segments behind it start from.
        sources: the cuts that its segment starts from, by their position.
        adds: whether the segment does nothing but add them up.
    """

    path: str
    kind: str
    value: Tensor
    leaf: Tensor
    sources: tuple[int, ...]
    adds: bool = False

    @property
    def scope(self) -> str:
        """The path of the block that tagged it."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Segments:
    """The cuts in the order of computation: the input first, the output last; only those that the output depends on.

    Attributes:
        cuts: the cuts.
        users: for each cut, the cuts computed from it.
        seen: the kinds of all tags that the function made, used or not.
    """

    cuts: tuple[Cut, ...]
    users: tuple[tuple[int, ...], ...]
    seen: frozenset[str]

    @property
    def output(self) -> Tensor:
        """What the function returned."""
        return self.cuts[-1].value


class Rule(Protocol):
    """What happens to a stack on its way."""

    def edge(self, stack: GradedTangents, source: int, target: int) -> GradedTangents:
        """Return the stack as it passes from one cut into the segment of another."""

    def node(self, stack: GradedTangents, cut: int) -> GradedTangents:
        """Return the stack as it passes a cut."""


def cut_at_tags(fn: Callable[..., Any], what: str, x: Tensor, *constants: tree.Tree) -> Segments:
    """Run `fn(x, *constants)` once and return it in segments; memory is that of one gradient.

    Args:
        fn: a pure function that gives one floating-point tensor.
        what: the measurement, for messages.
        x: what to differentiate by.
        constants: trees of tensors that are not differentiated by.

    Raises:
        UnsupportedError: a function that is not pure, a tag inside an inner transform, an output without derivative.
        ArgumentError: an output that is no tensor.
    """
    first = detached(x).requires_grad_()
    found = [Cut("", "input", first, first, ())]
    position = {id(first): 0}
    kinds: set[str] = set()

    def cut(tagged: Tagged) -> Any:
        value = tagged.value
        kinds.add(tagged.kind)
        if not isinstance(value, Tensor):
            raise UnsupportedError(
                f"{what}: {tagged.path!r} was tagged as {tagged.kind} and is {type(value).__name__}: tag one tensor"
            )
        if torch._C._functorch.is_functorch_wrapped_tensor(value):
            raise UnsupportedError(f"{what}: {tagged.path!r} was tagged inside an inner transform: tag it outside")
        if not value.requires_grad:
            return value
        leaf = value.detach().requires_grad_()
        position[id(leaf)] = len(found)
        found.append(_cut(tagged.path, tagged.kind, value, leaf, position))
        return leaf

    given = tree.tree_map(_constant, constants)
    with torch.inference_mode(False), torch.enable_grad(), composed_attention(), purely(what, x=first, constants=given):
        out = substitute(fn, cut, KINDS)(first, *given)
    if not isinstance(out, Tensor):
        raise ArgumentError(f"{what} of a function that returns {type(out).__name__}: expected one tensor")
    if not out.is_floating_point():
        raise DtypeError(f"{what} of a function that returns {out.dtype}, which has no derivative")
    if not out.requires_grad:
        raise UnsupportedError(f"{what} of a function whose output does not depend on x: the derivative is zero")
    found.append(_cut("", "output", out, out, position))
    return _live(found, frozenset(kinds))


def detached(leaf: Tensor) -> Tensor:
    """Return the tensor without its history, one that autograd can save."""
    return leaf.clone() if leaf.is_inference() else leaf.detach()


def _constant(leaf: Any) -> Any:
    return detached(leaf) if isinstance(leaf, Tensor) else leaf


def _cut(path: str, kind: str, value: Tensor, leaf: Tensor, position: dict[int, int]) -> Cut:
    """Return the cut with its sources: the leaves that its value was computed from."""
    if id(value) in position:
        return Cut(path, kind, value, leaf, (position[id(value)],), adds=True)
    seen, waiting, found = set(), [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in position:
            found.add(position[id(variable)])
        waiting.extend(behind for behind, _ in node.next_functions)
    return Cut(path, kind, value, leaf, tuple(sorted(found)), adds=_adds(value))


def _adds(value: Tensor) -> bool:
    """Return whether a value is the plain sum of two different leaves of its own shape and dtype."""
    node = value.grad_fn
    if node is None or node.name() != "AddBackward0" or node._saved_alpha != 1:  # type: ignore[attr-defined]
        return False
    leaves = [getattr(behind, "variable", None) for behind, _ in node.next_functions]
    alike = all(leaf is not None and leaf.shape == value.shape and leaf.dtype == value.dtype for leaf in leaves)
    return alike and leaves[0] is not leaves[1]


def _live(found: Sequence[Cut], seen: frozenset[str]) -> Segments:
    """Return the cuts that the last one depends on."""
    live = {len(found) - 1}
    for index in reversed(range(len(found))):
        if index in live:
            live.update(found[index].sources)
    at = {old: new for new, old in enumerate(sorted(live))}
    cuts = tuple(replace(found[old], sources=tuple(at[s] for s in found[old].sources)) for old in at)
    users: list[list[int]] = [[] for _ in cuts]
    for index, cut in enumerate(cuts):
        for source in cut.sources:
            users[source].append(index)
    return Segments(cuts, tuple(map(tuple, users)), seen)


def push(parts: Segments, stack: GradedTangents, rule: Rule) -> GradedTangents:
    """Return what becomes of tangents of the input at the output: forward mode."""
    waiting = {0: stack}
    left = [len(users) for users in parts.users]
    for index, cut in enumerate(parts.cuts[1:], start=1):
        given = [rule.edge(waiting[source], source, index) for source in cut.sources]
        values, exponents = aligned(given)
        moved = sum(values[1:], values[0]) if cut.adds else _pushed(cut.value, _leaves(parts, cut), values)
        passed = rule.node(replace(given[0], values=moved, exponents=exponents), index)
        waiting[index] = passed if index % RESCALE_EVERY else passed.rescaled()
        for source in cut.sources:
            left[source] -= 1
            if not left[source]:
                del waiting[source]
    return waiting[len(parts.cuts) - 1]


def pull(parts: Segments, stack: GradedTangents, rule: Rule) -> GradedTangents:
    """Return what becomes of cotangents of the output at the input: reverse mode."""
    waiting = {len(parts.cuts) - 1: stack}
    for index in reversed(range(1, len(parts.cuts))):
        cut = parts.cuts[index]
        given = rule.node(waiting.pop(index), index)
        if not index % RESCALE_EVERY:
            given = given.rescaled()
        same = [given.values] * len(cut.sources)
        moved = same if cut.adds else _pulled(cut.value, _leaves(parts, cut), given.values)
        for source, values in zip(cut.sources, moved, strict=True):
            part = rule.edge(replace(given, values=values), source, index)
            waiting[source] = waiting[source].add(part) if source in waiting else part
    return waiting[0]


def _leaves(parts: Segments, cut: Cut) -> list[Tensor]:
    return [parts.cuts[source].leaf for source in cut.sources]


def _pulled(value: Tensor, leaves: Sequence[Tensor], stack: Tensor) -> Sequence[Tensor]:
    """Return each row of cotangents through one segment."""
    with _explained():
        moved = torch.autograd.grad(value, leaves, stack, retain_graph=True, is_grads_batched=True, allow_unused=True)
    return [_zeros(leaf, stack) if g is None else g for leaf, g in zip(leaves, moved, strict=True)]


def _pushed(value: Tensor, leaves: Sequence[Tensor], stacks: Sequence[Tensor]) -> Tensor:
    """Return each row of tangents through one segment: the transpose of the linear map that the backward pass is."""
    with _explained():
        probe = torch.arange(value.numel(), device=value.device).cos().to(value.dtype).reshape(value.shape)
        probe.requires_grad_()
        back = torch.autograd.grad(value, leaves, probe, create_graph=True, allow_unused=True)
        pairs = [(g, stack) for g, stack in zip(back, stacks, strict=True) if g is not None]
        linear = [(g, stack) for g, stack in pairs if g.requires_grad]
        moved = None
        if linear:
            outputs, given = zip(*linear, strict=True)
            (moved,) = torch.autograd.grad(outputs, probe, given, is_grads_batched=True, allow_unused=True)
    moved = _zeros(value, stacks[0]) if moved is None else moved
    _check_transposed(probe.detach(), moved, [(g.detach(), stack) for g, stack in pairs])
    return moved


def _check_transposed(probe: Tensor, moved: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Raise if ⟨probe, J t⟩ is not ⟨Jᵀ probe, t⟩: a backward of one's own may hide from its own derivative."""
    left, right = (moved * probe).sum(), sum((g * stack).sum() for g, stack in pairs)
    scale = moved.norm() * probe.norm() + sum(g.norm() * stack.norm() for g, stack in pairs)
    if bool((left - right).abs() > scale * torch.finfo(moved.dtype).eps ** 0.5):
        raise UnsupportedError(f"{SECOND}: the derivative of a backward pass is wrong here")


def _zeros(like: Tensor, stack: Tensor) -> Tensor:
    return like.new_zeros(len(stack), *like.shape)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise UnsupportedError(f"PyTorch cannot differentiate this function: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        if "not implemented" not in text and "differentiated twice" not in text and "once_differentiable" not in text:
            raise
        raise UnsupportedError(f"{SECOND} (torch says: {text})") from error
