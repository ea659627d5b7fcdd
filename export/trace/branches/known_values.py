"""Values that no input decides: computed from constants and sizes alone, at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sympy
import torch
from torch._dispatch.python import no_python_dispatcher
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.fx.experimental.proxy_tensor import PythonKeyTracer, get_proxy_slot, py_sym_types
from torch.fx.node import map_arg
from torch.utils._python_dispatch import _disable_current_modes

from export.trace.purity import mutated_arguments
from export.trace.symbolic_sizes import Sizes

__all__ = ["known_value", "node_of"]

OTHER_SIZES = 1, 2, 3, 5, 7, 16, 33, 100, 257
"""Sizes that each dynamic size has in turn, the others being those of the example."""

_FAILURES = RuntimeError, ValueError, TypeError, LookupError, ArithmeticError


class _UnknownError(Exception):
    """A value depends on an input's."""


def node_of(x: torch.Tensor, tracer: PythonKeyTracer) -> torch.fx.Node | None:
    """Return what a tracer has recorded of a tensor, None if it has not."""
    slot: Any = get_proxy_slot(x, tracer, None)
    return None if slot is None else slot.proxy.node


def known_value(node: torch.fx.Node, tracer: PythonKeyTracer, sizes: Sizes) -> bool | None:
    """Return a recorded condition's value if no input's value decides it.

    Args:
        node: the condition, a boolean tensor without axes.
        tracer: what records it.
        sizes: the dynamic sizes.

    Returns:
        the value that it has at all sizes tried; None if it differs between sizes or depends on an input's values.
    """
    try:
        behind = _behind(node, tracer)
    except _UnknownError:
        return None
    example = {symbol: sympy.Integer(sizes.named[name].node.hint) for symbol, name in sizes.symbols.items()}
    tried = [example, *({**example, symbol: sympy.Integer(size)} for symbol in example for size in OTHER_SIZES)]
    found = set()
    with temporarily_clear_interpreter_stack(), _disable_current_modes(), no_python_dispatcher(), torch.no_grad():
        for chosen in tried:
            try:
                found.add(bool(_value(node, behind, tracer, chosen)))
            except (*_FAILURES, _UnknownError):
                return None
            if len(found) > 1:
                return None
    return found.pop()


def _behind(node: torch.fx.Node, tracer: PythonKeyTracer) -> list[torch.fx.Node]:
    """Return the nodes that a value is computed from, writes included, in order; sizes end the search.

    Raises:
        _UnknownError: if an input, a random number or a captured tensor that was written to is among them.
    """
    writes: dict[int | None, list[torch.fx.Node]] = {}
    for other in tracer.graph.nodes:
        for argument in mutated_arguments(other):
            writes.setdefault(_storage(argument), []).append(other)
    found: set[torch.fx.Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current in found or _expression(current) is not None:
            continue
        random = torch.Tag.nondeterministic_seeded in getattr(current.target, "tags", ())
        written = writes.get(_storage(current), [])
        if current.op not in ("call_function", "get_attr") or random or (current.op == "get_attr" and written):
            raise _UnknownError
        found.add(current)
        pending += [*current.all_input_nodes, *written]
    return [other for other in tracer.graph.nodes if other in found]


def _value(
    node: torch.fx.Node,
    behind: Iterable[torch.fx.Node],
    tracer: PythonKeyTracer,
    chosen: Mapping[sympy.Symbol, sympy.Integer],
) -> Any:
    """Compute a value at chosen sizes."""
    values: dict[torch.fx.Node, Any] = {}

    def value(argument: torch.fx.Node) -> Any:
        return values[argument] if argument in values else _number(_expression(argument), chosen)

    for current in behind:
        if current.op == "get_attr":
            values[current] = getattr(tracer.root, str(current.target))
        else:
            call: Callable[..., Any] = current.target  # type: ignore[assignment]
            values[current] = call(*map_arg(current.args, value), **map_arg(current.kwargs, value))
    return values[node]


def _expression(node: torch.fx.Node) -> sympy.Basic | None:
    """Return a recorded number as an expression of sizes, None for what is not a number."""
    found = node.meta.get("val")
    if isinstance(found, py_sym_types):
        return found.node.expr
    return sympy.sympify(found) if isinstance(found, int | float) else None


def _number(expression: sympy.Basic | None, chosen: Mapping[sympy.Symbol, sympy.Integer]) -> int | float | bool:
    if expression is None or not expression.free_symbols <= chosen.keys():
        raise _UnknownError
    found = expression.xreplace(chosen)
    if isinstance(found, sympy.logic.boolalg.BooleanAtom):
        return bool(found)
    return int(found) if found.is_Integer else float(found)


def _storage(node: torch.fx.Node) -> int | None:
    found = node.meta.get("val")
    return found.untyped_storage()._cdata if isinstance(found, torch.Tensor) else None
