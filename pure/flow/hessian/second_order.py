"""Layers in a form whose second derivative is cheap, while the graph of a gradient is built.

`SecondOrder` puts them in the place of PyTorch's own. Each is the same function with the same value; what is saved is
work in the derivative of its gradient, which autograd puts together from many small operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from pure.flow.hessian.bent import bent, gelu, gelu_tanh, kinked
from pure.flow.hessian.bilinear import ChannelScale, Convolution, Linear, bilinear
from pure.flow.hessian.layer_norm import layer_norm
from pure.flow.hessian.stages import Stages
from pure.flow.per_sample.conv_windows import spread

__all__ = ["SecondOrder"]


def _linear(stages: Stages, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    return bilinear(Linear(), stages, input, weight, bias) if weight.ndim == 2 and weight.requires_grad else None


def _convolution(
    axes: int,
    stages: Stages,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    if not weight.requires_grad or not input.ndim == weight.ndim == axes + 2:
        return None
    if isinstance(padding, str) and any(step != 1 for step in spread(stride, axes)):
        return None  # which PyTorch refuses for "same"
    maps = Convolution.given(weight, stride, padding, dilation, groups)
    return bilinear(maps, stages, input, weight, bias) if maps else None


def _batch_norm(
    stages: Stages,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if training or running_mean is None or running_var is None:
        return None
    if running_mean.requires_grad or running_var.requires_grad or weight is None or not weight.requires_grad:
        return None
    return bilinear(ChannelScale(running_mean, running_var, eps), stages, input, weight, bias)


def _layer_norm(
    stages: Stages,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if any(given is not None and given.shape != tuple(normalized_shape) for given in (weight, bias)):
        return None
    weight = input.new_ones(tuple(normalized_shape)) if weight is None else weight
    return layer_norm(stages, input, weight, bias, eps)


def _gelu(stages: Stages, input: Tensor, *, approximate: str = "none") -> Tensor | None:
    return bent(gelu_tanh if approximate == "tanh" else gelu, stages, input)


def _relu(stages: Stages, input: Tensor, inplace: bool = False) -> Tensor | None:
    return None if inplace else kinked(input)


RULES: dict[Any, Callable[..., Tensor | None]] = {
    F.linear: _linear,
    **{conv: partial(_convolution, axes) for axes, conv in enumerate((F.conv1d, F.conv2d, F.conv3d), 1)},
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.gelu: _gelu,
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _relu),
}
"""Function → what runs in its place; None from it means that this use is left as it is.

Where the weight is a constant, PyTorch's own form keeps less and costs as little.
"""

WATCHING = frozenset(
    (
        Tensor.register_hook,
        Tensor.register_post_accumulate_grad_hook,
        Tensor.retain_grad,
        Tensor.grad_fn.__get__,  # type: ignore[union-attr]
    )
)
"""By which a loss can have a gradient's values read: hooks on a tensor, or on a node."""


class SecondOrder(TorchFunctionMode):
    """While it is active, layers run in a form whose second derivative is cheap.

    Args:
        stages: of the Hessian product; the loss runs in its first.
    """

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self._stages = stages

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, in its other form if there is one and its arguments are ordinary."""
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return func(*args, **kwargs)
        if func in WATCHING:
            self._stages.watched = True
        rule = RULES.get(func)
        if rule is not None and _ordinary([*args, *kwargs.values()]):
            found = rule(self._stages, *args, **kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)


def _ordinary(arguments: Iterable[Any]) -> bool:
    """Return whether the tensors are plain, of float32 or of float64, and nothing around them sees operations.

    A transform, forward mode, autocast and hooks on saved tensors, such as checkpointing sets, would see them. In half
    types PyTorch's kernels compute in float32 inside.
    """
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    return (
        bool(tensors)
        and torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors)
        and tensors[0].dtype in (torch.float32, torch.float64)
        and all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
        and all(tensor.layout is torch.strided and tensor.dtype == tensors[0].dtype for tensor in tensors)
        and torch._C._functorch.maybe_current_level() is None
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled(tensors[0].device.type)
        and torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    )
