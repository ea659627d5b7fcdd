"""Functions to plant defects in: more than seventy, with values of all sizes, masks, branches, loops, integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap

import pure
from pure import nets

__all__ = ["Function", "functions"]

Function = tuple[Callable[..., Any], tuple[Any, ...]]


def functions(seed: int) -> dict[str, Function]:
    """At least sixty functions with their arguments."""
    draw = torch.Generator().manual_seed(seed)

    def of(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    x, w, v = of(8, 16), of(16, 12), of(16)
    image, kernel, tokens = of(2, 6, 8, 8), of(4, 6, 3, 3), of(2, 5, 16)
    mask, labels = torch.arange(12) >= 9, torch.arange(8) % 5
    mixed = w * 10.0 ** torch.arange(-3, 9)

    def masked(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x @ w).masked_fill(mask, -1e9)

    unary: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        name: getattr(torch, name)
        for name in ("sin", "cos", "exp", "tanh", "sigmoid", "erf", "square", "abs", "atan", "sinh", "log1p")
    }
    unary |= {
        name: getattr(F, name)
        for name in ("relu", "gelu", "silu", "softplus", "mish", "elu", "selu", "leaky_relu", "hardswish", "logsigmoid")
    }
    found: dict[str, Function] = {
        f"{name} of a product": (lambda x, w, f=f: f((x @ w) / 4 if f is not torch.log1p else (x @ w).abs()), (x, w))
        for name, f in unary.items()
    }
    found |= {
        "softmax": (lambda x: x.softmax(-1), (x,)),
        "log_softmax": (lambda x: x.log_softmax(-1), (x,)),
        "layer_norm": (lambda x, v: F.layer_norm(x, (16,), v, v), (x, v)),
        "layer_norm of small numbers": (lambda x: F.gelu(F.layer_norm(x, (16,))), (x * 1e-2,)),
        "group_norm": (lambda x: F.group_norm(x, 3), (image,)),
        "instance_norm": (F.instance_norm, (image,)),
        "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), (image,)),
        "convolution": (lambda x, k: F.conv2d(x, k, padding=1).relu(), (image, kernel)),
        "strided convolution": (lambda x, k: F.conv2d(x, k, stride=2), (image, kernel)),
        "transposed convolution": (lambda x, k: F.conv_transpose2d(x, k.transpose(0, 1)), (image, kernel)),
        "max pool": (lambda x: F.max_pool2d(x, 2) * 3, (image,)),
        "mean pool": (lambda x: F.avg_pool2d(x, 3, 2, 1) + 1, (image,)),
        "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear") * 2, (image,)),
        "attention": (lambda q: F.scaled_dot_product_attention(q, q, q), (tokens[:, None],)),
        "masked logits": (masked, (x, w)),
        "argmax of masked logits": (lambda x, w: masked(x, w).argmax(-1), (x, w)),
        "top 5 of masked logits": (lambda x, w: masked(x, w).topk(5).indices, (x, w)),
        "softmax of masked logits": (lambda x, w: masked(x, w).softmax(-1), (x, w)),
        "comparison": (lambda x, w: (x @ w) > 0.5, (x, w)),
        "where": (lambda x, w: torch.where(x @ w > 0, x @ w, -(x @ w).exp()), (x, w)),
        "channels of all sizes": (lambda x, w: (x @ w).sin() * w.abs().amax(0), (x, mixed)),
        "a timestamp beside features": (
            lambda t, x, w: torch.cat((t, torch.tanh(x @ w / 4)), 1),
            (1.7e9 + 128 * torch.arange(8.0)[:, None], x, w),
        ),
        "argmax": (lambda x: (x * 2).argmax(1), (x,)),
        "sorted": (lambda x: (x * 2).sort(-1), (x,)),
        "sum": (lambda x: (x * x).sum(), (x,)),
        "variance": (lambda x: x.var(-1) + 1, (x,)),
        "norm": (lambda x: (x * 2).norm(dim=-1), (x,)),
        "running sum": (lambda x: (x * 2).cumsum(-1), (x,)),
        "cosine similarity": (lambda x: F.cosine_similarity(x, x.flip(0)), (x,)),
        "cross entropy": (lambda x, w: F.cross_entropy((x @ w)[:, :5], labels), (x, w)),
        "Huber loss": (lambda x: F.huber_loss(x, x.flip(0)), (x,)),
        "divergence": (lambda x: F.kl_div(x.log_softmax(-1), x.flip(0).softmax(-1), reduction="batchmean"), (x,)),
        "gradient of relu": (grad(lambda w, x: torch.relu(x @ w).square().mean()), (w, x)),
        "gradient of relu, channels of all sizes": (grad(lambda x, w: torch.relu(x @ w)[:, 1:].sum()), (x, mixed)),
        "gradient of layer_norm": (grad(lambda x: F.layer_norm(x, (16,)).sin().sum()), (x,)),
        "gradient of a convolution": (grad(lambda k, x: F.conv2d(x, k).square().mean()), (kernel, image)),
        "gradient of max pool": (grad(lambda x: F.max_pool2d(x, 2).square().sum()), (image,)),
        "gradient of cross entropy": (grad(lambda x: F.cross_entropy(x, labels)), (x,)),
        "per-sample gradients": (
            lambda w, x: vmap(grad(lambda w, x: torch.tanh(x @ w).square().sum()), (None, 0))(w, x),
            (w, x),
        ),
        **_with_branches_and_loops(draw, x, w),
        **_of_integers_and_booleans(draw, x, w),
        "tangents": (lambda x: jvp(lambda y: F.gelu(y).softmax(-1), (x,), (x.sin(),))[1], (x,)),
    }
    return found


def _with_branches_and_loops(draw: torch.Generator, x: torch.Tensor, w: torch.Tensor) -> dict[str, Function]:
    """Conditions, a condition in another, loops, and a repeated block that is an ONNX function."""
    loop = pure.Repeat(nets.residual_mlp_block(16, 12, scale=0.3, activation="gelu"), 4)
    weights, state = loop.init(draw)
    block = nets.residual_mlp(16, 24, depth=4, scale=0.5, activation="tanh")
    params, _ = block.init(draw)
    start = torch.randn(6, 16, generator=draw)

    def chosen(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.cond((x @ w).mean() > 0, lambda a: (a.sin() * 2).exp(), lambda a: (a * 3).tanh() + 1, (x @ w,))

    def nested(x: torch.Tensor) -> torch.Tensor:
        def inner(a: torch.Tensor) -> torch.Tensor:
            return torch.cond(a.sum() > 1e6, lambda b: b.exp() * 2, lambda b: b.cos() * 2, (a.sin(),))

        return torch.cond(x.mean() < 9, inner, lambda a: (a * 2).atan() - 1, (x,)) * 0.5

    def gradient(x: torch.Tensor) -> torch.Tensor:
        return grad(lambda x: loop(weights, x, state).square().mean())(x)

    return {
        "branches": (chosen, (x, w)),
        "nested branches": (nested, (x,)),
        "loop": (lambda x: loop(weights, x, state).sin(), (start,)),
        "gradient of a loop": (gradient, (start,)),
        "repeated block": (lambda p, x: block(p, x), (params, start)),
        "gradient of a repeated block": (lambda p, x: grad(lambda x: block(p, x).square().mean())(x), (params, start)),
    }


def _of_integers_and_booleans(draw: torch.Generator, x: torch.Tensor, w: torch.Tensor) -> dict[str, Function]:
    """Arithmetic of integers, logic, positions."""
    numbers = torch.randint(-50, 50, (6, 7), generator=draw)
    rows = torch.randint(0, 16, (5, 3), generator=draw)
    return {
        "integer arithmetic": (lambda n: (n * 3 + 1) - n.flip(0), (numbers,)),
        "integer remainders": (lambda n: (n * 5).remainder(7), (numbers,)),
        "integer maxima": (lambda n: torch.maximum(n * 2, n.abs()).amax(1), (numbers,)),
        "running sum of integers": (lambda n: (n + 1).cumsum(1), (numbers,)),
        "logic": (lambda x: ((x > 0) & (x < 1)) | (x.abs() > 2), (x,)),
        "logic by integers": (lambda n: (n > 3) ^ (n.remainder(2) == 0), (numbers,)),
        "rows by number": (lambda w, rows: F.embedding(rows, w * 2).tanh(), (w, rows)),
        "positions of order": (lambda x: (x * 2).argsort(-1), (x,)),
        "counts": (lambda x, w: ((x @ w) > 0).sum(-1), (x, w)),
        "one-hot labels": (lambda x: F.one_hot(x.argmax(-1), 16) * 2, (x,)),
    }
