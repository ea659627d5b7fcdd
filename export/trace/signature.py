"""A function's own name, the names of its arguments, and those of the tensors that it closes over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from export.errors import ArgumentError

__all__ = ["argument_names", "check_callable", "closed_over", "function_name"]


def argument_names(fn: Callable[..., Any], count: int) -> list[str]:
    """Return the names of the first `count` positional parameters; `arg3` where the signature names none."""
    names: list[str] = []
    target = fn.forward if isinstance(fn, torch.nn.Module) else fn
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    taken = names[:count]
    return taken + [f"arg{i}" for i in range(len(taken), count)]


def check_callable(fn: object) -> None:
    """Check that something is a function, a block or a module.

    Raises:
        ArgumentError: if it cannot be called.
    """
    if not callable(fn):
        raise ArgumentError(f"fn must be a pure function, a block or an nn.Module, got {fn!r:.100}")


def function_name(fn: Callable[..., Any]) -> str:
    """Return a short name for messages and for the graph."""
    name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or type(fn).__name__
    return str(name).replace("<locals>.", "").replace("<lambda>", "lambda")


def closed_over(fn: Callable[..., Any]) -> dict[int, str]:
    """Return {id(tensor): dotted name} for the tensors reachable from a function's closure.

    Looks into closure cells, defaults, `functools.partial` arguments, bound objects, modules and wrapped functions,
    so that a captured tensor becomes an initializer named after the variable it came from.
    """
    found: dict[int, str] = {}
    seen: set[int] = set()

    def visit(value: Any, path: str, depth: int) -> None:
        if depth > 8 or id(value) in seen:
            return
        if isinstance(value, torch.Tensor):
            found.setdefault(id(value), path or "value")
            return
        seen.add(id(value))
        for name, child in _children(value):
            visit(child, f"{path}.{name}" if path and name else path or name, depth + 1)

    visit(fn, "", 0)
    return found


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.nn.Module):
        yield from value.named_parameters()
        yield from value.named_buffers()
    elif isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((str(i), item) for i, item in enumerate(value))
    elif callable(value):
        code = getattr(value, "__code__", None)
        for name, cell in zip(
            getattr(code, "co_freevars", ()), getattr(value, "__closure__", None) or (), strict=False
        ):
            if _filled(cell):
                yield ("" if callable(cell.cell_contents) else name), cell.cell_contents
        for attribute in ("func", "args", "keywords", "__wrapped__", "__self__", "__defaults__"):
            if (inner := getattr(value, attribute, None)) is not None:
                yield "", inner
        for name in getattr(code, "co_names", ()):
            inner = getattr(value, "__globals__", {}).get(name)
            if isinstance(inner, (torch.Tensor, torch.nn.Module, dict)):
                yield name, inner


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that the enclosing function has not assigned yet
        return False
