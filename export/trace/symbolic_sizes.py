"""Dynamic dimensions: from vmap-style `dynamic=(None, {0: "batch"})` to named symbolic sizes, watched while tracing.

Two things may not happen silently: a symbol that ends up equal to a number or to another symbol (a *pin*), and a Python
branch that depends on a symbol (a *branch*). Both are noted with the source line.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.functions import Mod
from torch.utils._sympy.printers import PythonPrinter

from export.errors import ArgumentError, SpecialisedSizeError
from export.files.pytree_structure import Structure, leaf_names
from export.trace.recording import current_source
from export.trace.source_lines import is_user_file, user_line

__all__ = ["Axes", "Branch", "Sizes", "dynamic_axes", "flips", "sizes_of", "watched"]

_ORDERS = (sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge)

Axes = dict[int, str]
"""Which axes of one leaf are dynamic: {axis: name}."""


def dynamic_axes(
    dynamic: Sequence[Any] | None, structures: Sequence[Structure], roots: Sequence[str], leaves: Sequence[torch.Tensor]
) -> list[Axes]:
    """Spread the `dynamic` argument over the leaves.

    Args:
        dynamic: one entry per argument: None, {axis: name} for each of its leaves, or a pytree prefix of such.
        structures: the arguments' structures; their leaf numbers index `leaves`.
        roots: the arguments' names.
        leaves: all tensor leaves.

    Returns:
        for each leaf {axis: name}, axes counted from the front.

    Raises:
        ArgumentError: if the entries do not fit the arguments, listing every misfit.
    """
    axes: list[Axes] = [{} for _ in leaves]
    if dynamic is None:
        return axes
    if not isinstance(dynamic, (tuple, list)) or len(dynamic) != len(structures):
        raise ArgumentError(
            f"dynamic must be a tuple with one entry for each of the {len(structures)} arguments ({', '.join(roots)}), "
            f"such as (None, {{0: 'batch'}}), got {dynamic!r}"
        )
    problems: list[str] = []
    sizes: dict[str, tuple[int, str]] = {}

    def spread(entry: Any, structure: Structure, path: str) -> None:
        if entry is None:
            return
        if isinstance(entry, Mapping) and entry and all(isinstance(key, int) for key in entry):
            for position, name in leaf_names(structure, path):
                assign(entry, position, name)
            return
        (kind, content), *_ = structure.items()
        if isinstance(entry, Mapping) and kind in ("dict", "record"):
            if kind == "record":
                content = dict(zip(content["fields"], content["items"], strict=True))
            for key, value in entry.items():
                if key in content:
                    spread(value, content[key], f"{path}.{key}")
                else:
                    problems.append(f"{path}.{key}: named in dynamic, but the argument has no such entry")
        elif isinstance(entry, (tuple, list)) and kind in ("tuple", "list", "namedtuple"):
            items = content["items"] if kind == "namedtuple" else content
            if len(items) == len(entry):
                for i, (value, item) in enumerate(zip(entry, items, strict=True)):
                    spread(value, item, f"{path}.{i}")
            else:
                problems.append(f"{path}: dynamic has {len(entry)} entries, the argument {len(items)}")
        else:
            problems.append(f"{path}: dynamic must be None or {{axis: name}} here, got {entry!r}")

    def assign(entry: Mapping[int, str], position: int, path: str) -> None:
        shape = tuple(leaves[position].shape)
        for axis, name in entry.items():
            if not -len(shape) <= axis < len(shape):
                problems.append(f"{path}: axis {axis} does not exist in shape {shape}")
                continue
            if not isinstance(name, str) or not name.isidentifier():
                problems.append(f"{path}: the name of axis {axis} must be an identifier, got {name!r}")
                continue
            axis %= len(shape)
            first, where = sizes.setdefault(name, (shape[axis], f"{path} axis {axis}"))
            if first != shape[axis]:
                problems.append(f"{path}: axis {axis} ({name}) is {shape[axis]}, but {where} of that name is {first}")
            axes[position][axis] = name

    for entry, structure, root in zip(dynamic, structures, roots, strict=True):
        spread(entry, structure, root)
    if problems:
        raise ArgumentError("dynamic does not fit the arguments:" + "".join(f"\n  - {line}" for line in problems))
    return axes


def sizes_of(axes: Sequence[Axes], leaves: Sequence[torch.Tensor]) -> dict[str, int]:
    """Return {name: the size in the example leaves}."""
    return {name: leaf.shape[axis] for leaf, dims in zip(leaves, axes, strict=True) for axis, name in dims.items()}


@dataclass(frozen=True)
class Branch:
    """A Python branch on a size: the condition, its value and the source line."""

    condition: sympy.Basic
    taken: bool
    source: str


class Sizes(ShapeEnv):
    """A shape environment whose symbols have the user's names and which remembers which source line pinned one."""

    def __init__(self) -> None:
        super().__init__()
        self.named: dict[str, torch.SymInt] = {}
        self.symbols: dict[sympy.Symbol, str] = {}
        self.pins: dict[sympy.Symbol, str] = {}
        self.branches: list[Branch] = []
        self.read: dict[sympy.Basic, tuple[torch.Tensor, int]] = {}
        self.decide: Callable[[sympy.Basic], bool | None] | None = None

    def evaluate_expr(self, orig_expr: sympy.Basic, *args: Any, **kwargs: Any) -> sympy.Basic:
        """Evaluate an expression; conditions on tensors' values, which PyTorch refuses, by `decide` if there is one.

        `read` holds, for the symbol of each number read from a tensor, that tensor and its version then.
        """
        if self.decide is not None and not self.read.keys().isdisjoint(orig_expr.free_symbols):
            fallback = args[3] if len(args) > 3 else kwargs.get("fallback_value")
            decided = self.decide(orig_expr) if fallback is None else None
            if decided is not None:
                return sympy.true if decided else sympy.false
        return super().evaluate_expr(orig_expr, *args, **kwargs)

    def size(self, name: str, hint: int) -> torch.SymInt:
        """Return the symbolic size of that name, made with `hint` at its first use."""
        from torch._dynamo.source import ConstantSource  # deferred: it imports the whole compiler, 1 s

        if name not in self.named:
            source = ConstantSource(name)
            symbol = self.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
            self.named[name] = self.create_symintnode(symbol, hint=hint, source=source)  # type: ignore[assignment]
            self.symbols[symbol] = name
        return self.named[name]

    def _set_replacement(self, a: sympy.Symbol, tgt: sympy.Expr, msg: str) -> None:
        if a not in self.pins:
            self.pins[a] = current_source()
        super()._set_replacement(a, tgt, msg)

    def dimension(self, size: int | torch.SymInt) -> int | str:
        """Write a size for an ONNX shape: a number, a name, or a formula of names."""
        if isinstance(size, int):
            return size
        expression = self.simplify(size.node.expr)
        if expression.is_Integer:
            return int(expression)
        named = {symbol: sympy.Symbol(name) for symbol, name in self.symbols.items()}
        return str(expression.xreplace(named))

    def assumptions(self) -> list[Branch]:
        """Return what PyTorch itself took for granted about the named sizes, for reasons of its own.

        It looks whether axes are of size 1, or of one size, where it broadcasts or lays out memory. Inequalities of
        formulas are harmless, as they only keep it from such a shortcut; which convolution it would call depends on
        the batch being below 16, and is of no interest either.
        """
        named = self.symbols.keys()
        return [
            Branch(guard.expr, True, "")
            for guard in self.guards
            if guard.expr.free_symbols
            and guard.expr.free_symbols <= named
            and "in conv)" not in str(guard.sloc)
            and (
                (isinstance(guard.expr, sympy.Eq) and not any(isinstance(side, Mod) for side in guard.expr.args))
                or (
                    isinstance(guard.expr, _ORDERS)
                    and all(side.is_Symbol or side.is_Integer for side in guard.expr.args)
                )
            )
        ]

    def raise_if_pinned(self) -> None:
        """Raise if a named size is no longer free.

        Raises:
            SpecialisedSizeError: naming the size, what it was fixed to and the source line.
        """
        for symbol, name in self.symbols.items():
            fixed = self.replace(symbol)
            if fixed == symbol:
                continue
            others = [self.symbols[other] for other in fixed.free_symbols if other in self.symbols]
            if fixed.is_Integer:
                what = f"ended up constant ({fixed})"
            else:
                what = f"was required to equal {self._written(fixed)}"
            way = f"give {name!r} and {others[0]!r} one name" if others else f"leave {name!r} out of dynamic"
            raise SpecialisedSizeError(
                f"dynamic size {name!r} {what}. Something in the function works only for that size: a tensor of "
                "that size made or closed over, a loop over the axis, int(x.shape[i]) or len(x). "
                f"Use sizes as they are, or {way}.",
                name=name,
                source=self.pins.get(symbol, ""),
                equal=others[0] if others else "",
            )

    def _written(self, expression: sympy.Basic) -> str:
        return str(expression.xreplace({symbol: sympy.Symbol(name) for symbol, name in self.symbols.items()}))


@contextlib.contextmanager
def watched(sizes: Sizes) -> Iterator[None]:
    """Record every Python branch on a size that the function's own code takes (PyTorch's internal ones are not)."""
    original = torch.SymBool.__bool__

    def recorded(self: torch.SymBool) -> bool:
        taken = original(self)
        frame = sys._getframe(1)
        if frame.f_code.co_name == "__bool__" and frame.f_back is not None:
            frame = frame.f_back
        condition = self.node.expr
        on_sizes = condition.free_symbols and sizes.read.keys().isdisjoint(condition.free_symbols)
        if on_sizes and is_user_file(frame.f_code.co_filename):
            sizes.branches.append(Branch(condition, taken, user_line(frame)))
        return taken

    torch.SymBool.__bool__ = recorded  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.SymBool.__bool__ = original  # type: ignore[method-assign]


def flips(branch: Branch, sizes: Sizes, example: Mapping[str, int]) -> list[dict[str, int]]:
    """Return size assignments at which the branch would have gone the other way: the first and the last found."""
    found = []
    own = {symbol: name for symbol, name in sizes.symbols.items() if symbol in branch.condition.free_symbols}
    holds = _compiled(branch.condition)
    for name in own.values():
        near = {example[name] - 1, example[name] + 1, 2 * example[name]}
        for size in sorted({*range(1, 13), 16, 31, 32, 64, 100, 128, 255, *near} - {0, -1}):
            chosen = {**example, name: size}
            with contextlib.suppress(ZeroDivisionError):
                if holds({str(symbol): chosen[label] for symbol, label in own.items()}) != branch.taken:
                    found.append(chosen)
    return [found[0], found[-1]] if len(found) > 1 else found


def _compiled(condition: sympy.Basic) -> Callable[[dict[str, int]], bool]:
    """Return a condition as a function of its symbols' values; formulas of patches and windows are long."""
    code = compile(PythonPrinter().doprint(condition), "<size>", "eval")
    return lambda values: bool(eval(code, {"math": math, "torch": torch}, values))
