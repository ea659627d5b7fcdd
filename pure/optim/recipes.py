"""What makes optimisers and schedules picklable: each remembers the call that made it, and is made anew by it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

from torch import Tensor

from pure_export_shared import raise_unless_pickles

__all__ = ["Recipe", "recorded_schedule"]

P = ParamSpec("P")


@dataclass(frozen=True)
class Recipe:
    """A call: a function that its module names, with its arguments."""

    make: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def reduced(self) -> tuple[Any, ...]:
        """Return what pickle keeps.

        Raises:
            ArgumentError: an argument does not pickle.
        """
        held = {f"argument {at}": value for at, value in enumerate(self.args)} | self.kwargs
        raise_unless_pickles(f"optim.{self.make.__name__}", **held)
        return _cooked, (self.make, self.args, self.kwargs)


def _cooked(make: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return make(*args, **kwargs)


class _Schedule:
    """A schedule that pickles.

    Args:
        function: what it computes.
        recipe: the call that made it.
    """

    def __init__(self, function: Callable[[Tensor], Tensor | float], recipe: Recipe) -> None:
        self.function, self.recipe = function, recipe

    def __call__(self, step: Tensor) -> Tensor | float:
        return self.function(step)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.recipe.reduced()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Schedule:
        return self  # it never changes

    def __repr__(self) -> str:
        given = [repr(value) for value in self.recipe.args]
        given += [f"{name}={value!r}" for name, value in self.recipe.kwargs.items()]
        return f"{self.recipe.make.__name__}({', '.join(given)})"


def recorded_schedule(make: Callable[P, Callable[[Tensor], Tensor | float]]) -> Callable[P, _Schedule]:
    """Return a function that makes schedules, so that they pickle."""

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> _Schedule:
        return _Schedule(make(*args, **kwargs), Recipe(made, args, kwargs))

    return made
