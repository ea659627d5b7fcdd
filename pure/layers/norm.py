"""Batch, layer, group and root-mean-square norms, with statistics at least in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.block import EMPTY, Applied, Block, Params, Shape, State, check_params
from pure.errors import ArgumentError, PureError, RankError, ShapeError
from pure.initializers import Constant, Device, Initializer, check_generator, placed
from pure.layers.alignment import fits, narrow, widen
from pure.layers.norm_kernels import batch_norm, layer_norm
from pure.leaf import Leaf, describe, explain
from pure.spmd.process_group import Group
from pure.spmd.reductions import count_over_ranks, psum
from pure.tree import Tree

__all__ = ["BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm"]

ONES, ZEROS = Constant(1.0), Constant(0.0)


def _gain(params: Params, name: str, x: Tensor) -> Tensor | None:
    """Return the leaf at least in float32, or None; some PyTorch norms promote other dtypes."""
    if not params:
        return None
    leaf: Tensor = params[name]
    if not fits(leaf, x):
        raise TypeError(f"{name} is {leaf.dtype}")
    return widen(leaf)


@dataclass(frozen=True, repr=False)
class _Affine(Leaf):
    """A norm whose leaves are an optional `weight` and `bias` of one shape."""

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Return ones for the weight and zeros for the bias; nothing is drawn."""
        check_generator(generator)
        rules = {"weight": ONES, "bias": ZEROS}
        return {name: rules[name](self.leaf_shape(), generator, dtype, device) for name in self.leaf_names()}, {}

    def leaf_shape(self) -> Shape:
        """Return the shape of each leaf."""
        raise NotImplementedError

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)


@dataclass(frozen=True, repr=False)
class LayerNorm(_Affine):
    """(x − mean) / √(var + eps) · weight + bias over the trailing axes.

    Args:
        shape: sizes of the trailing axes that are normalised; an integer for the last axis alone.
        eps: added to the variance.
        affine: whether there are a weight and a bias.
        bias: whether there is a bias beside the weight.

    Raises:
        RankError: the input has no axis in front of the normalised ones.

    Source: Ba et al. 2016 (1607.06450), equation 4.

    Example:
        >>> params, _ = LayerNorm(4).init(torch.Generator())
        >>> LayerNorm(4)(params, torch.arange(4.0)[None]).mean().abs() < 1e-6
        tensor(True)
    """

    shape: int | tuple[int, ...]
    eps: float = 1e-5
    affine: bool = True
    bias: bool = True

    def leaf_names(self) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return () if not self.affine else ("weight", "bias") if self.bias else ("weight",)

    def leaf_shape(self) -> Shape:
        """Return the normalised shape."""
        return (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the normalised `x`."""
        sizes = self.leaf_shape()
        if x.ndim <= len(sizes):
            raise RankError(f"{self}: input {describe(x)}, expected the batch axis and then …, {sizes}")
        bias = _gain(params, "bias", x) if self.bias else None
        return narrow(layer_norm(widen(x), sizes, _gain(params, "weight", x), bias, self.eps), x)


@dataclass(frozen=True, repr=False)
class RMSNorm(_Affine):
    """x / √(mean(x²) + eps) · (offset + weight) over the last axis.

    Args:
        features: size of the last axis.
        eps: added to the mean square.
        affine: whether there is a weight.
        offset: added to the weight, which starts at 1 − offset; Gemma's norms have 1.

    Raises:
        RankError: the input has no batch axis.

    Source: Zhang and Sennrich 2019 (1910.07467), equation 4.

    Example:
        >>> params, _ = RMSNorm(2, eps=0.0).init(torch.Generator())
        >>> RMSNorm(2, eps=0.0)(params, torch.tensor([[1.0, 7.0]]))
        tensor([[0.2000, 1.4000]])
    """

    features: int
    eps: float = 1e-6
    affine: bool = True
    offset: float = 0.0

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Return 1 − offset for the weight; nothing is drawn."""
        params, state = super().init(generator, dtype, device)
        return {name: leaf - self.offset if self.offset else leaf for name, leaf in params.items()}, state

    def leaf_names(self) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return ("weight",) if self.affine else ()

    def leaf_shape(self) -> Shape:
        """Return (features,)."""
        return (self.features,)

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the normalised `x`."""
        if x.ndim < 2:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, …, {self.features}): add x.unsqueeze(0)")
        weight = _gain(params, "weight", x)
        if weight is not None and self.offset:
            weight = weight + self.offset
        return narrow(F.rms_norm(widen(x), (self.features,), weight, self.eps), x)


@dataclass(frozen=True, repr=False)
class GroupNorm(_Affine):
    """Normalisation over groups of channels of (batch, channels, *space).

    Args:
        groups: how many groups the channels are split into.
        channels: size of axis 1.
        eps: added to the variance.
        affine: whether there are a weight and a bias, one value a channel.

    Raises:
        ArgumentError: `groups` does not divide `channels`.
        RankError: the input has no channel axis.

    Source: Wu and He 2018 (1803.08494), section 3.1.

    Example:
        >>> params, _ = GroupNorm(2, 4).init(torch.Generator())
        >>> GroupNorm(2, 4)(params, torch.arange(8.0).reshape(1, 4, 2))[:, :2].mean().abs() < 1e-6
        tensor(True)
    """

    groups: int
    channels: int
    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % self.groups:
            raise ArgumentError(f"GroupNorm: {self.groups} groups do not divide {self.channels} channels")

    def leaf_names(self) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return ("weight", "bias") if self.affine else ()

    def leaf_shape(self) -> Shape:
        """Return (channels,)."""
        return (self.channels,)

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the normalised `x`."""
        if x.ndim < 2:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, {self.channels}, *space)")
        weight, bias = _gain(params, "weight", x), _gain(params, "bias", x)
        return narrow(F.group_norm(widen(x), self.groups, weight, bias, self.eps), x)


@dataclass(frozen=True, repr=False)
class BatchNorm(Block):
    """Normalise each channel by batch statistics (training) or running ones (evaluation).

    Takes (batch, channels, *space) of any rank. Leaves: `weight`, `bias` (channels,). State: `running_mean`,
    `running_var` (unbiased), `num_batches_tracked` (int64), with PyTorch's update
    running ← (1 − momentum) · running + momentum · batch. The new state is returned; the old one is left as it was.

    Args:
        channels: size of axis 1.
        eps: added to the variance.
        momentum: weight of the new batch; None keeps the average over all batches.
        affine: whether there are a weight and a bias.
        weight_init: rule for the weight; `Constant(0.0)` makes a residual block start as its shortcut.
        group: in training, take the statistics over the batches of all ranks of this group, on any device: a process
            group or "world". The block must run inside of `spmd.shard_map` over it.

    Raises:
        GroupError: training with a group outside of `spmd.shard_map` over it.
        RankError: the input has no channel axis.
        ShapeError: training with one value a channel, which has no variance.

    Source: Ioffe and Szegedy 2015 (1502.03167), algorithms 1 and 2.

    Example:
        >>> block = BatchNorm(2)
        >>> params, state = block.init(torch.Generator())
        >>> _, new_state = block.apply(params, torch.ones(4, 2), state, {}, training=True)
        >>> new_state["running_mean"], state["running_mean"]
        (tensor([0.1000, 0.1000]), tensor([0., 0.]))
    """

    channels: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    weight_init: Initializer = ONES
    group: Group = None

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Return weight, bias and the statistics of no batch; statistics are float32 at least."""
        check_generator(generator)
        shape, wide = (self.channels,), torch.promote_types(dtype, torch.float32)
        params: Params = {}
        if self.affine:
            params["weight"] = self.weight_init(shape, generator, dtype, device)
            params["bias"] = ZEROS(shape, generator, dtype, device)
        state: State = {
            "running_mean": ZEROS(shape, generator, wide, device),
            "running_var": ONES(shape, generator, wide, device),
            "num_batches_tracked": placed(torch.zeros((), dtype=torch.int64), device),
        }
        return params, state

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Normalise; in training return the updated statistics."""
        if not isinstance(x, Tensor):
            raise explain(self, params, x, TypeError())
        if x.ndim < 2:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, {self.channels}, *space)")
        if len(params) != 2 * self.affine:
            check_params(self, params)
        if training and self.group is None and x.shape[0] * math.prod(x.shape[2:]) == 1:
            raise ShapeError(
                f"BatchNorm in training: input {describe(x)} has one value a channel, which has no variance: "
                "use a larger batch, evaluation, or LayerNorm or GroupNorm"
            )
        try:
            wide = widen(x)
            weight, bias = _gain(params, "weight", x), _gain(params, "bias", x)
            if not training:
                mean, var = state["running_mean"].to(wide.dtype), state["running_var"].to(wide.dtype)
                y = batch_norm(wide, mean, var, weight, bias, False, 0.0, self.eps)
                return y.to(x.dtype), state
            if self.group is not None:
                y, mean, var = self._over_ranks(wide, weight, bias)
                return y.to(x.dtype), self._updated(state, mean, var)
            y = batch_norm(wide, None, None, weight, bias, True, 0.0, self.eps).to(x.dtype)
            var, mean = torch.var_mean(wide.detach(), dim=(0, *range(2, x.ndim)), correction=1)
            return y, self._updated(state, mean, var)
        except (KeyError, RuntimeError, TypeError) as error:
            if isinstance(error, PureError):
                raise
            check_params(self, params, state)
            raise explain(self, params, x, error) from error

    def _over_ranks(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, and the mean and unbiased variance of all ranks' batches together."""
        axes, place = (0, *range(2, x.ndim)), (1, -1, *(1,) * (x.ndim - 2))
        count = count_over_ranks(x.shape[0] * math.prod(x.shape[2:]), self.group, "BatchNorm")
        if count <= 1:
            raise ShapeError(
                "BatchNorm in training: all ranks together have one value a channel, which has no variance"
            )
        mean = psum(x.sum(axes), self.group) / count
        centred = x - mean.reshape(place)
        var = psum(centred.square().sum(axes), self.group) / count
        y = centred * (var + self.eps).rsqrt().reshape(place)
        y = y if weight is None else y * weight.reshape(place)
        y = y if bias is None else y + bias.reshape(place)
        return y, mean.detach(), var.detach() * (count / (count - 1))

    def _updated(self, state: State, mean: Tensor, var: Tensor) -> State:
        seen = state["num_batches_tracked"] + 1
        old_mean, old_var = state["running_mean"], state["running_var"]
        rate: Any = 1.0 / seen.to(old_mean.dtype) if self.momentum is None else self.momentum
        return {
            "running_mean": (1 - rate) * old_mean + rate * mean.to(old_mean.dtype),
            "running_var": (1 - rate) * old_var + rate * var.to(old_var.dtype),
            "num_batches_tracked": seen,
        }

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)
