"""Gradient transformations: pairs of pure functions that compose, and what runs them in a chain."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError
from pure.optim.recipes import Recipe
from pure_export_shared import raise_unless_pickles

__all__ = ["GradientTransformation", "Tree", "apply_updates", "as_transformation", "chain", "recorded", "stateless"]

Tree = Any
P = ParamSpec("P")


class Pair(Protocol):
    """Anything with `init` and `update`, as those of torchopt have."""

    @property
    def init(self) -> Callable[..., Any]:
        """Return the function from parameters to a state."""

    @property
    def update(self) -> Callable[..., Any]:
        """Return the function from updates and a state to new ones."""


@dataclass(frozen=True)
class GradientTransformation:
    """The two pure functions of an optimiser, or of one link of a chain.

    Attributes:
        init: params → state.
        update: (gradients, state, params) → (updates, new state); `apply_updates` adds the updates to the parameters.

    Example:
        >>> descent = stateless(lambda updates, params: tree.tree_map(torch.neg, updates))
        >>> descent.step({"w": torch.ones(2)}, {}, {"w": torch.ones(2)})[0]
        {'w': tensor([0., 0.])}
    """

    init: Callable[[Tree], Any]
    update: Callable[[Tree, Any, Tree], tuple[Tree, Any]]
    _recipe: Recipe | None = field(default=None, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle keeps: the call that made it.

        Raises:
            ArgumentError: it holds a function that does not pickle.
        """
        if self._recipe is not None:
            return self._recipe.reduced()
        raise_unless_pickles("GradientTransformation", init=self.init, update=self.update)
        return GradientTransformation, (self.init, self.update)

    def __deepcopy__(self, memo: dict[int, Any]) -> GradientTransformation:
        return self  # it never changes

    def step(self, grads: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        """Return the parameters after one step, and the new state: `update`, then `apply_updates`.

        Args:
            grads: gradients with respect to `params`.
            state: what `init`, or the step before, returned.
            params: the parameters.
        """
        updates, state = self.update(grads, state, params)
        return apply_updates(params, updates), state


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Return params + updates, each leaf in the parameter's dtype.

    Args:
        params: a tree of tensors.
        updates: a tree of the same structure; a leaf may have a wider dtype.
    """
    return tree.tree_map(lambda p, u: (p + u).to(p.dtype), params, updates)


def recorded(make: Callable[P, GradientTransformation]) -> Callable[P, GradientTransformation]:
    """Return a function that makes transformations, so that they pickle: by the call that made them."""

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        pair = make(*args, **kwargs)
        found = GradientTransformation(pair.init, pair.update)
        object.__setattr__(found, "_recipe", Recipe(made, args, kwargs))
        return found

    return made


@recorded
def stateless(update: Callable[[Tree, Tree], Tree]) -> GradientTransformation:
    """Return a transformation without a state from a function (updates, params) → updates."""
    return GradientTransformation(lambda params: {}, lambda updates, state, params: (update(updates, params), state))


@recorded
def chain(*transformations: Pair) -> GradientTransformation:
    """Return transformations applied one after another, the first to the gradients.

    Args:
        transformations: of this module, or pairs of `init` and `update` as torchopt makes them.

    Returns:
        A `GradientTransformation` whose state is a dict of theirs by position, "0", "1", …; links without a state have
        no entry.

    Raises:
        ArgumentError: something that has no `init` and `update`; in `update`, a state that `init` did not make.

    Example:
        >>> from pure import optim
        >>> optimizer = optim.chain(optim.clip(1.0), optim.scale(-0.1))
        >>> optimizer.step({"w": torch.tensor([0.5, 7.0])}, {}, {"w": torch.ones(2)})[0]
        {'w': tensor([0.9500, 0.9000])}
    """
    links = [as_transformation(link) for link in transformations]

    def init(params: Tree) -> dict[str, Any]:
        states = {str(position): link.init(params) for position, link in enumerate(links)}
        return {position: state for position, state in states.items() if not _is_empty(state)}

    def update(updates: Tree, state: dict[str, Any], params: Tree) -> tuple[Tree, dict[str, Any]]:
        new_state = {}
        for position, link in enumerate(links):
            key = str(position)
            before = state[key] if key in state else link.init(params)
            if key not in state and not _is_empty(before):
                raise ArgumentError(f"the state lacks {key!r} (it has {list(state)}): give what init(params) returned")
            updates, after = link.update(updates, before, params)
            if key in state:
                new_state[key] = after
        return updates, new_state

    return GradientTransformation(init, update)


def as_transformation(given: Pair) -> GradientTransformation:
    """Return any pair of `init` and `update` as a `GradientTransformation`.

    torchopt's `update` takes the parameters by keyword and writes into the gradients unless told not to; so it is told.

    Raises:
        ArgumentError: it has no `init` and `update`.
    """
    return given if isinstance(given, GradientTransformation) else _adapted(given)


@recorded
def _adapted(given: Pair) -> GradientTransformation:
    init, theirs = getattr(given, "init", None), getattr(given, "update", None)
    if not (callable(init) and callable(theirs)):
        expected = "a GradientTransformation, or an object with the functions init and update"
        raise ArgumentError(f"{given!r} is no gradient transformation: expected {expected}, such as optim.clip(1.0)")
    inplace = {"inplace": False} if "inplace" in inspect.signature(theirs).parameters else {}

    def update(updates: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        found: tuple[Tree, Any] = theirs(updates, state, params=params, **inplace)
        return found

    return GradientTransformation(init, update)


def first_step(params: Tree) -> Tensor:
    """Return the count 0 as a 0-d int64 tensor on the parameters' device."""
    flat = tree.leaves(params)
    return torch.zeros((), dtype=torch.int64, device=flat[0].device if flat else None)


def zeros_like(params: Tree) -> Tree:
    """Return zeros in the shapes and dtypes of the parameters."""
    return tree.tree_map(torch.zeros_like, params)


def raise_unless_nonnegative(**given: float | Tensor) -> None:
    """Raise `ArgumentError` for a negative number; tensors are left to the caller."""
    for name, value in given.items():
        if not isinstance(value, Tensor) and not value >= 0:
            raise ArgumentError(f"{name}={value}: expected a number of at least 0")


def raise_unless_decay(**given: float | Tensor) -> None:
    """Raise `ArgumentError` for a decay outside [0, 1); tensors are left to the caller."""
    for name, value in given.items():
        if not isinstance(value, Tensor) and not 0 <= value < 1:
            raise ArgumentError(f"{name}={value}: expected a number in [0, 1)")


def _is_empty(state: Any) -> bool:
    return isinstance(state, dict) and not state
