"""The contract: a block is a frozen description with pure functions, and owns no tensors.

    params, state = block.init(generator, dtype, device)
    y             = block(params, x, state, extras)                                  # evaluation
    y, new_state  = block.apply(params, x, state, extras, training, noise)           # training or evaluation
    noise         = block.noise(x_shape, generator, dtype=..., device=...)           # pre-drawn randomness
    shape         = block.out_shape(x_shape)
    children      = block.children()                                                 # ordered {name: Block}

`params`, `state`, `extras` and `noise` are nested plain dicts; a child that has none leaves no key. Everything that
`torch.func.vmap` may map is positional, because vmap does not map keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from typing import Any, Final

import torch

from pure import tree
from pure.initializers import Device, check_generator
from pure.tree import Tree

__all__ = [
    "EMPTY",
    "Applied",
    "Block",
    "Extras",
    "Params",
    "Shape",
    "State",
    "check_params",
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
    """Base of every block. A block of one's own is a frozen dataclass with `init` and `apply`; the rest has defaults.

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
        if "apply" in vars(cls) and "__call__" not in vars(cls):
            cls.__call__ = Block.__call__  # type: ignore[method-assign]  # never a base's lean path around a new apply

    def __repr__(self) -> str:
        shown = [
            f"{entry.name}={getattr(self, entry.name)!r}"
            for entry in fields(self)
            if entry.repr and (entry.default is MISSING or getattr(self, entry.name) != entry.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

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
        """Return the output in evaluation; `state` and `extras` may be left out where they are empty."""
        return self.apply(params, x, state, extras)[0]

    def of_input(self) -> Callable[[Any], Any] | None:
        """Return the bare function of x that this block is, if it is one; containers then call it directly."""
        return None

    @property
    def stochastic(self) -> bool:
        """Whether training needs pre-drawn noise."""
        return any(child.stochastic for child in self.children().values())

    @property
    def has_params(self) -> bool | None:
        """Whether `init` gives parameters; None where that is not known without calling it."""
        return None

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw the randomness of one training step for an input of `x_shape`: a pytree, `{}` if there is none.

        Here every child sees the block's own input; blocks that chain their children override it.
        """
        return {
            name: child.noise(x_shape, generator, dtype=dtype, device=device)
            for name, child in self.children().items()
            if child.stochastic
        }

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the output's shape for an input of `x_shape`; found by running the block on shapes alone."""
        return _inferred_shape(self, tuple(x_shape))


@lru_cache(maxsize=4096)
def specification(block: Block) -> tuple[Params, State]:
    """Return what `block.init` gives, on the meta device: names, shapes and dtypes without memory."""
    return block.init(torch.Generator(), torch.float32, "meta")


@lru_cache(maxsize=4096)
def _inferred_shape(block: Block, x_shape: Shape) -> Shape:
    params, state = specification(block)
    return tuple(block(params, torch.empty(x_shape, device="meta"), state).shape)


def check_params(block: Block, params: Params, state: State | None = None) -> None:
    """Raise one error that lists every missing, extra and mis-shaped leaf of `params` (and of `state`, if given).

    Raises:
        TreeError: the trees are not what `block.init` gives.
    """
    expected_params, expected_state = specification(block)
    tree.check(params, expected_params, what="params")
    if state is not None:
        tree.check(state, expected_state, what="state")
