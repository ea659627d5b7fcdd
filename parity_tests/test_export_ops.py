"""Each operation of forward functions, with a dynamic batch, agrees with float64 in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import export

Op = Callable[..., Any]


def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def positive(*shape: int) -> torch.Tensor:
    return seeded(*shape).abs() + 0.5


def integers(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(high))


V, M, T3, IMAGE = (3, 6), (4, 5), (3, 4, 6), (2, 4, 8, 8)

ACTIVATIONS: dict[str, Op] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "elu_alpha": lambda x: F.elu(x, 0.3),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.7),
    "softplus": F.softplus,
    "softplus_beta": lambda x: F.softplus(x, 2.0, 3.0),
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "prelu": lambda x: F.prelu(x, torch.full((6,), 0.25)),
    "logsigmoid": F.logsigmoid,
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "softmin": lambda x: F.softmin(x, 1),
    "glu": lambda x: F.glu(x, -1),
    "tanhshrink": F.tanhshrink,
    "softsign": F.softsign,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 2.0),
    "normalize": lambda x: F.normalize(x, dim=1),
}

UNARY: dict[str, Op] = {
    "abs": torch.abs,
    "neg": torch.neg,
    "exp": torch.exp,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "erf": torch.erf,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "sign": torch.sign,
    "square": torch.square,
    "expm1": torch.expm1,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asinh": torch.asinh,
    "frac": torch.frac,
    "exp2": torch.exp2,
    "isnan": torch.isnan,
    "isfinite": torch.isfinite,
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "pow2": lambda x: x**2,
    "pow3": lambda x: x**3,
    "pow4": lambda x: x**4,
    "rsub": lambda x: 1 - x,
    "add_alpha": lambda x: torch.add(x, x, alpha=3),
    "remainder": lambda x: x % 0.7,
    "fmod": lambda x: torch.fmod(x, 0.7),
    "floordiv": lambda x: x // 0.3,
    "where": lambda x: torch.where(x > 0, x, 2 * x),
    "masked_fill": lambda x: x.masked_fill(x > 0, -1.0),
    "logical": lambda x: ((x > 0) & (x < 1)) | ~(x > -1),
    "xor": lambda x: (x > 0) ^ (x > 1),
    "maximum": lambda x: torch.maximum(x, 0.5 * x + 0.1),
    "lerp": lambda x: torch.lerp(x, 2 * x, 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "atan2": lambda x: torch.atan2(x, x + 0.3),
    "nan_to_num": torch.nan_to_num,
    "to_int": lambda x: (4 * x).to(torch.int64),
    "to_bool": lambda x: x.bool(),
    "type_as": lambda x: (x > 0).type_as(x),
    "int_div": lambda x: torch.div((10 * x).to(torch.int64), 3, rounding_mode="floor"),
    "int_mod": lambda x: (10 * x).to(torch.int64) % 4,
    "int_trunc": lambda x: torch.div((10 * x).to(torch.int64), 3, rounding_mode="trunc"),
    "sgn": torch.sgn,
    "ldexp": lambda x: torch.ldexp(x, torch.tensor([2, -1, 0, 3, 1, 5, -4])[: x.shape[-1]]),
    "copies of views": lambda x: torch.permute_copy(x.narrow_copy(-1, 1, 3), (1, 0)) * torch.unbind_copy(x, 1)[0],
    "hypot": lambda x: torch.hypot(x, x + 1),
}

POSITIVE: dict[str, Op] = {
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "pow_half": lambda x: x**0.5,
    "pow_tensor": lambda x: x**x,
    "rpow": lambda x: 2.0**x,
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "xlogy": lambda x: torch.xlogy(x, x),
    "acosh": lambda x: torch.acosh(x + 1),
    "pow_neg_half": lambda x: x**-0.5,
}

REDUCTIONS: dict[str, Op] = {
    "sum": torch.sum,
    "sum_dim": lambda x: x.sum(1),
    "sum_keep": lambda x: x.sum((1, 2), keepdim=True),
    "mean": torch.mean,
    "mean_dim": lambda x: x.mean(-1),
    "prod": lambda x: x.prod(2),
    "amax": lambda x: x.amax((1, 2)),
    "amin": lambda x: x.amin(1),
    "max": torch.max,
    "max_dim": lambda x: x.max(1),
    "min_dim": lambda x: x.min(2),
    "argmax": lambda x: x.argmax(1),
    "argmax_all": lambda x: x.argmax(),
    "any": lambda x: (x > 1).any(1),
    "all": lambda x: (x > -1).all(),
    "var": lambda x: x.var(1),
    "var_biased": lambda x: x.var((1, 2), unbiased=False),
    "std": lambda x: x.std(2),
    "var_mean": lambda x: torch.var_mean(x, 1),
    "var_batch": lambda x: x.var(0, unbiased=False),
    "norm": lambda x: x.norm(dim=1),
    "norm1": lambda x: x.norm(p=1, dim=2),
    "norm_inf": lambda x: x.norm(p=float("inf"), dim=1),
    "norm3": lambda x: x.norm(p=3, dim=1),
    "cumsum": lambda x: x.cumsum(1),
    "count": lambda x: (x > 0).sum(1),
    "mse": lambda x: F.mse_loss(x, 0.5 * x),
    "linalg_norm": lambda x: torch.linalg.norm(x, dim=1),
}

SHAPES: dict[str, Op] = {
    "view": lambda x: x.view(x.shape[0], -1),
    "reshape": lambda x: x.reshape(-1, 6),
    "flatten": lambda x: x.flatten(1),
    "permute": lambda x: x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(1, 2),
    "mT": lambda x: x.mT,
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "expand": lambda x: x[:, None].expand(-1, 3, -1, -1),
    "cat": lambda x: torch.cat([x, 2 * x], 1),
    "stack": lambda x: torch.stack([x, -x], 1),
    "cat_batch": lambda x: torch.cat([x, x], 0),
    "slice": lambda x: x[:, 1:3, ::2],
    "fill_diagonal": lambda x: _fill(x),
    "negative_slice": lambda x: x[:, -2:],
    "select": lambda x: x[:, 2],
    "split": lambda x: x.split(2, 1),
    "chunk": lambda x: x.chunk(3, 2),
    "unbind": lambda x: x.unbind(1),
    "flip": lambda x: x.flip(1, 2),
    "repeat": lambda x: x.repeat(1, 2, 1),
    "roll": lambda x: x.roll(2, 1),
    "roll_back": lambda x: x.roll((-1, 2), (1, 2)),
    "triu": torch.triu,
    "tril": lambda x: x.tril(1),
    "pad": lambda x: F.pad(x, (1, 2)),
    "pad_value": lambda x: F.pad(x, (0, 0, 2, 1), value=3.0),
    "crop": lambda x: F.pad(x, (-1, -1)),
    "reflect": lambda x: F.pad(x, (2, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (2, 1), mode="replicate"),
    "circular": lambda x: F.pad(x, (2, 1), mode="circular"),
    "unflatten": lambda x: x.unflatten(2, (2, 3)),
    "movedim": lambda x: x.movedim(1, 2),
    "meshgrid": lambda x: torch.meshgrid(x[0, 0], x[0, 1], indexing="ij"),
    "tile": lambda x: x.tile(2, 1, 1),
    "diagonal": lambda x: x[:, :4, :4].diagonal(dim1=1, dim2=2),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "unfold": lambda x: x.unfold(2, 3, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "swap_batch": lambda x: x.transpose(0, 1).reshape(4, -1),
    "broadcast": lambda x: x + x.new_ones(x.shape[0], 1, 1),
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "full": lambda x: x + torch.full((4, 6), 0.5),
    "batch_zeros": lambda x: torch.zeros(x.shape[0], 3) + x[:, 0, :3],
    "arange": lambda x: x + torch.arange(6),
    "batch_arange": lambda x: x[:, 0, 0] + torch.arange(x.shape[0]),
    "eye": lambda x: x @ torch.eye(6),
    "linspace": lambda x: x * torch.linspace(0, 1, 6),
    "size_arithmetic": lambda x: x.sum(0) / x.shape[0],
    "numel": lambda x: x.sum() / x.numel(),
    "inplace": lambda x: (x * 2).add_(1).relu_(),
    "setitem": lambda x: _set(x),
    "ones_pos": lambda x: F.pad(x, (0, 1)).masked_fill(torch.zeros(7, dtype=torch.bool), 1.0),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
    "dist": lambda x: torch.dist(x, x.cos(), 3.0),
    "cdist": lambda x: torch.cdist(x, x + 1),
    "tensordot": lambda x: torch.tensordot(x, torch.ones(6, 3), dims=1),
    "pixel": lambda x: F.pixel_shuffle(x[..., None].expand(-1, -1, -1, 2), 2),
    "bmm": lambda x: torch.bmm(x, x.mT),
    "baddbmm": lambda x: torch.baddbmm(x @ x.mT, x, x.mT, alpha=0.5),
    "matmul": lambda x: x @ torch.ones(6),
    "outer": lambda x: torch.outer(x[0, 0], x[0, 1]),
}


def _fill(x: torch.Tensor) -> torch.Tensor:
    y = x[:, :4, :4].clone()
    y.diagonal(dim1=1, dim2=2).fill_(5.0)
    return y


def _set(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1] = 7.0
    y[:, :, 2:4] += 1
    return y


INDEXING: dict[str, Op] = {
    "index": lambda x: x[:, torch.tensor([2, 0, 1])],
    "index_negative": lambda x: x[:, torch.tensor([-1, 0])],
    "index_two": lambda x: x[:, torch.tensor([0, 1]), torch.tensor([2, 3])],
    "index_apart": lambda x: x[torch.tensor([0, 0]), :, torch.tensor([2, 3])],
    "index_broadcast": lambda x: x[:, torch.tensor([[0], [1]]), torch.tensor([2, 3])],
    "index_batch": lambda x: x[torch.arange(x.shape[0]), 1],
    "index_select one": lambda x: x.index_select(2, torch.tensor(5)),
    "index_select of a number": lambda x: x.sum().index_select(0, torch.tensor([0])),
    "index_select": lambda x: x.index_select(2, torch.tensor([5, 1])),
    "gather": lambda x: x.gather(1, x.argsort(1)),
    "take_along": lambda x: torch.take_along_dim(x, x.argmax(1, keepdim=True), 1),
    "topk": lambda x: x.topk(2, 1),
    "topk_small": lambda x: x.topk(3, 2, largest=False),
    "sort": lambda x: x.sort(1),
    "sort_down": lambda x: x.sort(2, descending=True),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), 1.0),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(1, (x > 0).long(), x),
    "one_hot": lambda x: F.one_hot(x[:, 0].argmax(1), 6),
    "embedding": lambda x: F.embedding(x[:, 0].argmax(1), x[0].mT),
    "mask_where": lambda x: torch.where(x > 0, x, torch.tensor(-1.0)),
    "cross_entropy": lambda x: F.cross_entropy(x[:, 0], x[:, 1].argmax(1)),
    "nll": lambda x: F.nll_loss(x[:, 0].log_softmax(1), x[:, 1].argmax(1), reduction="none"),
    "bce": lambda x: F.binary_cross_entropy_with_logits(x, (x > 0.3).float()),
    "index_add": lambda x: x.index_add(1, torch.tensor([0, 2]), x[:, :2]),
    "median_top": lambda x: x.sort(1).values[:, 2],
    "kl": lambda x: F.kl_div(x.log_softmax(-1), (2 * x).softmax(-1), reduction="batchmean"),
    "smooth_l1": lambda x: F.smooth_l1_loss(x, x * 0.2),
    "huber": lambda x: F.huber_loss(x, x * 0.2),
    "cosine": lambda x: F.cosine_similarity(x, x + 1, dim=1),
}

IMAGES: dict[str, Op] = {
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "max_pool_pad": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool_dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "max_pool_ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max_pool_index": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "max_pool1d": lambda x: F.max_pool1d(x[:, :, 0], 2),
    "max_pool3d": lambda x: F.max_pool3d(x[:, None], 2),
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "avg_pool_pad": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool_exclude": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_pool_divisor": lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
    "avg_pool_ceil": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "avg_pool1d": lambda x: F.avg_pool1d(x[:, :, 0], 2),
    "avg_pool3d": lambda x: F.avg_pool3d(x[:, None], 2),
    "adaptive_avg1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_avg2": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_avg3": lambda x: F.adaptive_avg_pool2d(x, 3),
    "adaptive_max": lambda x: F.adaptive_max_pool2d(x, 2),
    "adaptive_avg1d": lambda x: F.adaptive_avg_pool1d(x[:, 0], 4),
    "global": lambda x: x.mean((2, 3)),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest_size": lambda x: F.interpolate(x, size=(5, 13)),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear_corners": lambda x: F.interpolate(x, size=(5, 11), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, size=(12, 12), mode="bicubic"),
    "linear": lambda x: F.interpolate(x[:, 0], size=11, mode="linear"),
    "nearest_exact": lambda x: F.interpolate(x, size=(5, 13), mode="nearest-exact"),
    "area": lambda x: F.interpolate(x, size=(4, 4), mode="area"),
    "reflect2d": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "replicate2d": lambda x: F.pad(x, (1, 2, 3, 1), mode="replicate"),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "layer_norm": lambda x: F.layer_norm(x, (8, 8)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "group_norm_affine": lambda x: F.group_norm(x, 2, torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "instance_norm": lambda x: F.instance_norm(x),
    "rms_norm": lambda x: F.rms_norm(x, (8,)),
    "rms_norm_weight": lambda x: F.rms_norm(x, (8,), torch.linspace(1, 2, 8), 1e-6),
    "batch_norm": lambda x: F.batch_norm(
        x,
        torch.tensor([0.1, 0.2, 0.3, -0.4]),
        torch.tensor([1.0, 2, 3, 0.5]),
        torch.tensor([1.0, -2, 3, 4]),
        torch.tensor([0.5, 0, 0.1, 0.2]),
    ),
    "batch_norm_train": lambda x: F.batch_norm(x, None, None, training=True),
    "layer_norm_affine": lambda x: F.layer_norm(x, (8,), torch.linspace(1, 2, 8), torch.linspace(0, 1, 8)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 0.5, x + 1),
    "attention_causal": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention_mask": lambda x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=torch.ones(8, 8, dtype=torch.bool).tril()
    ),
    "local_response": lambda x: F.local_response_norm(x, 3),
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "affine_grid": lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False),
    "lp_pool": lambda x: F.lp_pool2d(x.abs() + 1, 2, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
}

CONVOLUTIONS: dict[str, tuple[Op, tuple[int, ...], tuple[int, ...]]] = {
    "conv1d": (F.conv1d, (2, 4, 9), (3, 4, 3)),
    "conv1d_stride": (lambda x, w: F.conv1d(x, w, stride=2, padding=1), (2, 4, 9), (3, 4, 3)),
    "conv2d": (F.conv2d, (2, 4, 8, 8), (3, 4, 3, 3)),
    "conv2d_same": (lambda x, w: F.conv2d(x, w, padding="same"), (2, 4, 8, 8), (3, 4, 3, 3)),
    "conv2d_groups": (lambda x, w: F.conv2d(x, w, groups=2), (2, 4, 8, 8), (6, 2, 3, 3)),
    "conv2d_depthwise": (lambda x, w: F.conv2d(x, w, groups=4, padding=1), (2, 4, 8, 8), (4, 1, 3, 3)),
    "conv2d_dilated": (lambda x, w: F.conv2d(x, w, dilation=2, padding=(2, 1)), (2, 4, 8, 8), (3, 4, 3, 3)),
    "conv2d_bias": (lambda x, w: F.conv2d(x, w, bias=w.sum((1, 2, 3))), (2, 4, 8, 8), (3, 4, 1, 1)),
    "conv3d": (lambda x, w: F.conv3d(x, w, stride=(1, 2, 1), padding=1), (2, 2, 4, 5, 6), (3, 2, 3, 3, 3)),
    "transposed1d": (lambda x, w: F.conv_transpose1d(x, w, stride=2), (2, 4, 5), (4, 3, 3)),
    "transposed2d": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1),
        (2, 4, 5, 5),
        (4, 3, 3, 3),
    ),
    "transposed_groups": (lambda x, w: F.conv_transpose2d(x, w, groups=2, dilation=2), (2, 4, 5, 5), (4, 3, 3, 3)),
    "transposed3d": (lambda x, w: F.conv_transpose3d(x, w, stride=2), (1, 2, 3, 3, 3), (2, 3, 2, 2, 2)),
    "linear": (F.linear, (3, 6), (4, 6)),
    "linear3d": (F.linear, (3, 5, 6), (4, 6)),
    "bilinear": (lambda x, w: F.bilinear(x, x, w), (3, 6), (4, 6, 6)),
    "matmul4d": (torch.matmul, (2, 3, 4, 5), (5, 6)),
    "mv": (lambda x, w: torch.mv(x, w[0]), (3, 6), (1, 6)),
    "chain": (lambda x, w: torch.einsum("bi,oi,oj->bj", x, w, w), (3, 6), (4, 6)),
}

ROWS = [
    *((f"activation-{name}", op, (seeded(*V),)) for name, op in ACTIVATIONS.items()),
    *((f"unary-{name}", op, (seeded(*V),)) for name, op in UNARY.items()),
    *((f"positive-{name}", op, (positive(*V),)) for name, op in POSITIVE.items()),
    *((f"reduce-{name}", op, (seeded(*T3),)) for name, op in REDUCTIONS.items()),
    *((f"shape-{name}", op, (seeded(*T3),)) for name, op in SHAPES.items()),
    *((f"index-{name}", op, (seeded(*T3),)) for name, op in INDEXING.items()),
    *((f"image-{name}", op, (seeded(*IMAGE),)) for name, op in IMAGES.items()),
    *((f"conv-{name}", op, (seeded(*a), seeded(*b))) for name, (op, a, b) in CONVOLUTIONS.items()),
]
STATIC_BATCH = {"index-take_along"}
"""PyTorch's own take_along_dim asks for its sizes as numbers, so the batch cannot stay symbolic."""


@pytest.mark.parametrize(("name", "op", "args"), ROWS, ids=[row[0] for row in ROWS])
def test_operation_agrees_with_float64(name: str, op: Op, args: tuple[torch.Tensor, ...]) -> None:
    dynamic = None if name in STATIC_BATCH else ({0: "batch"},) + (None,) * (len(args) - 1)
    verdict = export.verify(op, args, dynamic=dynamic)
    assert verdict.passed, verdict.table()


LONG_SUMS: dict[str, Op] = {"mean": lambda x: x.mean((2, 3)), "sum": lambda x: x.sum((2, 3)), "all": lambda x: x.mean()}


@pytest.mark.parametrize("fn", LONG_SUMS.values(), ids=LONG_SUMS)
def test_a_sum_over_many_values_rounds_no_worse_than_eager(fn: Op) -> None:
    x = torch.rand(2, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    verdict = export.verify(fn, (x,))
    assert verdict.passed, verdict.table()
    names = ({2: "height", 3: "width"},)
    verdict = export.verify(fn, (x,), dynamic=names)
    assert verdict.passed, verdict.table()
