"""Seeing the linear maps inside a function of one sample: their inputs, and how the outputs change with theirs.

For a linear map or convolution z = Wa the Jacobian of an output y by W is Σ_t (∂y/∂z_t) ⊗ a_t. `Maps` runs while a
function is mapped over its samples. It keeps the inputs a, and adds to z a shift that is zero, so that ∂y/∂shift is
∂y/∂z for each sample by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.flow.per_sample.conv_windows import pads, spread, unfolded
from pure.flow.shared.input_checks import batch_norm_error
from pure.flow.shared.leaf_provenance import Origin, Provenance

__all__ = ["LinearMap", "Maps"]

CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
BATCH_NORMS = (F.batch_norm, torch.batch_norm)


@dataclass(frozen=True, eq=False)
class LinearMap:
    """One call of `F.linear` or of a convolution.

    Attributes:
        weight: which leaf, or slice of one, is the weight.
        bias: which is the bias, None if there is none or it is no parameter.
        shape: of the output of one sample.
        dtype: of the output.
        device: of the output.
        groups: into how many groups the channels are split.
        dims: spatial axes, 0 for a linear map.
        windows: inputs (n, …) → (n, positions, groups, values): what each output position sees.
    """

    weight: Origin
    bias: Origin | None
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    groups: int
    dims: int
    windows: Callable[[Tensor], Tensor]

    def inputs(self, a: Tensor) -> Tensor:
        """Return (samples, positions, groups, values) from the samples' inputs."""
        rank = self.dims + 1
        seen = self.windows(a.reshape(-1, *a.shape[a.ndim - rank :]))
        return seen.reshape(len(a), -1, *seen.shape[2:])

    def slopes(self, s: Tensor) -> Tensor:
        """Return (outputs, samples, positions, groups, channels) from the gradients by the shifts."""
        return s.movedim(-1 - self.dims, -1).flatten(2, -2).unflatten(-1, (self.groups, -1))


class Maps(Provenance):
    """While it is active, inside a map over the samples, keeps each use of a leaf as a weight.

    Args:
        leaves: {dotted name: the very tensor that the function sees}: the leaves to follow.
        shifts: what to add to the outputs, in order of the calls; None to find out how many are needed.

    Attributes:
        found: the calls.
        inputs: their inputs, as the function sees them.

    Raises:
        UnsupportedError: the function runs batch normalisation by batch statistics.
    """

    def __init__(self, leaves: Mapping[str, Tensor], shifts: Sequence[Tensor] | None = None) -> None:
        super().__init__(leaves)
        self.found: list[LinearMap] = []
        self.inputs: list[Tensor] = []
        self._shifts = shifts
        self._level = torch._C._functorch.maybe_current_level()

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Keep linear maps and convolutions, refuse batch statistics, and run the rest."""
        kwargs = kwargs or {}
        if func in BATCH_NORMS and (args[5] if len(args) > 5 else kwargs.get("training", False)):
            raise batch_norm_error()
        if torch._C._functorch.maybe_current_level() == self._level:
            if func is F.linear:
                return self._run(func, 0, *args, **kwargs)
            if func in CONVOLUTIONS:
                return self._run(func, CONVOLUTIONS[func], *args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)

    def _run(
        self,
        func: Callable[..., Tensor],
        dims: int,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **named: Any,
    ) -> Tensor:
        origin, bias_origin = self.origin(weight), self.origin(bias)
        fits = weight.ndim == (dims + 2 if dims else 2) and input.ndim > dims
        if origin is None or not fits:
            return func(input, weight, bias, *rest, **named)
        constant = bias.detach() if bias is not None and bias_origin is not None else bias
        z = func(input, weight.detach(), constant, *rest, **named)
        names = ("stride", "padding", "dilation", "groups")
        options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | dict(zip(names, rest, strict=False)) | named
        windows = _windows(tuple(weight.shape[2:]), **options) if dims else _vectors
        groups = int(options["groups"]) if dims else 1
        index = len(self.found)
        self.found.append(LinearMap(origin, bias_origin, z.shape, z.dtype, z.device, groups, dims, windows))
        self.inputs.append(input.detach())
        return z if self._shifts is None else z + self._shifts[index]


def _vectors(x: Tensor) -> Tensor:
    return x[:, None, None, :]


def _windows(
    kernel: tuple[int, ...],
    *,
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Callable[[Tensor], Tensor]:
    """Return the function that gives what each position of a convolution's output sees."""
    steps, gaps = spread(stride, len(kernel)), spread(dilation, len(kernel))
    zeros = pads(padding, kernel, gaps)
    return lambda x: unfolded(x, kernel, steps, zeros, gaps, groups)
