"""Elementwise activations, by PyTorch's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

from pure.block import EMPTY, Extras, Params, Shape, State
from pure.children import extra_keys
from pure.errors import ArgumentError, nearest
from pure.leaf import Leaf, explain

__all__ = ["ACTIVATIONS", "Activation", "activation"]


def _identity(x: Tensor) -> Tensor:
    return x  # a function with a name, so that blocks which hold it can be pickled


ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "relu": Tensor.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "sigmoid": Tensor.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "tanh": Tensor.tanh,
    "identity": _identity,
}
"""Name → function. "gelu" is the exact one (erf), "gelu_tanh" its tanh approximation."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function of that name.

    Args:
        name: a key of `ACTIVATIONS`.

    Raises:
        ArgumentError: an unknown name.

    Example:
        >>> import torch
        >>> activation("relu6")(torch.tensor([-1.0, 7.0]))
        tensor([0., 6.])
    """
    if name not in ACTIVATIONS:
        raise ArgumentError(
            f"activation {name!r} is unknown{nearest(name, ACTIVATIONS)}: one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


@dataclass(frozen=True, repr=False)
class Activation(Leaf):
    """An elementwise function by name, such as "relu" or "gelu"; any shape, never in place.

    Args:
        name: a key of `ACTIVATIONS`.

    Raises:
        ArgumentError: an unknown name.

    Example:
        >>> import torch
        >>> Activation("relu")({}, torch.tensor([[-1.0, 2.0]]))
        tensor([[0., 2.]])
    """

    name: str
    _function: Callable[[Tensor], Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_function", activation(self.name))

    def __reduce__(self) -> tuple[type[Activation], tuple[str]]:
        return type(self), (self.name,)

    def of_input(self) -> Callable[[Any], Any]:
        """Return the function."""
        return self._function

    def __call__(self, params: Params, x: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Tensor:
        """Return the function of `x`."""
        if params:
            raise extra_keys(self, params)
        if not isinstance(x, Tensor):
            raise explain(self, params, x, TypeError())
        return ACTIVATIONS[self.name](x)  # Dynamo of PyTorch 2.11 cannot follow a call of the field

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)
