"""Running the children of a block: their part of each tree, their new state, and errors that say where they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pure.block import EMPTY, Block, Extras, Params, State, check_params
from pure.errors import ArgumentError, PureError, TreeError
from pure.tags import WATCHERS, scope
from pure.tree import leaves

__all__ = ["expected_keys", "extra_keys", "located", "refuse", "require_keys", "run_child"]


def run_child(
    block: Block,
    name: str,
    child: Block,
    params: Params,
    x: Any,
    state: State,
    extras: Extras,
    training: bool,
    noise: Any,
    new_state: State,
    apply: Callable[..., tuple[Any, State]] | None = None,
) -> Any:
    """Apply one child on its part of the trees, put its new state into `new_state`, and return its output.

    `apply` stands in for `child.apply`, with the same arguments.
    """
    call = child.apply if apply is None else apply
    part = noise.get(name) if noise else None
    args = (params.get(name, EMPTY), x, state.get(name, EMPTY), extras, training, part)
    try:
        if WATCHERS:
            with scope(name, x):
                y, child_state = call(*args)
        else:
            y, child_state = call(*args)
    except (PureError, KeyError) as error:
        raise located(block, name, params, state, error) from error.__cause__
    except (AttributeError, TypeError) as error:
        refuse(child, x, error)
        raise
    if child_state:
        new_state[name] = child_state
    return y


def located(block: Block, name: str, params: Params, state: State, error: Exception) -> Exception:
    """Add the child's name to an error, or replace a partial tree error by the whole list seen from `block`."""
    if isinstance(error, TreeError | KeyError):
        try:
            check_params(block, params, state)
        except TreeError as whole:
            return whole
    if isinstance(error, PureError):
        error.path = (name, *error.path)
    return error


def refuse(block: Block, x: Any, error: Exception) -> None:
    """Raise the typed error if the input holds no tensor at all; else the caller's error stands.

    Raises:
        ArgumentError: `x` is None, a string, or anything else without a tensor in it.
    """
    try:
        given = any(isinstance(leaf, Tensor) for leaf in leaves(x))
    except TreeError:
        given = False
    if not given:
        kind = type(x).__name__
        raise ArgumentError(f"{type(block).__name__}: input is {kind}, expected a tensor, batch first") from error


def expected_keys(children: Mapping[str, Block]) -> int | None:
    """Return how many children bring parameters, or None if one of them does not say."""
    known = [child.has_params for child in children.values()]
    return None if None in known else sum(map(bool, known))


def require_keys(block: Block, keys: int | None, params: Params) -> None:
    """Raise if a params dict has another number of keys than the children bring; None is not known."""
    if keys is not None and len(params) != keys:
        raise extra_keys(block, params)


def extra_keys(block: Block, params: Params) -> TreeError:
    """Return the error for a params dict that has the wrong number of keys."""
    try:
        check_params(block, params)
    except TreeError as error:
        return error
    return TreeError(f"params of {block}: unexpected keys {list(params)}")
