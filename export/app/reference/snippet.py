"""How a row is called, as Python that runs: imports, the block, its parameters, one call."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from typing import Any, Final

import torch

from pure.block import Block
from pure.catalogue import Case
from pure.errors import PureError

__all__ = ["snippet"]

WIDTH: Final = 92
HOMES: Final = ("pure", "pure.layers", "pure.skips", "pure.compose", "pure.nets", "pure.initializers")
"""Where a name is looked for, in this order, before its own module."""


def snippet(case: Case) -> str:
    """Return a short program that makes the row's block, draws its parameters and calls it."""
    block = case.make()
    found = _made(case, block)
    imports, expression = found or (["from pure import catalogue"], f'catalogue.case("{case.name}").make()')
    has_state = bool(block.init(torch.Generator(), device="meta")[1])
    extras = _extras(case)
    given = ["params", "x"]
    if has_state or extras:
        given.append("state")
    if extras:
        given.append("extras")
    lines = ["import torch", *imports, "", f"block = {expression}"]
    lines += ["params, state = block.init(torch.Generator().manual_seed(0))", f"x = {_input(case)}"]
    lines += [f"extras = {extras}"] if extras else []
    lines += [f"y = block({', '.join(given)})"]
    return "\n".join(lines)


def _input(case: Case) -> str:
    shape = ", ".join(map(str, case.x_shape))
    if case.tokens is None:
        return f"torch.randn({shape})"
    return f"torch.randint({case.tokens}, ({shape}{',' if len(case.x_shape) == 1 else ''}))"


def _extras(case: Case) -> str:
    parts = [] if case.control is None else [f'"control": {case.control!r}']
    parts += [f'"{name}": torch.randn({", ".join(map(str, shape))})' for name, shape in case.extras]
    return f"{{{', '.join(parts)}}}" if parts else ""


def _made(case: Case, block: Block) -> tuple[list[str], str] | None:
    """Return the imports and the expression of the row's call, or None if that is no Python which makes the block."""
    try:
        parsed = ast.parse(case.call(), mode="eval")
        imports = _imports(parsed, block)
        if imports is None:
            return None
        names: dict[str, Any] = {}
        exec("\n".join(imports), names)
        made = eval(compile(parsed, case.name, "eval"), names)
        if made != block or made.children() != block.children():
            return None
    except (SyntaxError, NameError, AttributeError, TypeError, ValueError, PureError):
        return None
    return imports, layout(parsed.body)


def _imports(parsed: ast.Expression, block: Block) -> list[str] | None:
    """Return the import lines for the names in an expression, or None if one of them has no public home."""
    homes: dict[str, list[str]] = {}
    for name in sorted({node.id for node in ast.walk(parsed) if isinstance(node, ast.Name)} - {"torch"}):
        home = next((home for home in HOMES if hasattr(importlib.import_module(home), name)), None)
        if home is None:
            home = next((type(part).__module__ for part in _parts(block) if type(part).__name__ == name), None)
        if home is None:
            return None
        homes.setdefault(home, []).append(name)
    return [f"from {home} import {', '.join(names)}" for home, names in sorted(homes.items())]


def _parts(value: Any) -> list[Any]:
    """Return a block and everything with fields that it or its children hold, such as rules for initial values."""
    inside = [getattr(value, field.name) for field in dataclasses.fields(value) if field.init]
    inside += value.children().values() if isinstance(value, Block) else []
    flat = [entry for held in inside for entry in (held if isinstance(held, tuple) else (held,))]
    return [value, *(part for entry in flat if dataclasses.is_dataclass(entry) for part in _parts(entry))]


def layout(node: ast.expr, indent: int = 0, used: int = 8) -> str:
    """Return an expression on as many lines as it needs.

    >>> print(layout(ast.parse(f"f({'a' * 50}, {'b' * 50})", mode="eval").body))
    f(
        aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,
        bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb,
    )
    """
    flat = ast.unparse(node)
    if indent + used + len(flat) <= WIDTH:
        return flat
    inner = " " * (indent + 4)
    if isinstance(node, ast.Call) and (node.args or node.keywords):
        parts = [layout(arg, indent + 4, 1) for arg in node.args]
        parts += [f"{word.arg}={layout(word.value, indent + 4, len(word.arg or '') + 2)}" for word in node.keywords]
        body = "".join(f"{inner}{part},\n" for part in parts)
        return f"{ast.unparse(node.func)}(\n{body}{' ' * indent})"
    if isinstance(node, ast.Tuple | ast.List) and node.elts:
        body = "".join(f"{inner}{layout(part, indent + 4, 1)},\n" for part in node.elts)
        opening, closing = ("(", ")") if isinstance(node, ast.Tuple) else ("[", "]")
        return f"{opening}\n{body}{' ' * indent}{closing}"
    return flat
