"""`scan`: repeat one step with a carried value; a Python loop, exported as one loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pure.errors import ArgumentError, CarryError, ShapeError
from pure.tree import Tree, names, tree_flatten, tree_unflatten
from pure.tree.pytree import leaves_like

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Step", "carried", "flat_xs", "loops", "once", "returned", "scan", "taken_by", "unrolled"]

Step = Callable[[Any, Any], tuple[Any, Any]]
"""One step: (carry, x) → (carry, y)."""

Loop = Callable[[Step, Any, Any, "int | None"], tuple[Any, Any]]

LOOPS: dict[int, Loop] = {}
"""Thread ident → what that thread's scans are handed to. Empty unless something records a graph."""


def scan(step: Step, carry: Any, xs: Any, length: int | None = None) -> tuple[Any, Any]:
    """Run a step along the first axis of `xs`, carrying a value from each step to the next.

    The same as `for x in xs: carry, y = step(carry, x)` with the `y` stacked. Run eagerly it is that loop; an exported
    file holds the step once, whatever the length, and so does its gradient.

    Args:
        step: a pure function `(carry, x) -> (carry, y)`. The carry it returns has the names, shapes and dtypes of the
            one it was given, in any order of keys; `y` is a pytree of tensors, or None. Tensors that it closes over are
            differentiated like any other.
        carry: the first carry, a pytree of tensors.
        xs: a pytree of tensors, each stacked along axis 0; None with a `length`.
        length: how many steps; needed only where `xs` holds no tensor.

    Returns:
        The last carry, with its keys in the order of `carry`'s, and the `y` of all steps stacked along a new axis 0,
        with its keys in the order of the first step's.

    Raises:
        ArgumentError: something other than tensors, no step at all, or a step that does not return two values.
        ShapeError: tensors in `xs` of different lengths.
        CarryError: a step that changes the names, a shape or a dtype of its carry, or the names of its `y`.

    Example:
        >>> scan(lambda total, x: (total + x, total), torch.tensor(0), torch.tensor([1, 2, 3]))
        (tensor(6), tensor([0, 1, 3]))
    """
    loop = LOOPS.get(get_ident()) if LOOPS else None
    return (loop or unrolled)(step, carry, xs, length)


def unrolled(step: Step, carry: Any, xs: Any, length: int | None = None) -> tuple[Any, Any]:
    """Run a scan as the loop in Python that it means."""
    flat, whole, steps = flat_xs(xs, length)
    start, spec = tree_flatten(carry)
    check_tensors(start, "carry")
    rows = zip(*(leaf.unbind(0) for leaf in flat), strict=True) if flat else ((),) * steps
    columns: list[list[Any]] = []
    first: Any = None
    for row in rows:
        after, y = returned(step(carry, whole(list(row))))
        carry = tree_unflatten(carried(carry, after), spec)
        first = first if columns else y
        leaves = leaves_like(y, first)
        if leaves is None:
            raise CarryError(f"scan: a step returned y of structure {tree_flatten(y)[1]}, expected the first step's")
        columns.append(leaves)
    return carry, tree_unflatten([_stacked(column) for column in zip(*columns, strict=True)], tree_flatten(first)[1])


def once(step: Step, carry: Any, xs: Any, length: int | None = None) -> tuple[Any, Any]:
    """Run the first step only: results have the right shapes, but not the values."""
    flat, whole, steps = flat_xs(xs, length)
    after, y = returned(step(carry, whole([leaf[0] for leaf in flat])))
    leaves, spec = tree_flatten(y)
    whole_y = tree_unflatten([x if x is None else x.expand(steps, *x.shape) for x in leaves], spec)
    return tree_unflatten(carried(carry, after), tree_flatten(carry)[1]), whole_y


def _stacked(column: tuple[Any, ...]) -> Any:
    """Stack one leaf of `y` over the steps; None stays None."""
    if column[0] is None:
        return None
    check_tensors(column[:1], "y")
    return torch.stack(column)


def flat_xs(xs: Any, length: int | None) -> tuple[list[Tensor], Callable[[list[Tensor]], Any], int]:
    """Return the leaves of `xs`, a function that rebuilds one step's x, and the step count.

    Raises:
        ArgumentError: no tensor and no length, a leaf that is no tensor, or no step.
        ShapeError: leaves of different lengths, or of another than `length`.
    """
    flat, spec = ([], None) if xs is None else tree_flatten(xs)
    check_tensors(flat, "xs")
    if any(leaf.ndim == 0 for leaf in flat):
        raise ShapeError("scan: xs holds a tensor without axes, expected each stacked along axis 0")
    sizes = {name: leaf.shape[0] for name, leaf in zip(names(xs) or ["xs"], flat, strict=False)}
    steps = next(iter(sizes.values()), length)
    if steps is None:
        raise ArgumentError("scan: xs holds no tensor: give length, the number of steps")
    if any(size != steps for size in sizes.values()):
        raise ShapeError(f"scan: xs of different lengths {sizes}, expected one length along axis 0")
    if length is not None and length != steps:
        raise ShapeError(f"scan: length={length}, but xs is {steps} long: leave length out, or cut xs")
    if isinstance(steps, int) and steps < 1:
        raise ArgumentError("scan: no step to run: expected a length of at least 1")
    return flat, lambda leaves: None if spec is None else tree_unflatten(leaves, spec), steps


def check_tensors(leaves: Any, what: str) -> None:
    """Raise if a leaf is no tensor."""
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise ArgumentError(f"scan: {what} holds {type(leaf).__name__} {leaf!r}: expected tensors only")


def returned(result: Any) -> tuple[Any, Any]:
    """Return what a step gave, if that is (carry, y).

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        given = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise ArgumentError(f"scan: the step returned {given}, expected (carry, y); y may be None")
    return result


def carried(given: Tree, got: Tree) -> list[Tensor]:
    """Return the leaves of the returned carry in the order of the given one's.

    Raises:
        ArgumentError: it holds something other than tensors.
        CarryError: it differs in names, shape or dtype.
    """
    leaves = leaves_like(got, given)
    before, spec = tree_flatten(given)
    if leaves is None:
        raise CarryError(f"scan: the step returned a carry of structure {tree_flatten(got)[1]}, expected {spec}")
    check_tensors(leaves, "carry")
    for old, new in zip(before, leaves, strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            raise CarryError(
                f"scan: the step turned a carry of {old.dtype} {tuple(old.shape)} into {new.dtype} "
                f"{tuple(new.shape)}: expected the same; cast it, or start with that shape and dtype"
            )
    return leaves


def loops() -> bool:
    """Return whether something takes the scans of this thread as a whole."""
    return bool(LOOPS) and get_ident() in LOOPS


@contextmanager
def taken_by(loop: Loop) -> Iterator[None]:
    """Hand this thread's scans to `loop`, which gets the arguments of `scan`."""
    thread = get_ident()
    outer = LOOPS.get(thread)
    LOOPS[thread] = loop
    try:
        yield
    finally:
        if outer is None:
            del LOOPS[thread]
        else:
            LOOPS[thread] = outer
