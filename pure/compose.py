"""Composition: chains, parallel branches, repetition with stacked parameters, and bare functions as blocks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pure import tree
from pure.block import (
    EMPTY,
    Block,
    Params,
    Shape,
    State,
    check_params,
    expected_keys,
    extra_keys,
    located,
    run_child,
)
from pure.errors import ArgumentError, PureError, ShapeError, TreeError
from pure.initializers import Device, check_generator
from pure.tags import WATCHERS

__all__ = ["Function", "Parallel", "Rename", "Repeat", "Sequential"]

Join = Literal["sum", "mean", "product", "concat"]


def _named(blocks: Sequence[Block], named: Mapping[str, Block], owner: str) -> tuple[tuple[str, Block], ...]:
    """Return (name, block) pairs from positional children (named "0", "1", …) or keyword ones, never both."""
    if blocks and named:
        raise ArgumentError(f"{owner}: give positional children or named ones, not both")
    items = tuple(named.items()) if named else tuple((str(index), block) for index, block in enumerate(blocks))
    for name, block in items:
        if not isinstance(block, Block):
            raise ArgumentError(
                f"{owner}: child {name!r} is {type(block).__name__}, expected a Block: wrap it in Function"
            )
    return items


@dataclass(frozen=True, init=False, repr=False)
class _Named(Block):
    """A block over an ordered set of children, given by position or by name."""

    items: tuple[tuple[str, Block], ...]
    _keys: int | None = dataclasses.field(init=False, repr=False, compare=False)
    _calls: tuple[tuple[str, Callable[..., Any], bool], ...] = dataclasses.field(init=False, repr=False, compare=False)

    def _adopt(self, blocks: Sequence[Block], named: Mapping[str, Block]) -> None:
        object.__setattr__(self, "items", _named(blocks, named, type(self).__name__))
        object.__setattr__(self, "_keys", expected_keys(dict(self.items)))
        calls = ((name, block, block.of_input()) for name, block in self.items)
        object.__setattr__(
            self, "_calls", tuple((name, f or block.__call__, f is not None) for name, block, f in calls)
        )

    def __repr__(self) -> str:
        parts = (f"{name}={block!r}" if not name.isdigit() else repr(block) for name, block in self.items)
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def has_params(self) -> bool | None:
        """Whether any child has parameters, None where one does not say."""
        return None if self._keys is None else self._keys > 0

    def children(self) -> dict[str, Block]:
        """Return the children by name."""
        return dict(self.items)


@dataclass(frozen=True, init=False, repr=False)
class Sequential(_Named):
    """The children one after another.

    Parameters of a child stand under its name: "0", "1", … for positional children.

    Raises:
        ArgumentError: positional and named children together, or a child that is no block.

    Example:
        >>> from pure.layers import Activation, Linear
        >>> net = Sequential(fc1=Linear(3, 4), act=Activation("relu"), fc2=Linear(4, 2))
        >>> params, state = net.init(torch.Generator().manual_seed(0))
        >>> tree.names(params)
        ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    """

    def __init__(self, *blocks: Block, **named: Block) -> None:
        self._adopt(blocks, named)

    def __call__(self, params: Params, x: Any, state: State = EMPTY, extras: Mapping[str, Any] = EMPTY) -> Any:
        """Return the last child's output."""
        if WATCHERS:
            return self.apply(params, x, state, extras)[0]
        name = ""
        try:
            if self._keys is not None and len(params) != self._keys:
                raise extra_keys(self, params)
            if state:
                for name, child in self.items:
                    x = child(params.get(name, EMPTY), x, state.get(name, EMPTY), extras)
            else:
                for name, call, of_input in self._calls:
                    x = call(x) if of_input else call(params.get(name, EMPTY), x, EMPTY, extras)
        except (PureError, KeyError) as error:
            raise located(self, name, params, state, error) from error.__cause__
        return x

    def apply(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Mapping[str, Any],
        training: bool = False,
        noise: Any = None,
    ) -> tuple[Any, State]:
        """Return the last child's output and the new states by name."""
        if self._keys is not None and len(params) != self._keys:
            raise extra_keys(self, params)
        new_state: State = {}
        for name, child in self.items:
            x = run_child(self, name, child, params, x, state, extras, training, noise, new_state)
        return x, new_state

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw each child's noise for the shape that reaches it."""
        drawn = {}
        last = max((i for i, (_, child) in enumerate(self.items) if child.stochastic), default=-1)
        for name, child in self.items[: last + 1]:
            if child.stochastic:
                drawn[name] = child.noise(x_shape, generator, dtype=dtype, device=device)
            x_shape = child.out_shape(x_shape)
        return drawn

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the shape after the last child."""
        for _, child in self.items:
            x_shape = child.out_shape(x_shape)
        return tuple(x_shape)


@dataclass(frozen=True, init=False, repr=False)
class Parallel(_Named):
    """All children on the same input, their outputs joined.

    Args:
        blocks: positional children, named "0", "1", ….
        join: "sum", "mean", "product", or "concat" along axis 1.
        named: named children.

    Raises:
        ArgumentError: an unknown `join`, or no children.
        ShapeError: outputs whose shapes differ (for "concat": but for axis 1).

    Example:
        >>> from pure.layers import Activation
        >>> Parallel(Activation("relu"), Activation("identity"), join="sum")({}, torch.ones(1, 2))
        tensor([[2., 2.]])
    """

    join: Join

    def __init__(self, *blocks: Block, join: Join = "sum", **named: Block) -> None:
        if join not in get_args(Join):
            raise ArgumentError(f"Parallel join={join!r}: expected one of {', '.join(get_args(Join))}")
        if not blocks and not named:
            raise ArgumentError("Parallel of no children: give at least one block")
        object.__setattr__(self, "join", join)
        self._adopt(blocks, named)

    def apply(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Mapping[str, Any],
        training: bool = False,
        noise: Any = None,
    ) -> tuple[Any, State]:
        """Return the joined outputs and the new states by name."""
        if self._keys is not None and len(params) != self._keys:
            raise extra_keys(self, params)
        new_state: State = {}
        outs = [
            run_child(self, name, child, params, x, state, extras, training, noise, new_state)
            for name, child in self.items
        ]
        return self._joined(outs), new_state

    def _joined(self, outs: list[Tensor]) -> Tensor:
        free = (1,) if self.join == "concat" else ()
        shapes = [tuple(out.shape) for out in outs]
        kept = [tuple(n for axis, n in enumerate(shape) if axis not in free) for shape in shapes]
        if any(sizes != kept[0] for sizes in kept):  # compared, not hashed: a symbolic size has no hash
            given = ", ".join(f"{name}: {shape}" for (name, _), shape in zip(self.items, shapes, strict=True))
            raise ShapeError(
                f"Parallel join={self.join!r}: outputs {given} do not fit: make the branches' shapes agree"
            )
        if self.join == "concat":
            return torch.cat(outs, 1)
        if self.join == "product":
            return reduce(torch.mul, outs)
        total = reduce(torch.add, outs)
        return total / len(outs) if self.join == "mean" else total


def replace_field(block: Block, path: str, value: Any) -> Block:
    """Return `block` with the field at a dotted path replaced: "rate", or "branch.drop.rate" through children."""
    head, _, rest = path.partition(".")
    if isinstance(block, _Named) and head in block.children():
        if not rest:
            raise ArgumentError(f"vary {path!r}: names a whole child, expected one of its fields")
        clone = object.__new__(type(block))
        for field in dataclasses.fields(block):
            object.__setattr__(clone, field.name, getattr(block, field.name))
        clone._adopt((), {n: replace_field(b, rest, value) if n == head else b for n, b in block.items})
        return clone
    fields = [field.name for field in dataclasses.fields(block)]
    if head not in fields:
        raise ArgumentError(f"vary {path!r}: {type(block).__name__} has no field {head!r}, expected one of {fields}")
    return dataclasses.replace(block, **{head: replace_field(getattr(block, head), rest, value) if rest else value})


@dataclass(frozen=True, repr=False)
class Repeat(Block):
    """The same block `depth` times in a row, its parameters and state stacked along a new first axis.

    One leaf a parameter, whatever the depth: cheap to differentiate, to map, to save, and to export as one loop.

    Args:
        block: the block; its output must have its input's shape.
        depth: how many times.
        vary: per-depth numbers, {dotted field: one value a depth}; kept as a tuple of pairs.

    Raises:
        ArgumentError: depth below 1, or a varied field of another length than `depth`.
        TreeError: leaves that are not stacked `depth` deep.

    Example:
        >>> from pure.layers import Linear
        >>> net = Repeat(Linear(4, 4), 3)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> params["weight"].shape, net(params, torch.zeros(2, 4)).shape
        (torch.Size([3, 4, 4]), torch.Size([2, 4]))
    """

    block: Block
    depth: int
    vary: Any = ()
    _chain: Sequential = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ArgumentError(f"Repeat depth={self.depth}: expected at least 1")
        vary = tuple((name, tuple(values)) for name, values in dict(self.vary).items())
        object.__setattr__(self, "vary", vary)
        blocks = [self.block] * self.depth
        for name, values in vary:
            if len(values) != self.depth:
                raise ArgumentError(f"Repeat vary {name!r} has {len(values)} values for depth {self.depth}")
            blocks = [replace_field(block, name, value) for block, value in zip(blocks, values, strict=True)]
        object.__setattr__(self, "_chain", Sequential(*blocks))

    @property
    def has_params(self) -> bool | None:
        """Whether the repeated block has parameters."""
        return self.block.has_params

    def children(self) -> dict[str, Block]:
        """Return the block at each depth by its position; their parameters are slices of the stacked ones."""
        return self._chain.children()

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw each depth in turn, as unrolled blocks would be, and stack."""
        check_generator(generator)
        drawn = [block.init(generator, dtype, device) for block in self.children().values()]
        return tree.stack([params for params, _ in drawn]), tree.stack([state for _, state in drawn])

    def _slices(self, stacked: Any, what: str, axis: int = 0) -> dict[str, Any]:
        """Return the tree of each depth by its position."""
        if not stacked:
            return EMPTY
        try:
            parts = tree.unstack(stacked, axis)
        except TreeError:
            if what == "params":
                check_params(self, stacked)
            raise
        if len(parts) != self.depth:
            raise TreeError(f"Repeat: {what} is stacked {len(parts)} deep, expected depth {self.depth}")
        return {str(depth): part for depth, part in enumerate(parts)}

    def __call__(self, params: Params, x: Any, state: State = EMPTY, extras: Mapping[str, Any] = EMPTY) -> Any:
        """Return the last block's output."""
        return self._chain(self._slices(params, "params"), x, self._slices(state, "state"), extras)

    def apply(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Mapping[str, Any],
        training: bool = False,
        noise: Any = None,
    ) -> tuple[Any, State]:
        """Return the last block's output and the stacked new state."""
        noises = self._slices(noise, "noise", 1) if noise else None
        slices = self._slices(params, "params"), x, self._slices(state, "state")
        y, new_state = self._chain.apply(*slices, extras, training, noises)
        return y, tree.stack(list(new_state.values())) if new_state else {}

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw the noise of every depth, stacked along axis 1 behind the batch axis.

        Raises:
            ShapeError: only some of the depths are stochastic, or their noise differs in shape.
        """
        if not self.stochastic:
            return {}
        drawn = []
        for block in self.children().values():
            drawn.append(block.noise(x_shape, generator, dtype=dtype, device=device))
            x_shape = block.out_shape(x_shape)
        filled = next(noise for noise in drawn if noise)
        ones = tree.tree_map(torch.ones_like, filled)
        return tree.stack([noise or ones for noise in drawn], dim=1)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape, which every block must keep."""
        return tuple(x_shape)


def _required(fn: Callable[..., Any], default: int) -> int:
    """Return how many positional arguments `fn` must be given; `default` where Python cannot tell."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return default
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = sum(p.kind in kinds and p.default is p.empty for p in parameters)
    return required or (default if any(p.kind is p.VAR_POSITIONAL for p in parameters) else 1)


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

    _arity: int = dataclasses.field(compare=False)

    def __init__(self, apply: Callable[..., Any], init: Callable[..., Any] | None = None) -> None:
        for given in (apply, init):
            if given is not None and not callable(given):
                raise ArgumentError(f"Function of {type(given).__name__}: expected something that can be called")
        object.__setattr__(self, "fn", apply)
        object.__setattr__(self, "make", init)
        object.__setattr__(self, "_arity", min(_required(apply, 1 if init is None else 2), 4))

    def __repr__(self) -> str:
        return f"Function({getattr(self.fn, '__qualname__', repr(self.fn))})"

    @property
    def has_params(self) -> bool | None:
        """False without an init, else not known before it is called."""
        return False if self.make is None else None

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Call the init given; its float leaves are cast to `dtype` and moved to `device`."""
        check_generator(generator)
        if self.make is None:
            return {}, {}
        made = self.make(generator, dtype, device) if _required(self.make, 1) >= 3 else self.make(generator)
        params, state = made if isinstance(made, tuple) else (made, {})

        def place(leaf: Tensor) -> Tensor:
            return leaf.to(device)

        return tree.tree_map(place, tree.cast(params, dtype)), tree.tree_map(place, state)

    def apply(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Mapping[str, Any],
        training: bool = False,
        noise: Any = None,
    ) -> tuple[Any, State]:
        """Return the function's value and the state as it was."""
        y = self.fn(x) if self._arity == 1 else self.fn(*(params, x, state, extras)[: self._arity])
        return y, state


@dataclass(frozen=True, repr=False)
class Rename(Block):
    """A block whose parameters and state stand under other names.

    Args:
        block: any block.
        names: {dotted name inside `block`: key at the top of the new tree}; what is not named stays where it is.

    Raises:
        ArgumentError: two names for one key, or a key with a dot.

    Example:
        >>> from pure.layers import Linear
        >>> from pure.skips import Residual
        >>> block = Rename(Residual(Sequential(fc=Linear(2, 2))), {"branch.fc": "fc"})
        >>> tree.names(block.init(torch.Generator())[0])
        ['fc.weight', 'fc.bias']
    """

    block: Block
    names: Any

    def __post_init__(self) -> None:
        pairs = tuple(dict(self.names).items())
        keys = [key for _, key in pairs]
        if len(set(keys)) != len(keys) or any("." in key for key in keys):
            raise ArgumentError(f"Rename to {keys}: expected different keys without dots")
        object.__setattr__(self, "names", pairs)

    @property
    def has_params(self) -> bool | None:
        """Whether the block has parameters."""
        return self.block.has_params

    @property
    def stochastic(self) -> bool:
        """Whether the block needs noise."""
        return self.block.stochastic

    def children(self) -> dict[str, Block]:
        """Return the children of the block, by their names inside it."""
        return self.block.children()

    def _outer(self, inner: dict[str, Any]) -> dict[str, Any]:
        flat = tree.flatten(inner)
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
        for prefix, key in self.names:
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
        return self._outer(params), self._outer(state)

    def __call__(self, params: Params, x: Any, state: State = EMPTY, extras: Mapping[str, Any] = EMPTY) -> Any:
        """Return the block's output."""
        try:
            return self.block(self._inner(params), x, self._inner(state) if state else EMPTY, extras)
        except (PureError, KeyError) as error:
            raise self._renamed(params, state, error) from error.__cause__

    def apply(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Mapping[str, Any],
        training: bool = False,
        noise: Any = None,
    ) -> tuple[Any, State]:
        """Return the block's output and its new state under the new names."""
        try:
            y, new_state = self.block.apply(self._inner(params), x, self._inner(state), extras, training, noise)
        except (PureError, KeyError) as error:
            raise self._renamed(params, state, error) from error.__cause__
        return y, self._outer(new_state) if new_state else {}

    def _renamed(self, params: Params, state: State, error: Exception) -> Exception:
        """Return the error in the new names, where it is about the tree."""
        return located(self, "", params, state, error) if isinstance(error, TreeError | KeyError) else error

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw the block's noise."""
        return self.block.noise(x_shape, generator, dtype=dtype, device=device)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the block's output shape."""
        return self.block.out_shape(x_shape)
