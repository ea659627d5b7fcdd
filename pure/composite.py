"""A block made of other blocks: its fields are the children, and one function says how they meet."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch

from pure.block import EMPTY, Applied, Block, Extras, Params, Shape, State, specification
from pure.children import expected_keys, refuse, require_keys, run_child
from pure.errors import ArgumentError, PureError
from pure.initializers import Device
from pure.tree import Tree

__all__ = ["Composite", "Run"]


class Run(Protocol):
    """Runs one child by name on an input, with its own part of every tree, and keeps its new state."""

    def __call__(self, name: str, x: Any, /) -> Any:
        """Return the child's output."""


@dataclass(frozen=True, repr=False)
class Composite(Block):
    """A block whose fields that hold a Block are its children, and whose `combine` says how they meet.

    A subclass writes `combine(run, params, x, extras)`; it may have parameters of its own beside its children's, by
    `own`. Trees, noise, new state, names in errors and tags follow.

    Raises:
        ArgumentError: a field that is declared a Block and holds something else.

    Example:
        >>> from pure import Linear
        >>> @dataclass(frozen=True, repr=False)
        ... class Half(Composite):
        ...     branch: Block
        ...     def combine(self, run, params, x, extras):
        ...         return (x + run("branch", x)) / 2
        >>> params, state = Half(Linear(3, 3)).init(torch.Generator().manual_seed(0))
        >>> Half(Linear(3, 3))(params, torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    _children: tuple[tuple[str, Block], ...] = field(init=False, repr=False, compare=False)
    _own: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _keys: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name) if entry.init else None
            if entry.type in ("Block", Block) and not isinstance(value, Block):
                raise ArgumentError(
                    f"{type(self).__name__} {entry.name}={value!r}: expected a Block: wrap it in Function"
                )
        object.__setattr__(self, "_children", tuple(self.parts().items()))
        object.__setattr__(self, "_own", tuple(self.own(torch.Generator(), torch.float32, "meta")))
        keys = expected_keys(dict(self._children))
        object.__setattr__(self, "_keys", None if keys is None else keys + len(self._own))

    def parts(self) -> dict[str, Block]:
        """Return the children by name, in the order in which they are initialised: here the fields that are blocks.

        Called once, when the block is made.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        return {name: value for name, value in values.items() if isinstance(value, Block)}

    def own(self, generator: torch.Generator, dtype: torch.dtype, device: Device) -> Params:
        """Return the parameters that belong to no child, drawn after the children's; none by default."""
        return {}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the output; `run("branch", x)` is the output of that child, in training or evaluation."""
        raise NotImplementedError(f"{type(self).__name__} defines no combine")

    def children(self) -> dict[str, Block]:
        """Return the child blocks by name."""
        return dict(self._children)

    @property
    def has_params(self) -> bool | None:
        """Whether the block or a child has parameters."""
        return True if self._own else None if self._keys is None else self._keys > 0

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the children's parameters, then the block's own."""
        params, state = super().init(generator, dtype, device)
        return {**params, **self.own(generator, dtype, device)}, state

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the output and the children's new states."""
        require_keys(self, self._keys, params)
        new_state: State = {}
        children = dict(self._children)

        def run(name: str, value: Any) -> Any:
            return run_child(self, name, children[name], params, value, state, extras, training, noise, new_state)

        try:
            return self.combine(run, params, x, extras), new_state
        except (AttributeError, TypeError) as error:
            if not isinstance(error, PureError):
                refuse(self, x, error)
            raise

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw each child's noise for the input that reaches it, found by running the block on shapes alone."""
        if not self.stochastic:
            return {}
        shapes: dict[str, Shape] = {}
        params, state = specification(self)
        children = dict(self._children)

        def run(name: str, value: Any) -> Any:
            shapes[name] = tuple(value.shape)
            part = params.get(name, {}), value, state.get(name, {})
            return children[name](*part)

        self.combine(run, params, torch.empty(x_shape, device="meta"), {})
        return {
            name: child.noise(shapes[name], generator, dtype=dtype, device=device)
            for name, child in self._children
            if child.stochastic and name in shapes
        }
