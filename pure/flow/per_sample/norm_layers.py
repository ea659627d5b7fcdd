"""Normalisations with a weight and a bias, recognised as uses of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.flow.per_sample.recorded_call import Call, Constants
from pure.flow.per_sample.weight_uses import Affine

__all__ = ["NORMS"]

Normalise = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def affine(
    constants: Constants,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    norm: Normalise,
    rank: int,
    trailing: bool,
) -> Call | None:
    """Return a normalisation whose weight and bias are parameters or left out.

    Args:
        constants: the parameters.
        input: what is normalised.
        weight: as given.
        bias: as given.
        norm: (x, weight, bias) → y.
        rank: axes of one input that is normalised by itself.
        trailing: whether weight and bias run along the trailing axes, not along the first of one input.
    """
    gain, shift = constants.optional(weight), constants.optional(bias)
    copy = bias if weight is None else weight
    if copy is None or gain is None or shift is None or input.ndim < rank:
        return None
    use = Affine(
        weight=gain[0],
        bias=shift[0],
        shape=tuple(copy.shape),
        run=lambda x: norm(x, gain[1], shift[1]),
        rank=rank,
        channels=-1,
        normalise=lambda x: norm(x, None, None),
        trailing=trailing,
    )
    return Call(use, input)


def layer_norm(
    constants: Constants,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Call | None:
    """F.layer_norm."""
    shape = list(normalized_shape)
    return affine(
        constants, input, weight, bias, lambda x, w, b: F.layer_norm(x, shape, w, b, eps), len(shape), trailing=True
    )


def rms_norm(
    constants: Constants,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Call | None:
    """F.rms_norm."""
    shape = list(normalized_shape)
    return affine(
        constants, input, weight, None, lambda x, w, _: F.rms_norm(x, shape, w, eps), len(shape), trailing=True
    )


def group_norm(
    constants: Constants,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Call | None:
    """F.group_norm."""
    return affine(
        constants,
        input,
        weight,
        bias,
        lambda x, w, b: F.group_norm(x, num_groups, w, b, eps),
        input.ndim - 1,
        trailing=False,
    )


def instance_norm(
    constants: Constants,
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
    return affine(
        constants,
        input,
        weight,
        bias,
        lambda x, w, b: F.instance_norm(x, None, None, w, b, True, momentum, eps),
        input.ndim - 1,
        trailing=False,
    )


def batch_norm(
    constants: Constants,
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
    return affine(
        constants,
        input,
        weight,
        bias,
        lambda x, w, b: F.batch_norm(x, mean, var, w, b, False, momentum, eps),
        input.ndim - 1,
        trailing=False,
    )


NORMS: dict[Any, Callable[..., Call | None]] = {
    F.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    F.group_norm: group_norm,
    F.instance_norm: instance_norm,
    F.batch_norm: batch_norm,
}
