"""Functions of torch and torch.nn.functional with inputs of several scales, for runs in which nothing is wrong."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap

__all__ = ["SCALES", "functions", "long_sums", "masks", "ties"]

Function = tuple[Callable[..., Any], tuple[Any, ...]]

SCALES = ("plain", "mixed", "mean 3")
"""Normal numbers; each column times a power of ten between 10⁻³ and 10³; normal numbers about 3."""

ACTIVATIONS = [
    "relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "sigmoid",
    "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "logsigmoid",
    "softsign", "tanhshrink", "relu6", "softshrink", "hardshrink",
]  # fmt: skip
UNARY = [
    "sin", "cos", "tan", "atan", "asinh", "erf", "abs", "square", "sign",
    "floor", "round", "ceil", "trunc", "frac", "neg", "deg2rad", "rad2deg", "sinc",
    "sgn", "nan_to_num",
]  # fmt: skip
BOUNDED = ["exp", "exp2", "expm1", "sinh", "cosh"]
POSITIVE = ["sqrt", "rsqrt", "log", "log1p", "log2", "log10", "reciprocal", "lgamma", "digamma"]
IN_UNIT = ["asin", "acos", "atanh", "erfinv", "logit"]
BINARY = [
    "add", "sub", "mul", "maximum", "minimum", "hypot", "atan2", "copysign", "logaddexp",
    "fmax", "fmin", "lerp_half", "logaddexp2",
]  # fmt: skip


class Drawn:
    """Draws tensors of one scale and dtype."""

    def __init__(self, scale: str, dtype: torch.dtype, seed: int) -> None:
        self.scale, self.dtype, self.generator = scale, dtype, torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Normal numbers, whatever the scale."""
        return torch.randn(*shape, generator=self.generator).to(self.dtype)

    def of(self, *shape: int) -> Tensor:
        """Numbers of the scale."""
        x = torch.randn(*shape, generator=self.generator)
        if self.scale == "mixed":
            x = x * 10 ** (torch.rand(shape[-1], generator=self.generator) * 6 - 3)
        return (x + 3 if self.scale == "mean 3" else x).to(self.dtype)


def _summed(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return grad(lambda x, *rest: f(x, *rest).sum())


def functions(scale: str, dtype: torch.dtype, seed: int = 0) -> dict[str, Function]:
    """Every function and gradient, by name."""
    draw = Drawn(scale, dtype, seed)
    x, y, w = draw.of(8, 32), draw.of(8, 32), draw.normal(32, 16)
    image, kernel, tokens = draw.of(2, 8, 16, 16), draw.normal(4, 8, 3, 3), draw.of(2, 10, 16)
    line, labels = draw.of(2, 8, 24), torch.arange(8)
    found: dict[str, Function] = {}
    groups = [
        (ACTIVATIONS, F, x),
        (UNARY, torch, x),
        (BOUNDED, torch, x.clamp(-8, 8)),
        (POSITIVE, torch, x.abs() + 0.01),
        (IN_UNIT, torch, x.sigmoid() * 0.98 + 0.01),
    ]
    for names, module, given in groups:
        for name in names:
            f = getattr(module, name)
            found[name] = f, (given,)
            found[f"gradient of {name}"] = _summed(f), (given,)
    for name in BINARY:
        g = getattr(torch, name) if name != "lerp_half" else lambda a, b: torch.lerp(a, b, 0.5)
        found[name] = g, (x, y)
        found[f"gradient of {name}"] = _summed(g), (x, y)
    found |= {f"{name} of rows": (f, (x,)) for name, f in _reductions().items()}
    found |= {f"gradient of {name} of rows": (_summed(f), (x,)) for name, f in _reductions().items()}
    found |= _layers(x, y, w, image, kernel, tokens, line)
    found |= _losses(x, y, labels)
    found |= {
        "topk": (lambda x: x.topk(4), (x,)),
        "sort": (lambda x: x.sort(-1), (x,)),
        "argmax of a product": (lambda x, w: (x @ w).argmax(-1), (x, w)),
        "max": (lambda x: x.max(-1), (x,)),
        "median": (lambda x: x.median(-1), (x,)),
        "where": (lambda x: torch.where(x > 0.5, x, -x), (x,)),
        "clamp": (lambda x: x.clamp(-0.5, 0.7), (x,)),
        "quotient": (lambda x: x / (x.square() + 1), (x,)),
        "power": (lambda x: x.abs() ** 1.7, (x.clamp(-100, 100),)),
        "determinant": (torch.linalg.det, (x[:, :9].reshape(8, 3, 3),)),
        "distances": (lambda x, y: torch.cdist(x, y), (x, y + 1)),
        "einsum": (lambda t: torch.einsum("bnf,bmf->bnm", t, t), (tokens,)),
        "per-sample gradients": (vmap(grad(lambda w, x: torch.tanh(x @ w).square().sum()), (None, 0)), (w, x)),
        "Hessian": (hessian(lambda w: F.softplus(x[:2, :4] @ w).sum()), (w[:4, :3],)),
        "tangent": (lambda x: jvp(lambda y: F.gelu(y).softmax(-1), (x,), (x.sin(),)), (x,)),
        "gradient of rows by number": (
            grad(lambda w: F.embedding(torch.arange(8) % 5, w).square().sum()),
            (w,),
        ),
    }
    return found


def _reductions() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "sum": lambda x: x.sum(-1),
        "mean": lambda x: x.mean(-1),
        "variance": lambda x: x.var(-1),
        "deviation": lambda x: x.std(-1),
        "norm": lambda x: x.norm(dim=-1),
        "norm of order 1": lambda x: x.norm(p=1, dim=-1),
        "norm of order 3": lambda x: x.norm(p=3, dim=-1),
        "largest": lambda x: x.amax(-1),
        "smallest": lambda x: x.amin(-1),
        "product": lambda x: x.tanh().prod(-1),
        "running sum": lambda x: x.cumsum(-1),
        "softmax": lambda x: x.softmax(-1),
        "log softmax": lambda x: x.log_softmax(-1),
        "logsumexp": lambda x: x.logsumexp(-1),
        "normalize": lambda x: F.normalize(x),
        "cosine similarity": lambda x: F.cosine_similarity(x, x.roll(1, 0)),
        "glu": lambda x: F.glu(x),
        "layer norm": lambda x: F.layer_norm(x, (32,)),
        "rms norm": lambda x: F.rms_norm(x, (32,)),
    }


def _layers(
    x: Tensor, y: Tensor, w: Tensor, image: Tensor, kernel: Tensor, tokens: Tensor, line: Tensor
) -> dict[str, Function]:
    of_image: dict[str, Callable[[Tensor], Tensor]] = {
        "group norm": lambda x: F.group_norm(x, 4),
        "instance norm": lambda x: F.instance_norm(x),
        "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
        "max pooling": lambda x: F.max_pool2d(x, 2),
        "average pooling": lambda x: F.avg_pool2d(x, 3, 2, 1),
        "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, 5),
        "nearest": lambda x: F.interpolate(x, scale_factor=2),
        "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        "bilinear to odd sizes": lambda x: F.interpolate(x, size=(37, 29), mode="bilinear", align_corners=True),
        "bicubic": lambda x: F.interpolate(x, size=(23, 23), mode="bicubic"),
        "reflection": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
        "unfold": lambda x: F.unfold(x, 3),
        "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    }
    found: dict[str, Function] = {}
    for name, f in of_image.items():
        found[name] = f, (image,)
        found[f"gradient of {name}"] = grad(lambda x, f=f: f(x).sin().sum()), (image,)
    return found | {
        "product": (lambda x, w: x @ w, (x, w)),
        "linear": (lambda x, w: F.linear(x, w.mT, w[0]), (x, w)),
        "gradients of linear": (grad(lambda w, x: torch.tanh(F.linear(x, w.mT, w[0])).sum(), argnums=(0, 1)), (w, x)),
        "convolution": (lambda x, k: F.conv2d(x, k, padding=1), (image, kernel)),
        "gradient with respect to a kernel": (
            grad(lambda k, x: F.conv2d(x, k, padding=1).square().mean()),
            (kernel, image),
        ),
        "gradient with respect to an image": (
            grad(lambda x, k: F.conv2d(x, k, padding=1, stride=2).square().mean()),
            (image, kernel),
        ),
        "transposed convolution": (lambda x, k: F.conv_transpose2d(x, k.transpose(0, 1), stride=2), (image, kernel)),
        "convolution of lines": (lambda x, k: F.conv1d(x, k[:, :, 0], groups=1), (line, kernel)),
        "attention": (lambda q: F.scaled_dot_product_attention(q, q, q), (tokens[:, None],)),
        "causal attention": (
            lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
            (tokens[:, None],),
        ),
        "gradient of attention": (
            grad(lambda q: F.scaled_dot_product_attention(q, q, q).square().sum()),
            (tokens[:, None],),
        ),
        "bilinear form": (lambda x, y, w: F.bilinear(x, y, (w @ w.mT)[None]), (x, y, w)),
    }


def _losses(x: Tensor, y: Tensor, labels: Tensor) -> dict[str, Function]:
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "cross entropy": lambda x: F.cross_entropy(x, labels),
        "smoothed cross entropy": lambda x: F.cross_entropy(x, labels, label_smoothing=0.1),
        "negative log likelihood": lambda x: F.nll_loss(x.log_softmax(-1), labels),
        "mean squares": lambda x: F.mse_loss(x, y),
        "mean distances": lambda x: F.l1_loss(x, y),
        "Huber": lambda x: F.huber_loss(x, y),
        "smooth distances": lambda x: F.smooth_l1_loss(x, y),
        "Kullback–Leibler": lambda x: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
        "binary cross entropy": lambda x: F.binary_cross_entropy_with_logits(x, y.sigmoid()),
        "Poisson": lambda x: F.poisson_nll_loss(x.clamp(-9, 9), y.abs()),
        "soft margin": lambda x: F.soft_margin_loss(x.clamp(-9, 9), y.sign()),
        "triplets": lambda x: F.triplet_margin_loss(x, y, x.roll(1, 0)),
    }
    found: dict[str, Function] = {name: (f, (x,)) for name, f in losses.items()}
    return found | {f"gradient of {name}": (grad(f), (x,)) for name, f in losses.items()}


def long_sums(length: int, dtype: torch.dtype, seed: int = 0) -> dict[str, Function]:
    """Sums of up to a million terms along either axis, and what is made of them."""
    draw = torch.Generator().manual_seed(seed)
    flat = torch.rand(length, generator=draw).to(dtype)
    columns, rows = flat.reshape(-1, 4), flat.reshape(4, -1)
    return {
        "sum": (lambda x: x.sum(), (flat,)),
        "mean": (lambda x: x.mean(), (flat,)),
        "variance": (lambda x: x.var(), (flat,)),
        "sum of columns": (lambda x: x.sum(0), (columns,)),
        "mean of rows": (lambda x: x.mean(1), (rows,)),
        "layer norm": (lambda x: F.layer_norm(x, x.shape[1:]), (rows,)),
        "group norm": (lambda x: F.group_norm(x, 2), (flat.reshape(2, 4, -1),)),
        "softmax": (lambda x: x.softmax(1), (rows,)),
        "cosine similarity": (lambda x: F.cosine_similarity(x, x.flip(0)), (rows,)),
        "mean squares": (lambda x, y: F.mse_loss(x, y), (flat, flat.flip(0))),
        "gradient with respect to a bias": (
            grad(lambda b, x: (x + b).square().mean()),
            (torch.ones(4, dtype=dtype), columns),
        ),
        "product": (lambda x: x @ x.mT, (rows,)),
    }


def masks(dtype: torch.dtype, seed: int = 0) -> dict[str, Function]:
    """Scores some or all of which are −∞."""
    draw = Drawn("plain", dtype, seed)
    x, q, inf = draw.normal(8, 16), draw.normal(2, 1, 10, 16), -torch.inf
    causal = torch.ones(10, 10).tril().bool()
    return {
        "softmax": (lambda x: x.masked_fill(x > 0.5, inf).softmax(-1), (x,)),
        "log softmax": (lambda x: x.masked_fill(x > 0.5, inf).log_softmax(-1), (x,)),
        "logsumexp": (lambda x: x.masked_fill(x > 0.5, inf).logsumexp(-1), (x,)),
        "a whole row": (lambda x: x.masked_fill(torch.arange(8)[:, None] == 3, inf).softmax(-1), (x,)),
        "largest": (lambda x: x.masked_fill(x > 0.5, inf).max(-1), (x,)),
        "topk": (lambda x: x.masked_fill(x > 0.0, inf).topk(3).values, (x,)),
        "attention": (lambda q: F.scaled_dot_product_attention(q, q, q, attn_mask=causal), (q,)),
        "gradient of attention": (
            grad(lambda q: F.scaled_dot_product_attention(q, q, q, attn_mask=causal).square().sum()),
            (q,),
        ),
        "running sum": (lambda x: x.masked_fill(x > 1.5, inf).cumsum(-1), (x,)),
    }


def ties(dtype: torch.dtype, seed: int = 0) -> dict[str, Function]:
    """Equal values where positions are picked."""
    draw = Drawn("plain", dtype, seed)
    few, weights = draw.normal(4, 64).mul(2).round(), draw.normal(64)
    picked: dict[str, Callable[[Tensor], Tensor]] = {
        "topk": lambda x: x.topk(5).indices,
        "argmax": lambda x: x.argmax(-1),
        "argsort": lambda x: x.argsort(-1)[:, :9],
        "max": lambda x: x.max(-1).indices,
        "median": lambda x: x.median(-1).indices,
        "kthvalue": lambda x: x.kthvalue(7).indices,
    }
    found: dict[str, Function] = {
        name: (lambda x, w, f=f: (f(x), w[f(x)]), (few, weights)) for name, f in picked.items()
    }
    return found | {
        "gradient of max pooling": (
            grad(lambda x: F.max_pool2d(x, 2).square().sum()),
            (few.reshape(1, 4, 8, 8),),
        ),
        "gradient of relu": (grad(lambda x: F.relu(x).square().sum()), (few,)),
        "gradient of largest": (grad(lambda x: x.amax(-1).square().sum()), (few,)),
    }
