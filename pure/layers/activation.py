"""Elementwise activations, by PyTorch's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.block import Params, Shape
from pure.errors import ArgumentError, nearest
from pure.leaf import Leaf

__all__ = ["ACTIVATIONS", "Activation", "ActivationLike", "activation", "activation_name"]


def _identity(x: Tensor) -> Tensor:
    return x  # a function with a name, so that blocks which hold it can be pickled


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "relu": Tensor.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": _quick_gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "sigmoid": Tensor.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "tanh": Tensor.tanh,
    "identity": _identity,
}
"""Name → function. "gelu" is the exact one (erf), "gelu_tanh" its tanh approximation, "quick_gelu" x σ(1.702 x)."""


ActivationLike = str | Callable[[Tensor], Tensor]
"""A key of `ACTIVATIONS`, or a function of one tensor, such as `torch.relu`."""


def activation(name: ActivationLike) -> Callable[[Tensor], Tensor]:
    """Return the function of that name; a function is returned as it is.

    Args:
        name: a key of `ACTIVATIONS`, or a function of one tensor. An `nn.Module` is neither: it may hold parameters
            and write in place.

    Raises:
        ArgumentError: an unknown name, or something that is neither a name nor a function.

    Example:
        >>> import torch
        >>> activation("relu6")(torch.tensor([-1.0, 7.0])), activation(torch.relu) is torch.relu
        (tensor([0., 6.]), True)
    """
    if isinstance(name, str):
        if name in ACTIVATIONS:
            return ACTIVATIONS[name]
        raise ArgumentError(
            f"activation {name!r} is unknown{nearest(name, ACTIVATIONS)}: one of {', '.join(ACTIVATIONS)}"
        )
    if callable(name) and not isinstance(name, type | torch.nn.Module):
        return name
    given = name.__name__ if isinstance(name, type) else type(name).__name__
    raise ArgumentError(
        f"activation {given} is neither a name nor a function{nearest(given.lower(), ACTIVATIONS)}: give one of "
        f"{', '.join(ACTIVATIONS)}, or a function such as torch.relu"
    )


def activation_name(given: ActivationLike) -> str:
    """Return what an activation is called: its name, or that of the function.

    >>> activation_name("relu"), activation_name(F.gelu)
    ('relu', 'gelu')
    """
    return given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)


@dataclass(frozen=True, repr=False)
class Activation(Leaf):
    """An elementwise function, such as "relu" or `torch.relu`; any shape, never in place.

    Args:
        name: a key of `ACTIVATIONS`, or a function of one tensor.

    Raises:
        ArgumentError: an unknown name, or something that is neither a name nor a function.

    Example:
        >>> import torch
        >>> Activation("relu")({}, torch.tensor([[-1.0, 2.0]]))
        tensor([[0., 2.]])
    """

    name: ActivationLike

    def __post_init__(self) -> None:
        super().__post_init__()
        activation(self.name)

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the function of `x`."""
        if not isinstance(x, Tensor):
            raise TypeError(f"input is {type(x).__name__}")
        return activation(self.name)(x)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)
