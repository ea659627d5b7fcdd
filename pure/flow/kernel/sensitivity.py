"""Seeing the linear maps inside a function of one sample: their inputs, and how the outputs change with theirs.

For a linear map or convolution z = Wa the Jacobian of an output y w.r.t. W is Σ_t (∂y/∂z_t) ⊗ a_t.
`SensitivityRecorder` runs while a function is mapped over its samples. It keeps the inputs a, and adds to z a shift
that is zero, so that ∂y/∂shift is ∂y/∂z for each sample by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.flow.per_sample.call_recorder import RECOGNISED, CallRecorder
from pure.flow.per_sample.convolution import Convolution, unfolded
from pure.flow.per_sample.linear import Product
from pure.flow.per_sample.weight_use import Call
from pure.flow.shared.leaf_provenance import Origin

__all__ = ["LinearMap", "SensitivityRecorder"]

MAPS = {function: RECOGNISED[function] for function in (F.linear, F.conv1d, F.conv2d, F.conv3d)}


@dataclass(frozen=True, eq=False)
class LinearMap:
    """One call of `F.linear` or of a convolution.

    Attributes:
        use: how it uses its weight.
        weight: which leaf, or slice of one, is the weight.
        bias: which is the bias, None if there is none or it is no parameter.
        shape: of the output of one sample.
        dtype: of the output.
        device: of the output.
    """

    use: Product | Convolution
    weight: Origin
    bias: Origin | None
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @property
    def groups(self) -> int:
        """Into how many groups the channels are split."""
        return self.use.geometry.groups if isinstance(self.use, Convolution) else 1

    @property
    def dims(self) -> int:
        """Spatial axes, 0 for a linear map."""
        return self.use.rank - 1

    def inputs(self, a: Tensor) -> Tensor:
        """Return (samples, positions, groups, values), what each output position sees, from the samples' inputs."""
        x = a.reshape(-1, *a.shape[a.ndim - self.use.rank :])
        seen = unfolded(x, self.use.geometry) if isinstance(self.use, Convolution) else x[:, None, None, :]
        return seen.reshape(len(a), -1, *seen.shape[2:])

    def slopes(self, s: Tensor) -> Tensor:
        """Return (outputs, samples, positions, groups, channels) from the gradients w.r.t. the shifts."""
        return s.movedim(self.use.channels, -1).flatten(2, -2).unflatten(-1, (self.groups, -1))


class SensitivityRecorder(CallRecorder):
    """While it is active, inside a map over the samples, keeps each use of a leaf as the weight of a linear map.

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
        super().__init__(leaves, {name: leaf.detach() for name, leaf in leaves.items()}, recognised=MAPS)
        self.found: list[LinearMap] = []
        self.inputs: list[Tensor] = []
        self._shifts = shifts

    def run(self, call: Call) -> Tensor | None:
        """Run a linear map with a constant weight, keep its input, and add the shift."""
        use = call.use
        if not isinstance(use, Product | Convolution) or use.weight is None:
            return None
        if isinstance(use, Product) and use.transposed:
            return None
        z = use.run(call.input, self.parameters.value(use.weight), self.parameters.value(use.bias))
        self.inputs.append(call.input.detach())
        shift = None if self._shifts is None else self._shifts[len(self.found)]
        self.found.append(LinearMap(use, use.weight, use.bias, z.shape, z.dtype, z.device))
        return z if shift is None else z + shift
