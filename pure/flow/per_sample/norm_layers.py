"""The weight and bias of layer, RMS, group and instance normalisation, and of batch normalisation in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.flow.per_sample.outer_products import row_slices
from pure.flow.per_sample.weight_use import Call, Parameters, Run, WeightUse

__all__ = ["NORMS", "Affine"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(WeightUse):
    """The weight and bias behind a normalisation, y = x̂ ⊙ weight + bias.

    Attributes:
        trailing: whether weight and bias run along the trailing axes, as in LayerNorm, not along the channels.
    """

    trailing: bool

    def summed(self, v: Tensor) -> Tensor:
        """Return the sums of (batch, runs a sample, …) over all but the batch's and the weight's axes."""
        axes = (1,) if self.trailing else (1, *range(3, v.ndim))
        return v.squeeze(1) if axes == (1,) and v.shape[1] == 1 else v.sum(axes)

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the sums of g ⊙ x̂."""
        parts = []
        for rows in row_slices(len(x), x[0].numel(), x.device):
            part = x[rows]
            normal = self.run(part.reshape(-1, *part.shape[part.ndim - self.rank :]), None, None)
            parts.append(self.summed(normal.reshape(g[rows].shape) * g[rows]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def bias_gradient(self, g: Tensor) -> Tensor:
        """Return the sums of g."""
        return self.summed(g)


def _affine(
    parameters: Parameters,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    norm: Run,
    rank: int,
    trailing: bool,
) -> Call | None:
    """Return a normalisation whose weight and bias are parameters or left out.

    Args:
        parameters: the parameters.
        input: what is normalised.
        weight: as given.
        bias: as given.
        norm: (x, weight, bias) → y.
        rank: axes of one input that is normalised by itself.
        trailing: whether weight and bias run along the trailing axes, not along the first of one input.
    """
    gain, shift = parameters.origin(weight), parameters.origin(bias)
    given = bias if weight is None else weight
    if given is None or input.ndim < rank:
        return None
    if (weight is not None and gain is None) or (bias is not None and shift is None):
        return None
    use = Affine(weight=gain, bias=shift, shape=tuple(given.shape), run=norm, rank=rank, channels=-1, trailing=trailing)
    return Call(use, input)


def _along_channels(
    parameters: Parameters, input: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Run
) -> Call | None:
    """Return a normalisation of each sample by itself, (batch, channels, …), weight and bias along the channels."""
    return _affine(parameters, input, weight, bias, norm, input.ndim - 1, trailing=False)


def _layer_norm(
    parameters: Parameters,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Call | None:
    """F.layer_norm, and the operator in it, which is all that is seen inside a block made of a module."""
    shape = list(normalized_shape)
    return _affine(
        parameters, input, weight, bias, lambda x, w, b: F.layer_norm(x, shape, w, b, eps), len(shape), trailing=True
    )


def _rms_norm(
    parameters: Parameters,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Call | None:
    """F.rms_norm."""
    shape = list(normalized_shape)
    return _affine(
        parameters, input, weight, None, lambda x, w, _: F.rms_norm(x, shape, w, eps), len(shape), trailing=True
    )


def _group_norm(
    parameters: Parameters,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Call | None:
    """F.group_norm, and the operator in it."""
    return _along_channels(parameters, input, weight, bias, lambda x, w, b: F.group_norm(x, num_groups, w, b, eps))


def _instance_norm(
    parameters: Parameters,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call | None:
    """F.instance_norm by the input's own statistics."""
    if running_mean is not None or running_var is not None or not use_input_stats or input.ndim < 3:
        return None
    return _along_channels(
        parameters, input, weight, bias, lambda x, w, b: F.instance_norm(x, None, None, w, b, True, momentum, eps)
    )


def _batch_norm(
    parameters: Parameters,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call | None:
    """F.batch_norm in evaluation, by statistics that are the same for all samples."""
    mapped = torch._C._functorch.is_functorch_wrapped_tensor
    mean, var = running_mean, running_var
    if mean is None or var is None or mapped(mean) or mapped(var) or mean.requires_grad or var.requires_grad:
        return None
    return _along_channels(
        parameters, input, weight, bias, lambda x, w, b: F.batch_norm(x, mean, var, w, b, False, momentum, eps)
    )


NORMS: dict[Any, Callable[..., Call | None]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
}
"""Function → what reads its arguments; None from it means that this use is not known."""
