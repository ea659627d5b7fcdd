"""Functions of PyTorch whose kernels lack a derivative or a batching rule, from operations that have all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad

from pure.errors import UnsupportedError
from pure.interop.one_path import SeesThrough
from pure.interop.replaced.recurrence import CELLS, recurrence
from pure.layers.alignment import widen
from pure.layers.distances import composed_cosine_similarity, composed_norm_of, vector_norm
from pure.layers.norm_kernels import composed_layer_norm, composed_norm
from pure.layers.transform_levels import is_forward, is_nested

__all__ = ["ComposedKernels", "TransformType", "active", "transformed"]

_PACKED = (
    "a packed sequence has steps of different batch sizes, which transforms and files cannot have: run the module on "
    "the padded tensor, and take what comes before each length, as by a mask or gather"
)


def transformed() -> bool:
    """Return whether a transform, a forward-mode level or a recording is active."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


def active(kind: TransformType) -> bool:
    """Return whether a transform of `torch.func` of this kind is active."""
    return any(level.key() == kind for level in retrieve_all_functorch_interpreters())


def _recurrent(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute LSTM, GRU and RNN step by step."""
    if not isinstance(args[3], bool):  # a packed sequence: x, batch_sizes, hx, weights
        raise UnsupportedError(_PACKED)
    x, hidden, weights, biased, layers, rate, training, both, batch_first = args
    if training and rate > 0 and layers > 1:  # answered by `ReplacedDraws`, or drawn from the global generator
        return func(*args, **kwargs)
    states = tuple(hidden) if isinstance(hidden, list | tuple) else (hidden,)
    return recurrence(func.__name__, x, states, weights, biased, layers, both, batch_first)


def _pack(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    raise UnsupportedError(_PACKED)


def _attention(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute attention by its definition: the fused kernels have no forward mode, batching or second derivative."""
    query, *rest = args
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return func(query, *rest, **kwargs)


def _weight_norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute g v / ‖v‖, the norm over all axes but one; the kernel has no batching rule."""
    v, g, dim = (*args, 0)[:3]
    axes = [axis for axis in range(v.dim()) if axis != dim % v.dim()] if dim != -1 else list(range(v.dim()))
    return v * (g / vector_norm(v, axes, keepdim=True)) if axes else func(*args, **kwargs)


def _batch_norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute training-mode batch normalisation from moments in second derivatives, where PyTorch's are wrong."""
    x, weight, bias, mean, variance, training, momentum, eps, *_ = args
    if not training or not is_nested(x, weight, bias):
        return func(*args, **kwargs)
    axes = [0, *range(2, x.dim())]
    if mean is not None:
        batch_variance, batch_mean = torch.var_mean(x.detach(), axes)
        mean.copy_(momentum * batch_mean.to(mean.dtype) + (1 - momentum) * mean)
        variance.copy_(momentum * batch_variance.to(variance.dtype) + (1 - momentum) * variance)
    return composed_norm(widen(x), axes, weight, bias, eps).to(x.dtype)


def _instance_norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute normalisation over space, of each sample and channel, likewise."""
    x, weight, bias, mean, variance, by_input, momentum, eps, *_ = args
    if not by_input or not is_nested(x, weight, bias):
        return func(*args, **kwargs)
    axes = tuple(range(2, x.dim()))
    if mean is not None:
        each_variance, each_mean = torch.var_mean(x.detach(), axes)
        mean.copy_(momentum * each_mean.mean(0).to(mean.dtype) + (1 - momentum) * mean)
        variance.copy_(momentum * each_variance.mean(0).to(variance.dtype) + (1 - momentum) * variance)
    return composed_norm(widen(x), axes, weight, bias, eps).to(x.dtype)


def _layer_norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute layer normalisation likewise."""
    return _over_last(func, *args, **kwargs)


def _over_last(
    func: Callable[..., Tensor],
    input: Tensor,  # the names of torch.layer_norm
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    if not is_nested(input, weight, bias):
        return func(input, normalized_shape, weight, bias, eps, cudnn_enable)
    return composed_layer_norm(widen(input), normalized_shape, weight, bias, eps).to(input.dtype)


def _cdist(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute distances between rows from differences, where PyTorch has no derivative or a wrong one."""

    def distances(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
        return composed_norm_of(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)

    return distances(*args, **kwargs) if is_forward() or is_nested(*args[:2]) else func(*args, **kwargs)


def _pairwise_distance(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute the norm of differences likewise."""

    def distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
        return composed_norm_of(x1 - x2 + eps, p, -1, keepdim)

    return distance(*args, **kwargs) if is_nested(*args[:2]) else func(*args, **kwargs)


def _cosine_similarity(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute the cosine of two vectors' angle likewise."""

    def similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
        return composed_cosine_similarity(x1, x2, dim, eps)

    return similarity(*args, **kwargs) if is_nested(*args[:2]) else func(*args, **kwargs)


def _norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute a vector's norm likewise."""

    def norm(input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
        order = 2 if p in ("fro", None) else p
        if not isinstance(order, int | float) or (isinstance(dim, tuple | list) and p is not None and p != "fro"):
            return func(*args, **kwargs)  # a matrix norm
        axes = tuple(range(input.dim())) if dim is None else dim
        return composed_norm_of(input if dtype is None else input.to(dtype), order, axes, keepdim)

    named = {{"ord": "p", "x": "input"}.get(name, name): value for name, value in kwargs.items() if name != "out"}
    return norm(*args, **named) if is_nested(*args[:1]) else func(*args, **kwargs)


def _normalize(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Divide a vector by its norm likewise."""

    def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
        return input / composed_norm_of(input, p, dim, keepdim=True).clamp_min(eps)

    return normalize(*args, **kwargs) if is_nested(*args[:1]) else func(*args, **kwargs)


def _glu(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute a · sigmoid(b) in second derivatives, which the kernel's forward mode lacks."""

    def gated(input: Tensor, dim: int = -1) -> Tensor:
        value, gate = input.chunk(2, dim)
        return value * gate.sigmoid()

    return gated(*args, **kwargs) if is_nested(*args[:1]) else func(*args, **kwargs)


def _requires_grad(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Leave a tensor as it is: one made in forward has no gradient that anyone asks a transform for."""
    x, wanted = (*args, kwargs.get("requires_grad", True))[:2]
    if wanted and torch._C._functorch.peek_interpreter_stack() is not None:
        return x
    return func(*args, **kwargs)


_COMPOSED: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(CELLS, _recurrent),
    **dict.fromkeys(("_pack_padded_sequence", "pack_padded_sequence"), _pack),
    "scaled_dot_product_attention": _attention,
    "_weight_norm": _weight_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "requires_grad_": _requires_grad,
    "cdist": _cdist,
    "pairwise_distance": _pairwise_distance,
    "cosine_similarity": _cosine_similarity,
    "norm": _norm,
    "linalg_vector_norm": _norm,
    "linalg_norm": _norm,
    "normalize": _normalize,
    "glu": _glu,
}


class ComposedKernels(SeesThrough):
    """Computes some of PyTorch's functions from others; a context for calls for which `transformed` is true."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, or what it is composed of."""
        out = (kwargs or {}).get("out")
        if isinstance(out, Tensor) and active(TransformType.Vmap):  # which has no rule for writing into a result
            written = func(*args, **{name: value for name, value in (kwargs or {}).items() if name != "out"})
            return out.copy_(written)
        composed = _COMPOSED.get(getattr(func, "__name__", ""))
        return func(*args, **kwargs or {}) if composed is None else composed(func, args, kwargs or {})
