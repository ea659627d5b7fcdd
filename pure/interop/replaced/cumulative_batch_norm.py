"""Batch normalisation with cumulative running statistics, whose counter never becomes a Python number."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["make_cumulative"]


class _Cumulative(_BatchNorm):
    """BatchNorm with `momentum=None`, which in PyTorch reads its counter's value: a graph and `vmap` cannot."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in training the running statistics become the mean of all batches'."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        y = nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        wide = x.detach().to(torch.promote_types(x.dtype, self.running_mean.dtype))
        variance, mean = torch.var_mean(wide, [0, *range(2, x.dim())])
        share = 1.0 / self.num_batches_tracked.to(mean.dtype)
        self.running_mean = share * mean.to(self.running_mean.dtype) + (1 - share) * self.running_mean
        self.running_var = share * variance.to(self.running_var.dtype) + (1 - share) * self.running_var
        return y


class _Cumulative1d(_Cumulative, nn.BatchNorm1d):
    pass


class _Cumulative2d(_Cumulative, nn.BatchNorm2d):
    pass


class _Cumulative3d(_Cumulative, nn.BatchNorm3d):
    pass


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _Cumulative1d,
    nn.BatchNorm2d: _Cumulative2d,
    nn.BatchNorm3d: _Cumulative3d,
}


def make_cumulative(module: nn.Module) -> None:
    """Give each BatchNorm with `momentum=None` in a module the forward that computes its share as a tensor."""
    for part in module.modules():
        kind = _KINDS.get(type(part))
        if kind is not None and getattr(part, "momentum", 0.0) is None:
            part.__class__ = kind
