"""Argument checks of measurements of a block: `f(block, params, x, state, extras, *, options)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pure.block import Block, specification
from pure.errors import ArgumentError
from pure.flow.shared.input_checks import check_outermost, finite_values
from pure.tree import flatten

__all__ = ["block_first", "of_input"]

P = ParamSpec("P")
R = TypeVar("R")


def block_first(measure: Callable[P, R]) -> Callable[P, R]:
    """Return the measurement with its arguments checked: each in its place, and no transform around the call.

    Raises:
        ArgumentError: an argument given twice or in another one's place; the message says where it belongs.
        UnsupportedError: called inside a torch.func transform.

    Example:
        >>> @block_first
        ... def measure(block, params, x, state={}, extras={}, *, loss=None, targets=()): ...
        >>> try:
        ...     measure(abs, {}, 1.0, {}, {}, targets=2.0)
        ... except ArgumentError as error:
        ...     print(error)
        measure targets is float: expected a tuple, which the loss takes after the output: targets=(y,)
    """
    signature = inspect.signature(measure)
    named = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    placed = [name for name in signature.parameters if name not in named]
    call = f"{measure.__name__}({', '.join(placed)}, *, {', '.join(named)})"

    @wraps(measure)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_outermost(measure.__name__)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise ArgumentError(f"{measure.__name__}: {error}: expected {call}") from None
        _check_places(measure.__name__, given, call)
        return measure(*args, **kwargs)

    return checked


def _check_places(what: str, given: Mapping[str, Any], call: str) -> None:
    for name in ("state", "extras"):
        value = given.get(name, {})
        if callable(value):
            raise ArgumentError(f"{what} {name} is a function: a loss is given by its name, loss=: expected {call}")
        if not isinstance(value, Mapping):
            other = "; what the loss takes after the output goes into targets=(y,)" if "targets" in call else ""
            raise ArgumentError(
                f"{what} {name} is {type(value).__name__}: expected a dict, {{}} for none{other}: expected {call}"
            )
    state, extras = given.get("state", {}), given.get("extras", {})
    if not isinstance(given.get("targets", ()), tuple | list):
        raise ArgumentError(
            f"{what} targets is {type(given['targets']).__name__}: expected a tuple, which the loss takes after the "
            "output: targets=(y,)"
        )
    if given.get("loss") is not None and not callable(given["loss"]):
        raise ArgumentError(f"{what} loss is {type(given['loss']).__name__}: expected a function (output, *targets)")
    block = given["block"]
    if not isinstance(block, Block) or not (state or extras):
        return
    own = _state_names(block)
    if own is None:
        return
    if unknown := [name for name in flatten(dict(state)) if name not in own]:
        raise ArgumentError(
            f"{what} state holds {', '.join(map(repr, unknown[:4]))}, which the state of {type(block).__name__} lacks: "
            f"what a block reads beside x goes into extras: expected {call}"
        )
    if own and set(flatten(dict(extras))) == own:
        raise ArgumentError(f"{what} extras holds the state of {type(block).__name__}: expected {call}")


def _state_names(block: Block) -> set[str] | None:
    """Return the dotted names of a block's state; None where its `init` does not run without memory."""
    try:
        return set(flatten(specification(block)[1]))
    except (RuntimeError, TypeError):  # a function of the user's, on the meta device
        return None


def of_input(
    what: str, block: Block, params: Any, state: Any, extras: Mapping[str, Any], training: bool, noise: Any
) -> Callable[[Any], Any]:
    """Return the block as a function of its input alone.

    Raises:
        ArgumentError: no block, or parameters or state that hold NaN.
    """
    if not isinstance(block, Block):
        raise ArgumentError(f"{what} of {type(block).__name__}: expected a Block: wrap a function in pure.Function")
    finite_values(params, "params")
    finite_values(state, "state")
    return lambda x: block.apply(params, x, state, extras, training, noise)[0]
