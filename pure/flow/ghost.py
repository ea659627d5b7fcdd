"""Seeing a weight's use inside a per-sample loss: its inputs and its output, in place of its gradient.

A linear map or convolution with weight W and one sample's inputs a_t gives ∂loss/∂W = Σ_t g_t ⊗ a_t, where g is the
gradient by its output. `Uses` runs while the loss is mapped over the samples. It gives `F.linear` and `F.conv1d/2d/3d`
the weight as a constant and keeps a and the output; whatever else a parameter does goes through the parameter's own
per-sample copy, whose gradient is then the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pure.flow.checks import batch_norm_error
from pure.flow.provenance import Origin, Provenance

__all__ = ["Use", "Uses"]

CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
BATCH_NORMS = (F.batch_norm, torch.batch_norm)


@dataclass(eq=False)
class Use:
    """One call of `F.linear` or a convolution.

    Attributes:
        weight: which leaf, or slice of one, is the weight.
        bias: which is the bias, None if there is none or it is no parameter.
        run: the operation on a batch of inputs, the weight and bias constants.
        rank: axes of one input of `run`, its batch axis not counted.
        windows: inputs of `run` → (n, time, groups, values): what each output position sees.
        groups: into how many groups the channels are split.
        channels: axis of the output's channels, from the end.
        inputs: (batch, …), set once it has run, as are the next two.
        version: of the inputs; another one later says that they were changed in place.
        output: where `run`'s output stands in the graph; a later change in place leaves that as it is.
    """

    weight: Origin
    bias: Origin | None
    run: Callable[[Tensor], Tensor]
    rank: int
    windows: Callable[[Tensor], Tensor]
    groups: int
    channels: int
    inputs: Tensor | None = None
    version: int = 0
    output: GradientEdge | None = None

    def factors(self, gradient: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return a (batch, time, groups, inputs) and g (batch, time, groups, outputs) of some samples.

        Args:
            gradient: by the output of `run`.
            rows: which samples.
        """
        assert self.inputs is not None
        x, g = self.inputs[rows], self.signals(gradient)[rows]
        a = self.windows(x.reshape(-1, *x.shape[x.ndim - self.rank :]))
        return a.reshape(len(x), -1, *a.shape[2:]), g.unflatten(2, (self.groups, -1))

    def signals(self, gradient: Tensor) -> Tensor:
        """Return the gradient by the output of `run` as (batch, time, channels)."""
        assert self.inputs is not None
        last = gradient.unflatten(0, (len(self.inputs), -1)).movedim(self.channels, -1)
        return last.flatten(1, -2)


class _Kept(torch.autograd.Function):
    """Runs a use on the samples' own tensors, below the map over the samples, where the graph is recorded."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, use: Use) -> Tensor:
        raise AssertionError("only ever called on a mapped weight")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is saved: the operation inside `vmap` has its own graph."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, use: Use) -> tuple[Tensor, int]:
        """Run on (batch, …) and keep input and output; `weight` is there to be mapped, whatever x is."""
        x = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        lead = x.shape[: x.ndim - use.rank]
        y = use.run(x.reshape(-1, *x.shape[len(lead) :]))
        if not y.requires_grad:
            y.requires_grad_()
        if y.is_leaf or y._is_view():
            y = y.clone()  # what follows may work on it in place, which would cut a leaf or a view out of the graph
        use.inputs, use.version, use.output = x.detach(), x._version, get_gradient_edge(y)
        return y.reshape(*lead, *y.shape[1:]), 0


class Uses(Provenance):
    """While it is active, keeps each use of a parameter as the weight of a linear map or convolution.

    It is entered inside the map over the samples. An operation inside a further transform is left alone.

    Args:
        leaves: {dotted name: the per-sample copy that the loss sees}.
        constants: {dotted name: the parameter itself, which has no gradient}.
        active: False to intercept nothing.

    Raises:
        UnsupportedError: the loss runs batch normalisation by batch statistics.
    """

    def __init__(self, leaves: Mapping[str, Tensor], constants: Mapping[str, Tensor], *, active: bool = True) -> None:
        super().__init__(leaves)
        self.found: list[Use] = []
        self._constants = constants
        self._active = active
        self._level = torch._C._functorch.maybe_current_level()

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Intercept linear maps and convolutions, refuse batch statistics, and run the rest."""
        kwargs = kwargs or {}
        if func in BATCH_NORMS and (args[5] if len(args) > 5 else kwargs.get("training", False)):
            raise batch_norm_error()
        if self._active and torch._C._functorch.maybe_current_level() == self._level:
            if func is F.linear:
                use = self._linear(*args, **kwargs)
            elif func in CONVOLUTIONS:
                use = self._convolution(CONVOLUTIONS[func], func, *args, **kwargs)
            else:
                use = None
            if use is not None:
                return self._keep(use, *args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)

    def _constant(self, origin: Origin | None) -> Tensor | None:
        return None if origin is None else self._constants[origin.name][origin.path]

    def _keep(self, use: Use, input: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        self.found.append(use)
        y: Tensor = _Kept.apply(input, weight, use)
        if bias is None or use.bias is not None:
            return y
        return y + bias.reshape(-1, *(1,) * (-1 - use.channels))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Use | None:
        origin = self.origin(weight)
        if origin is None or weight.ndim != 2 or input.ndim == 0:
            return None
        bias_origin = self.origin(bias)
        w, b = self._constant(origin), self._constant(bias_origin)
        assert w is not None

        def run(x: Tensor) -> Tensor:
            return F.linear(x, w, b)

        def windows(x: Tensor) -> Tensor:
            return x[:, None, None, :]

        return Use(origin, bias_origin, run, 1, windows, 1, -1)

    def _convolution(
        self,
        dims: int,
        conv: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Use | None:
        origin = self.origin(weight)
        if origin is None or weight.ndim != dims + 2 or input.ndim not in (dims + 1, dims + 2):
            return None
        bias_origin = self.origin(bias)
        w, b = self._constant(origin), self._constant(bias_origin)
        assert w is not None
        kernel = tuple(w.shape[2:])
        steps, gaps = _each(stride, dims), _each(dilation, dims)
        pads = _pads(padding, kernel, gaps)

        def run(x: Tensor) -> Tensor:
            return conv(x, w, b, stride, padding, dilation, groups)

        def windows(x: Tensor) -> Tensor:
            return unfolded(x, kernel, steps, pads, gaps, groups)

        return Use(origin, bias_origin, run, dims + 1, windows, groups, -1 - dims)


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * dims if len(sizes) == 1 else sizes


def _pads(
    padding: int | str | Sequence[int], kernel: tuple[int, ...], gaps: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """Return the zeros before and behind each spatial axis; an odd rest of "same" goes behind, as in PyTorch."""
    if not isinstance(padding, str):
        return tuple((pad, pad) for pad in _each(padding, len(kernel)))
    totals = [gap * (size - 1) if padding == "same" else 0 for size, gap in zip(kernel, gaps, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def unfolded(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """Return what each output position of a convolution sees, for any number of spatial axes.

    Args:
        x: (n, channels, *space).
        kernel: size along each spatial axis.
        stride: likewise.
        pads: zeros before and behind, likewise.
        dilation: likewise.
        groups: into how many groups the channels are split.

    Returns:
        (n, positions, groups, channels / groups · kernel values), the last axis in the order of the weight's.
    """
    dims = len(kernel)
    x = F.pad(x, [pad for pair in reversed(pads) for pad in pair])
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    x = x.unflatten(1, (groups, -1))  # (n, groups, channels / groups, *positions, *kernel)
    positions, window = range(3, 3 + dims), range(3 + dims, 3 + 2 * dims)
    x = x.permute(0, *positions, 1, 2, *window)
    return x.flatten(2 + dims).flatten(1, dims)
