"""Children of a block: which fields hold them, and running one on its part of every tree."""

from __future__ import annotations

import builtins
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any

from torch import Tensor

from pure.block import EMPTY, Block, Extras, Params, Reading, Shape, State, check_params, no_block
from pure.errors import ArgumentError, PureError, TreeError, nearest
from pure.tags import WATCHERS, scope
from pure.tree import leaves

__all__ = ["Blocks", "Runner", "as_child", "check_blocks", "frozen", "located", "raise_unless_tensor"]


@dataclass(frozen=True, repr=False)
class Blocks(Block):
    """Several blocks under one name: a hashable dict of blocks, like `torch.nn.ModuleDict`.

    Example:
        >>> from pure import Linear
        >>> heads = Blocks((("a", Linear(2, 2)), ("b", Linear(2, 2))))
        >>> list(heads), heads["a"]
        (['a', 'b'], Linear(in_features=2, out_features=2))
    """

    pairs: tuple[tuple[str, Block], ...]

    def children(self) -> dict[str, Block]:
        """Return the blocks by name, or by position."""
        return dict(self.pairs)

    def __getitem__(self, name: str) -> Block:
        return dict(self.pairs)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def keys(self) -> list[str]:
        """Return the names."""
        return list(self)

    def values(self) -> list[Block]:
        """Return the blocks."""
        return [block for _, block in self.pairs]

    def items(self) -> list[tuple[str, Block]]:
        """Return the names and the blocks."""
        return list(self.pairs)


def frozen(value: Any) -> Any:
    """Return a list of blocks as a tuple, a dict of blocks as `Blocks`, others unchanged."""
    if isinstance(value, list | tuple) and value and type(value) in (list, tuple):
        parts = tuple(map(frozen, value))
        return parts if as_child(parts) else value
    if isinstance(value, dict) and value:
        pairs = tuple((name, frozen(part)) for name, part in value.items())
        return Blocks(pairs) if all(as_child(part) for _, part in pairs) else value
    return value


def as_child(value: Any) -> Block | None:
    """Return a block as it is and a tuple of blocks as `Blocks`; None for anything else."""
    if type(value) is tuple and value:
        parts = [as_child(part) for part in value]
        return None if None in parts else Blocks(tuple((str(at), part) for at, part in enumerate(parts) if part))
    return value if isinstance(value, Block) else None


class _Names(dict[str, Any]):
    """What the names in an annotation stand for; an unknown one is Any."""

    def __missing__(self, name: str) -> Any:
        return sys.modules.get(name) or getattr(builtins, name, Any)


@lru_cache(maxsize=1024)
def _annotations(bases: tuple[type, ...]) -> dict[str, Any]:
    """Return the resolved annotation of every field of these classes."""
    found: dict[str, Any] = {}
    for base in reversed(bases):
        names = _Names(vars(typing) | {"Block": Block} | vars(sys.modules.get(base.__module__, typing)))
        for name, hint in vars(base).get("__annotations__", {}).items():
            holder = types.SimpleNamespace(__annotations__={name: hint})
            try:
                found |= typing.get_type_hints(holder, {}, names, include_extras=True)
            except (AttributeError, NameError, SyntaxError, TypeError):  # of nothing that is known here: of no block
                found[name] = Any
    return found


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is what an annotation about blocks says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _fits(value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arm) for arm in inner)
    if origin is None and isinstance(hint, type):
        return isinstance(value, Block if issubclass(hint, Block) else (int, float) if hint is float else hint)
    if not _holds_block(hint):
        return True
    if isinstance(value, dict | Blocks):
        return all(_fits(part, inner[-1]) for part in value.values())
    if not isinstance(value, list | tuple):
        return False
    if origin is tuple and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return all(_fits(part, inner[0]) for part in value)


def _holds_block(hint: Any) -> bool:
    """Return whether an annotation is about blocks."""
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return issubclass(hint, Block)
    return any(map(_holds_block, typing.get_args(hint)))


def check_blocks(block: Block) -> None:
    """Raise if a field that is annotated as a block, or as several, holds something else.

    Raises:
        ArgumentError: it does.
    """
    hints = _annotations(type(block).__mro__)
    for entry in fields(block):
        hint = hints.get(entry.name, Any) if entry.init else Any
        if _holds_block(hint) and not _fits(value := getattr(block, entry.name), hint):
            raise no_block(f"{type(block).__name__} {entry.name}={value!r}", value)


class Runner:
    """Runs a block's children, each on its part of the trees, and collects new states.

    Attributes:
        new_state: the new states of the children that ran.
        keeps_state: whether they are kept; inside `torch.cond` they cannot be.
        ran: the names of the children that ran; noted while it is checked which extras are read.
    """

    def __init__(
        self,
        block: Block,
        children: Mapping[str, Block],
        params: Params,
        state: State,
        extras: Extras,
        training: bool,
        noise: Any,
        prefix: str = "",
    ) -> None:
        self.block, self.children, self.prefix = block, children, prefix
        self.params, self.state, self.extras, self.training, self.noise = params, state, extras, training, noise
        self.new_state: State = {}
        self.keeps_state = True
        self.ran: set[str] = set()

    def __call__(self, name: str, x: Any, shape: Shape | None = None) -> Any:
        """Apply one child and return its output; a shortcut must produce `shape`."""
        child = self.children.get(name)
        if child is None or isinstance(child, Blocks):
            return self._member(name, x, shape)
        params, state, extras = self.params.get(name, EMPTY), self.state.get(name, EMPTY), self.extras
        noise = self.noise.get(name) if self.noise else None
        try:
            if WATCHERS:
                with scope(self.prefix + name, x):
                    y, new_state = fitted(child, shape)(params, x, state, extras, self.training, noise)
            elif shape is None or not hasattr(child, "fit"):
                y, new_state = child.apply(params, x, state, extras, self.training, noise)
            else:
                y, new_state = child.fit(params, x, shape, state, extras, self.training, noise)
        except (PureError, KeyError) as error:
            raise located(self.block, name, self.params, self.state, error) from error.__cause__
        except (AttributeError, TypeError) as error:
            raise_unless_tensor(child, x, error)
            raise
        if new_state and self.keeps_state:
            self.new_state[name] = new_state
        if type(extras) is Reading and not extras.complete:
            self.ran.add(name)
        return y

    def _member(self, name: str, x: Any, shape: Shape | None) -> Any:
        """Run one of the blocks that stand under one name: "branches.0"."""
        first, _, rest = name.partition(".")
        group = self.children.get(first)
        if not isinstance(group, Blocks):
            given = f"{type(self.block).__name__}: run({name!r}, …) names no child{nearest(name, self.children)}"
            raise ArgumentError(f"{given}: expected one of {', '.join(self.children)}")
        if not rest:
            names = ", ".join(f"{first}.{key}" for key in group)
            raise ArgumentError(f"{type(self.block).__name__}: {first!r} holds several blocks: run one of {names}")
        params, state = self.params.get(first, EMPTY), self.state.get(first, EMPTY)
        if not params.keys() <= set(group):
            raise located(self.block, first, self.params, self.state, TreeError(f"{first}: unexpected keys"))
        part = self.noise.get(first) if self.noise else None
        prefix = f"{self.prefix}{first}."
        inner = Runner(group, group.children(), params, state, self.extras, self.training, part, prefix)
        inner.new_state, inner.keeps_state = self.new_state.get(first, {}), self.keeps_state
        try:
            y = inner(rest, x, shape)
        except PureError as error:
            raise located(self.block, first, self.params, self.state, error) from error.__cause__
        if inner.new_state:
            self.new_state[first] = inner.new_state
        if inner.ran:
            self.ran.add(name)
        return y

    def ran_all(self) -> bool:
        """Return whether every child ran, each of several under one name too."""
        return all(
            name in self.ran or (isinstance(child, Blocks) and all(f"{name}.{key}" in self.ran for key in child))
            for name, child in self.children.items()
        )


def fitted(child: Block, shape: Shape | None) -> Any:
    """Return the child's `fit` for a `shape`, called as `apply` is; its `apply` without either."""
    fit = getattr(child, "fit", None)
    return child.apply if fit is None or shape is None else lambda params, x, *rest: fit(params, x, shape, *rest)


def located(block: Block, name: str, params: Params, state: State, error: Exception) -> Exception:
    """Add the child's name to an error; a tree error becomes the full list seen from `block`."""
    if isinstance(error, TreeError | KeyError):
        try:
            check_params(block, params, state)
        except TreeError as whole:
            return whole
    if isinstance(error, PureError):
        error.path = (name, *error.path)
    return error


def raise_unless_tensor(block: Block, x: Any, error: Exception) -> None:
    """Raise a typed error if the input holds no tensor at all; otherwise return.

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
