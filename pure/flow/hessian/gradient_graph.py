"""The graph of a gradient without the values of weights' gradients, which a Hessian product does not need.

For y = W x + b the gradient w.r.t. W is g ⊗ x, g being the gradient w.r.t. y. Its product with a direction v is
⟨g, v x⟩, so that Hv is what two cotangents pull back: v x along g, and vᵀ g along x. Only g is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pure.flow.hessian.tanh_gelu import tanh_gelu
from pure.flow.per_sample.call_recorder import RECOGNISED, CallRecorder
from pure.flow.per_sample.convolution import CONVOLUTIONS
from pure.flow.per_sample.linear import PRODUCTS
from pure.flow.per_sample.weight_use import Call, Parameters, WeightUse

__all__ = ["GradientRecorder", "MatrixCall"]

MATRIX_CALLS = {function: RECOGNISED[function] for function in (*PRODUCTS, *CONVOLUTIONS)}
UNSAFE = frozenset(
    (
        *(torch.autograd.grad, torch.autograd.backward, Tensor.backward),
        *(Tensor.register_hook, Tensor.register_post_accumulate_grad_hook, Tensor.retain_grad),
        *(Tensor.grad_fn.__get__, Tensor.grad.__get__),  # type: ignore[union-attr]
    )
)
"""By which a loss can have a gradient's values read: gradients of its own, and hooks on a tensor or a node."""


def _plain(x: Tensor) -> bool:
    """Return whether nothing around a call sees its operations: autocast, forward mode, or checkpointing's hooks."""
    return (
        x.dtype in (torch.float32, torch.float64)  # in half types PyTorch's kernels compute in float32 inside
        and not torch.is_autocast_enabled(x.device.type)
        and forward_ad._current_level < 0
        and torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    )


def _gelu(input: Tensor, *, approximate: str = "none") -> Tensor | None:
    wanted = approximate == "tanh" and isinstance(input, Tensor) and input.requires_grad and torch.is_grad_enabled()
    return tanh_gelu(input) if wanted and _plain(input) else None


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    """Without a gain but with a bias, PyTorch's second derivative fails."""
    if weight is not None or bias is None or bias.shape != tuple(normalized_shape):
        return None
    return F.layer_norm(input, normalized_shape, eps=eps) + bias


SECOND_DERIVATIVES: dict[Any, Callable[..., Tensor | None]] = {F.gelu: _gelu, F.layer_norm: _layer_norm}
"""Function → the same in another form, for its second derivative; None from it leaves the call as it is."""


@dataclass(frozen=True, eq=False)
class MatrixCall:
    """A matrix product or convolution that has run.

    Attributes:
        use: how it used its weight.
        x: its input.
        version: of the input; another one later says that it was changed in place.
        output: the edge of the graph at its output.
    """

    use: WeightUse
    x: Tensor
    version: int
    output: GradientEdge

    def cotangents(self, g: Tensor, directions: Parameters) -> list[tuple[Tensor, Tensor]]:
        """Return what to pull back for a direction: (a tensor of the graph, its cotangent).

        Args:
            g: gradient w.r.t. the output.
            directions: the direction, a tensor for each parameter.
        """
        v, c = directions.value(self.use.weight), directions.value(self.use.bias)
        if not self.x.requires_grad:
            return [(g, self.use.run(self.x.detach(), v, c))]
        y, pull = torch.func.vjp(lambda x: self.use.run(x, v, c), self.x.detach())[:2]
        return [(g, y), (self.x, pull(g.detach())[0])]


class GradientRecorder(CallRecorder):
    """While it is active, keeps matrix products and convolutions with parameters.

    Args:
        leaves: {dotted name: parameter}.

    Attributes:
        copies: {dotted name: another leaf of the same values}, for the loss to see; recorded calls read the parameter.
        found: the recorded calls.
        unsafe: whether the loss took a gradient or set a hook, so that the whole gradient has to be formed.
    """

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        self.copies = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
        super().__init__(self.copies, leaves, recognised=MATRIX_CALLS, per_sample=False)
        self.found: list[MatrixCall] = []
        self.unsafe = False

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, recorded if it is a matrix product or convolution."""
        if torch.compiler.is_dynamo_compiling():
            return func(*args, **(kwargs or {}))
        self.unsafe |= func in UNSAFE
        other = SECOND_DERIVATIVES.get(func)
        y = other(*args, **(kwargs or {})) if other is not None and self._level == maybe_current_level() else None
        return y if y is not None else super().__torch_function__(func, types, args, kwargs)

    def run(self, call: Call) -> Tensor | None:
        """Run and keep a call, unless something around it would see other operations than the loss's own."""
        use, x = call.use, call.input
        weight, bias = self.parameters.value(use.weight), self.parameters.value(use.bias)
        if weight is None or x.dtype != weight.dtype or not _plain(x):
            return None
        y = use.run(x, weight, bias)
        y = y.clone() if y._is_view() else y  # what works on a view in place would cut it out of the graph
        self.found.append(MatrixCall(use, x, x._version, get_gradient_edge(y)))
        return y

    def changed(self) -> bool:
        """Return whether what a recorded call has read was changed in place afterwards."""
        return any(call.x._version != call.version for call in self.found)
