"""The contract: a block is a frozen description with pure functions, and owns no tensors.

    params, state = block.init(generator, dtype, device)
    y             = block(params, x, state, extras)                                  # evaluation
    y, new_state  = block.apply(params, x, state, extras, training, noise)           # training or evaluation
    noise         = block.noise(x_shape, generator, dtype=..., device=...)           # pre-drawn randomness
    shape         = block.out_shape(x_shape)
    children      = block.children()                                                 # ordered {name: Block}

`params`, `state`, `extras` and `noise` are nested plain dicts; a child that has none leaves no key. Everything that
`torch.func.vmap` may map is positional, because vmap does not map keyword arguments.

Two mistakes that would be silent are errors for every block, one's own too. A result other than a pair is refused. So
is a key in `extras` that no block looks up, so that a misspelt mask is not a mask left out; a block that reads a key in
one mode only should look it up in the others too. `torch.compile` leaves this second check out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache, wraps
from typing import Any, Final

import torch

from pure import tree
from pure.block_html import block_html
from pure.errors import ArgumentError, TreeError, nearest
from pure.initializers import Device, check_generator
from pure.tree import Tree
from pure_export_shared import raise_unless_pickles

__all__ = [
    "EMPTY",
    "Applied",
    "Block",
    "Extras",
    "Params",
    "Reading",
    "Shape",
    "State",
    "check_params",
    "no_block",
    "specification",
]

Params = dict[str, Any]
State = dict[str, Any]
Extras = Mapping[str, Any]
Shape = tuple[int, ...]
Applied = tuple[Any, State]
"""What `apply` returns: `(y, new_state)`."""

EMPTY: Final[dict[str, Any]] = {}
"""The default for trees that are left out. Nothing writes to it."""


@dataclass(frozen=True, repr=False)
class Block:
    """Base of every block: subclass it as a frozen dataclass with `init` and `apply`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Shift(Block):
        ...     features: int
        ...     def init(self, generator, dtype=torch.float32, device="cpu"):
        ...         return {"bias": torch.zeros(self.features, dtype=dtype, device=device)}, {}
        ...     def apply(self, params, x, state=EMPTY, extras=EMPTY, training=False, noise=None):
        ...         return x + params["bias"], state
        >>> params, state = Shift(3).init(torch.Generator().manual_seed(0))
        >>> Shift(3)(params, torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "apply" in vars(cls):
            cls.apply = _checked(cls.apply)  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        names = {entry.name for entry in fields(self)}
        state = {name: value for name, value in vars(self).items() if name in names}  # not what was derived from them
        functions = {name: value for name, value in state.items() if callable(value) and not isinstance(value, Block)}
        raise_unless_pickles(type(self).__name__, **functions)
        return state

    def __repr__(self) -> str:
        shown = [
            f"{entry.name}={getattr(self, entry.name)!r}"
            for entry in fields(self)
            if entry.repr and (entry.default is MISSING or getattr(self, entry.name) != entry.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        return block_html(self)

    def children(self) -> dict[str, Block]:
        """Return the child blocks by name, in the order in which they are initialised."""
        return {}

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw initial parameters and state.

        Args:
            generator: the only source of randomness; one seed gives the same bits on every device.
            dtype: of the parameters.
            device: where the leaves end up.

        Returns:
            `(params, state)`, nested dicts, `{}` where there is nothing.

        Raises:
            ArgumentError: `generator` is not a `torch.Generator`.
        """
        check_generator(generator)
        params: Params = {}
        state: State = {}
        for name, child in self.children().items():
            child_params, child_state = child.init(generator, dtype, device)
            if child_params:
                params[name] = child_params
            if child_state:
                state[name] = child_state
        return params, state

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return `(y, new_state)`; no argument is changed.

        Args:
            params: as `init` gives them.
            x: the input, batch axis first.
            state: as `init` or the last `apply` gave it.
            extras: what the whole network may read, such as `{"control": c}`.
            training: use batch statistics and noise.
            noise: as `noise` draws it; needed in training by stochastic blocks only.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no apply")

    def __call__(self, params: Params, x: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
        """Return the output in evaluation; empty `state` and `extras` may be left out."""
        return self.apply(params, x, state, extras)[0]

    @property
    def stochastic(self) -> bool:
        """Whether training needs pre-drawn noise."""
        return any(child.stochastic for child in self.children().values())

    @property
    def has_params(self) -> bool:
        """Whether `init` gives parameters."""
        return bool(specification(self)[0])

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw the randomness of one training step: a pytree, `{}` if there is none.

        Here every child sees the block's own input; blocks that chain their children override it.
        """
        return {
            name: child.noise(x_shape, generator, dtype=dtype, device=device)
            for name, child in self.children().items()
            if child.stochastic
        }

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the output's shape for an input of `x_shape`, by a run on the meta device."""
        return _inferred_shape(self, tuple(x_shape))


def _checked(apply: Callable[..., Applied]) -> Callable[..., Applied]:
    """Return `apply` with checks: its result is a pair, and every key in `extras` is read."""

    @wraps(apply)
    def checked(
        self: Block,
        params: Params,
        x: Any,
        state: State = EMPTY,
        extras: Extras = EMPTY,
        training: bool = False,
        noise: Any = None,
    ) -> Applied:
        if extras is EMPTY or type(extras) is Reading or torch.compiler.is_dynamo_compiling():
            result = apply(self, params, x, state, extras, training, noise)
            if type(result) is tuple and len(result) == 2 and type(result[1]) is dict:
                return result
            return _as_pair(self, result)
        reading = Reading.of(self, extras)
        try:
            result = apply(self, params, x, state, reading or EMPTY, training, noise)
        except TreeError as error:
            if extras and not state and set(extras) <= set(specification(self)[1]):
                raise reading.holds_state(self) from error
            raise
        reading.raise_if_unread(self)
        return _as_pair(self, result)

    return checked


def _as_pair(block: Block, result: Any) -> Applied:
    """Return what `block.apply` gave, if that is `(y, new_state)`.

    Raises:
        ArgumentError: it is not; unpacking it would take the first sample for the output.
    """
    if isinstance(result, tuple) and len(result) == 2 and (type(result[1]) is dict or isinstance(result[1], Mapping)):
        return result
    given = type(result).__name__
    if isinstance(result, tuple):
        given = f"({', '.join(type(part).__name__ for part in result)})"
    raise ArgumentError(
        f"{type(block).__name__}.apply returned {given}, expected (y, new_state) with new_state a dict: return y, state"
    )


class Reading(dict[str, Any]):
    """Extras that record which keys are looked up; the outermost block creates and checks them.

    What is given as `Reading(extras)` is not checked: for one block of several that share their extras.

    Attributes:
        asked: the keys that were looked up, in order, those that are not there too.
        complete: whether every key counts as read, because something listed them all or because a child that might
            read them did not run; nothing is noted then.
    """

    def __init__(self, extras: Extras, *, complete: bool = True) -> None:
        super().__init__(extras)
        self.asked: dict[str, None] = {}
        self.complete = complete

    @classmethod
    def of(cls, block: Block, extras: Extras) -> Reading:
        """Return extras that are followed from here on.

        Raises:
            ArgumentError: something that is no mapping.
        """
        if isinstance(extras, Mapping):
            return cls(extras, complete=False)
        given = type(extras).__name__
        raise ArgumentError(f"{type(block).__name__}: extras are {given}, expected a mapping, as {{'control': c}}")

    def __getitem__(self, key: str) -> Any:
        if not self.complete:
            self.asked[key] = None
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        if not self.complete:
            self.asked[str(key)] = None
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default, and note the key."""
        if not self.complete:
            self.asked[key] = None
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self.complete = True
        return super().__iter__()

    def keys(self) -> Any:
        """Return all keys, which counts as reading them; so do `values` and `items`."""
        self.complete = True
        return super().keys()

    def values(self) -> Any:
        """Return all values."""
        self.complete = True
        return super().values()

    def items(self) -> Any:
        """Return all pairs."""
        self.complete = True
        return super().items()

    def holds_state(self, block: Block) -> ArgumentError:
        """Return the error for a state in the place of the extras."""
        name = type(block).__name__
        return ArgumentError(f"{name}: the extras hold its state: give that third, as block(params, x, state)")

    def raise_if_unread(self, block: Block) -> None:
        """Raise if a key was not looked up.

        Raises:
            ArgumentError: it was not; the message names the nearest key that was.
        """
        if self.complete:
            return
        left = [key for key in super().__iter__() if key not in self.asked]
        if not left:
            return
        if set(left) <= set(specification(block)[1]):
            raise self.holds_state(block)
        known = f"those read are {', '.join(map(repr, self.asked))}" if self.asked else "there is none to read"
        raise ArgumentError(
            f"{type(block).__name__}: no block reads extras {left[0]!r}{nearest(left[0], self.asked)}: {known}"
        )


def no_block(what: str, value: object) -> ArgumentError:
    """Return the error for something that stands where a block is meant."""
    way = "pass pure.interop.from_module(module)[0]" if _is_module(value) else "wrap it in Function"
    return ArgumentError(f"{what}: expected a Block: {way}")


def _is_module(value: object) -> bool:
    return isinstance(value, torch.nn.Module) or (isinstance(value, type) and issubclass(value, torch.nn.Module))


@lru_cache(maxsize=4096)
def specification(block: Block) -> tuple[Params, State]:
    """Return the block's params and state on the meta device: names, shapes and dtypes."""
    return block.init(torch.Generator(), torch.float32, "meta")


@lru_cache(maxsize=4096)
def _inferred_shape(block: Block, x_shape: Shape) -> Shape:
    params, state = specification(block)
    return tuple(block(params, torch.empty(x_shape, device="meta"), state).shape)


def check_params(block: Block, params: Params, state: State | None = None) -> None:
    """Raise one error that lists every missing, extra and mis-shaped leaf of the trees.

    Raises:
        TreeError: the trees are not what `block.init` gives.
    """
    expected_params, expected_state = specification(block)
    tree.check(params, expected_params, what="params")
    if state is not None:
        tree.check(state, expected_state, what="state")
