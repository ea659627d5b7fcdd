"""Adapters: a bare function as a block, and a block under other names."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Applied, Block, Params, Shape, State, no_block
from pure.children import located
from pure.compose.wrapper import Wrapper, as_pairs
from pure.errors import ArgumentError, PureError, TreeError, nearest
from pure.initializers import Device, check_generator, placed
from pure.leaf import Leaf
from pure.tags import KINDS, Kind, tag
from pure.tree import Tree

__all__ = ["Function", "Rename", "Tag"]


def _required(fn: Callable[..., Any], default: int) -> int:
    """Return how many positional arguments `fn` requires; `default` if unknown."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return default
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = sum(p.kind in kinds and p.default is p.empty for p in parameters)
    return required or (default if any(p.kind is p.VAR_POSITIONAL for p in parameters) else 1)


def _takes_dtype(make: Callable[..., Any]) -> bool:
    """Return whether an init is `init(generator, dtype, device)`, with defaults or without."""
    try:
        named = list(inspect.signature(make).parameters)[1:3]
    except (TypeError, ValueError):
        return False
    return named == ["dtype", "device"] or _required(make, 1) >= 3


@dataclass(frozen=True, init=False, repr=False)
class Function(Block):
    """A bare function as a block.

    Args:
        apply: `f(x)` for a function without parameters, or `f(params, x)`, `f(params, x, state)`,
            `f(params, x, state, extras)`; it returns y. What it takes is read off its signature.
        init: `init(generator)` or `init(generator, dtype, device)`, which returns params or (params, state);
            None for no parameters.

    Raises:
        ArgumentError: something that cannot be called.

    Example:
        >>> scale = Function(lambda params, x: x * params["scale"], lambda generator: {"scale": torch.ones(3)})
        >>> params, state = scale.init(torch.Generator())
        >>> scale(params, torch.ones(2, 3)).sum()
        tensor(6.)
        >>> Function(torch.tanh)({}, torch.zeros(1, 1))
        tensor([[0.]])
    """

    fn: Callable[..., Any]
    make: Callable[..., Any] | None

    _arity: int = dataclasses.field(init=False, compare=False)

    def __init__(
        self,
        apply: Callable[..., Any] | None = None,
        init: Callable[..., Any] | None = None,
        *,
        fn: Callable[..., Any] | None = None,
        make: Callable[..., Any] | None = None,
    ) -> None:
        # By the names of the fields too, as dataclasses.replace gives them.
        apply, init = fn if apply is None else apply, make if init is None else init
        for given in (apply, init):
            if isinstance(given, torch.nn.Module):
                raise no_block(f"Function of {type(given).__name__}", given)
            if given is not None and not callable(given):
                raise ArgumentError(f"Function of {type(given).__name__}: expected something that can be called")
        if apply is None:
            raise ArgumentError("Function of None: expected something that can be called")
        object.__setattr__(self, "fn", apply)
        object.__setattr__(self, "make", init)
        arity = min(_required(apply, 1 if init is None else 2), 4)
        if init is not None and arity == 1:
            raise ArgumentError(f"Function({apply}): it takes only x, but an init is given: take (params, x)")
        object.__setattr__(self, "_arity", arity)

    def __repr__(self) -> str:
        return f"Function({getattr(self.fn, '__qualname__', repr(self.fn))})"

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Call the init given; its float leaves are cast to `dtype` and moved to `device`."""
        check_generator(generator)
        if self.make is None:
            return {}, {}
        made = self.make(generator, dtype, device) if _takes_dtype(self.make) else self.make(generator)
        params, state = made if isinstance(made, tuple) else (made, {})

        def place(leaf: Tensor) -> Tensor:
            return placed(leaf, device)

        return tree.tree_map(place, tree.cast(params, dtype)), tree.tree_map(place, state)

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the function's value and the state as it was."""
        y = self.fn(x) if self._arity == 1 else self.fn(*(params, x, state, extras)[: self._arity])
        return y, state


@dataclass(frozen=True, repr=False)
class Rename(Wrapper):
    """A block whose parameters and state stand under other names.

    Args:
        block: any block.
        names: {dotted name inside `block`: key at the top of the new tree}; what is not named stays where it is.

    Raises:
        ArgumentError: no block, names that are no mapping, two names for one key, or a key with a dot.

    Example:
        >>> from pure import Linear, Residual, Sequential
        >>> block = Rename(Residual(Sequential(fc=Linear(2, 2))), {"branch.fc": "fc"})
        >>> tree.names(block.init(torch.Generator())[0])
        ['fc.weight', 'fc.bias']
    """

    names: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = as_pairs(self.names, "Rename names")
        keys = [key for _, key in pairs]
        if len(set(keys)) != len(keys) or any("." in key for key in keys):
            raise ArgumentError(f"Rename to {keys}: expected different keys without dots")
        object.__setattr__(self, "names", pairs)

    def _outer(self, inner: dict[str, Any]) -> dict[str, Any]:
        flat = tree.flatten(inner)
        moved = {prefix for prefix, _ in self.names}
        for key in (key for _, key in self.names if key in inner and key not in moved):
            raise ArgumentError(f"Rename to {key!r}: {self.block} has leaves of that name already: take another key")
        renamed: dict[str, Any] = {}
        for name, leaf in flat.items():
            for prefix, key in self.names:
                if name == prefix or name.startswith(prefix + "."):
                    name = key + name[len(prefix) :]
                    break
            renamed[name] = leaf
        return tree.unflatten(renamed)

    def _inner(self, outer: dict[str, Any]) -> dict[str, Any]:
        keys = {key for _, key in self.names}
        inner = {key: part for key, part in outer.items() if key not in keys}
        for prefix, key in sorted(self.names, key=lambda pair: pair[0].count(".")):  # parents before their parts
            if key in outer:
                *parents, last = prefix.split(".")
                node = inner
                for parent in parents:
                    node[parent] = node = dict(node.get(parent, EMPTY))
                node[last] = outer[key]
        return inner

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw what the block draws, under the new names."""
        params, state = self.block.init(generator, dtype, device)
        leaves = [*tree.names(params), *tree.names(state)]
        for prefix, _ in self.names:
            if not any(name == prefix or name.startswith(prefix + ".") for name in leaves):
                raise ArgumentError(
                    f"Rename of {prefix!r}: no leaf of {self.block} has that name{nearest(prefix, leaves)}"
                )
        return self._outer(params), self._outer(state)

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the block's output and its new state under the new names."""
        try:
            y, new_state = super().apply(self._inner(params), x, self._inner(state), extras, training, noise)
        except (PureError, KeyError) as error:
            if isinstance(error, TreeError | KeyError):  # in the new names
                raise located(self, "", params, state, error) from error.__cause__
            raise
        return y, self._outer(new_state) if new_state else {}


@dataclass(frozen=True, repr=False)
class Tag(Leaf):
    """The identity, which names what passes for `pure.capture` and `pure.flow`; see `pure.tag`.

    Args:
        name: what the value is called, behind the path of this block.
        kind: "stream", "branch", "gate" or "loss".

    Example:
        >>> from pure import Activation, Sequential, capture
        >>> net = Sequential(act=Activation("relu"), out=Tag())
        >>> list(capture(net)({}, torch.ones(1, 2))[1])
        ['out.stream']
    """

    name: str = "stream"
    kind: Kind = "stream"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise ArgumentError(f"Tag kind={self.kind!r}: expected one of {', '.join(KINDS)}")

    def forward(self, params: Params, x: Any) -> Any:
        """Return `x`."""
        return tag(x, self.name, self.kind)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)
