"""Frozen, comparable initialisers over `torch.nn.init`, with an explicit generator.

An initialiser is called as `init(shape, generator, dtype, device)` and returns a new tensor. The values are drawn on
the generator's device and then moved, so that one seed gives one network on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import init as rules

from pure.errors import ArgumentError, DeviceError

__all__ = [
    "Constant",
    "Initializer",
    "KaimingNormal",
    "KaimingUniform",
    "Normal",
    "Orthogonal",
    "TruncatedNormal",
    "Uniform",
    "XavierNormal",
    "XavierUniform",
    "fan_in",
    "placed",
]

Device = torch.device | str
Fan = Literal["fan_in", "fan_out"]


class Initializer(Protocol):
    """Anything that draws a tensor: `(shape, generator, dtype, device) -> Tensor`."""

    def __call__(self, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype, device: Device) -> Tensor:
        """Return a new tensor of `shape`."""


def fan_in(shape: Sequence[int]) -> int:
    """Return the number of inputs per output value, for a weight (out, in, *kernel).

    >>> fan_in((64, 3, 7, 7))
    147
    """
    return math.prod(shape[1:])


def check_generator(generator: object) -> torch.Generator:
    """Return `generator`, or raise the error that says how to make one."""
    if not isinstance(generator, torch.Generator):
        raise ArgumentError(
            f"generator is {type(generator).__name__}, expected torch.Generator: pass torch.Generator().manual_seed(0)"
        )
    return generator


def placed(tensor: Tensor, device: Device) -> Tensor:
    """Return a tensor on a device.

    Raises:
        DeviceError: PyTorch has no such device here.
    """
    try:
        return tensor.to(device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError of a PyTorch that was built without CUDA
        names = [kind for kind in ("cuda", "mps", "xpu") if getattr(torch, kind).is_available()]
        raise DeviceError(
            f"device={str(device)!r} is not available here: {str(error).splitlines()[0]}; there is "
            f"{', '.join(['cpu', *names])}"
        ) from error


@dataclass(frozen=True)
class _Rule:
    """Allocates on the generator's device, fills in place once, and moves.

    `_rule` takes the tensor, the values of the fields in order, and the generator.
    """

    _rule: ClassVar[Callable[..., Tensor]]

    def __call__(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> Tensor:
        """Return a new tensor of `shape`, drawn from `generator`."""
        target = torch.device(device)
        where = target if target.type == "meta" else check_generator(generator).device
        tensor = torch.empty(tuple(shape), dtype=dtype, device=where)
        if target.type != "meta":  # shapes alone: nothing to draw, which also keeps vmap from refusing a random call
            self.fill(tensor, generator)
        return placed(tensor, target)

    def fill(self, tensor: Tensor, generator: torch.Generator) -> None:
        """Fill in place."""
        self._rule(tensor, *astuple(self), generator=generator)


@dataclass(frozen=True)
class Constant(_Rule):
    """Every value is `value`; draws nothing from the generator."""

    value: float = 0.0

    @staticmethod
    def _rule(tensor: Tensor, value: float, generator: torch.Generator) -> Tensor:
        return rules.constant_(tensor, value)


@dataclass(frozen=True)
class Uniform(_Rule):
    """Uniform on [low, high)."""

    low: float = 0.0
    high: float = 1.0

    _rule = staticmethod(rules.uniform_)


@dataclass(frozen=True)
class Normal(_Rule):
    """Normal with the given mean and standard deviation."""

    mean: float = 0.0
    std: float = 1.0

    _rule = staticmethod(rules.normal_)


@dataclass(frozen=True)
class TruncatedNormal(_Rule):
    """Normal restricted to [low, high], in absolute units."""

    mean: float = 0.0
    std: float = 1.0
    low: float = -2.0
    high: float = 2.0

    _rule = staticmethod(rules.trunc_normal_)


@dataclass(frozen=True)
class KaimingUniform(_Rule):
    """He's uniform rule (He et al. 2015, section 2.2); `a = sqrt(5)` is PyTorch's default."""

    a: float = math.sqrt(5)
    mode: Fan = "fan_in"
    nonlinearity: str = "leaky_relu"

    _rule = staticmethod(rules.kaiming_uniform_)


@dataclass(frozen=True)
class KaimingNormal(_Rule):
    """He's normal rule (He et al. 2015, section 2.2): variance gain² / fan."""

    a: float = 0.0
    mode: Fan = "fan_in"
    nonlinearity: str = "relu"

    _rule = staticmethod(rules.kaiming_normal_)


@dataclass(frozen=True)
class XavierUniform(_Rule):
    """Glorot's uniform rule (Glorot and Bengio 2010, equation 16)."""

    gain: float = 1.0

    _rule = staticmethod(rules.xavier_uniform_)


@dataclass(frozen=True)
class XavierNormal(_Rule):
    """Glorot's normal rule: variance 2 gain² / (fan_in + fan_out)."""

    gain: float = 1.0

    _rule = staticmethod(rules.xavier_normal_)


@dataclass(frozen=True)
class Orthogonal(_Rule):
    """A (semi-)orthogonal matrix (Saxe et al. 2013), times `gain`."""

    gain: float = 1.0

    _rule = staticmethod(rules.orthogonal_)
