"""Each operator under each transform, with a dynamic batch where it can: right by the float64 verdict, or refused.

One file a case holds the function itself, its gradient, its per-sample gradients and its forward derivative, so that
every kind of use goes through every operator's rule. What cannot be exported is in ``REFUSED``, with the words of the
error; an entry there that starts to work fails the test, and so does one of ``EAGER_REFUSES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap

import export
from export.errors import ExportError
from export.ops.registry import LOWERINGS
from export.trace.aten_graph import trace
from export.verdict import judge

Op = Callable[..., Any]
BATCH, MODES = {0: "batch"}, ("forward", "grad", "vmap_grad", "jvp")
OTHER = 1
"""The batch tried beside the example's, and varied inputs a leaf: fewer than usual, for speed."""


def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + 10 * len(shape)))


def positive(*shape: int) -> torch.Tensor:
    return seeded(*shape).abs() + 0.5


def integers(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(high + len(shape)))


V, T3, SIGNAL, IMAGE, VOLUME = seeded(3, 6), seeded(3, 4, 5), seeded(3, 4, 9), seeded(3, 4, 6, 6), seeded(3, 2, 4, 4, 4)
P, P3 = positive(3, 6), positive(3, 4, 5)
UNIT = torch.sigmoid(V)
SPD = seeded(3, 4, 4) @ seeded(3, 4, 4).mT + 3 * torch.eye(4)
ROW_IDS, TWICE, EMPTY = torch.tensor([2, 0, 1]), torch.tensor([1, 1, 0, 1]), torch.tensor([], dtype=torch.int64)
TABLE7, MEANS, SPREADS = seeded(7, 5), seeded(4), positive(4)
LABELS = integers(6, 3)


def row_scatter(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return x.scatter_add(1, index, source)


def written(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1] = x[:, 0] * 2
    y[:, :, 2:4] += 1
    y[:, TWICE] *= 2
    return y


def static_loop(x: torch.Tensor) -> torch.Tensor:
    state = torch.zeros_like(x[:, 0])
    for step in x.unbind(1):
        state = torch.tanh(step + 0.5 * state)
    return state


def rows(*table: tuple[Any, ...]) -> dict[str, tuple[Op, tuple[torch.Tensor, ...]]]:
    """{name: (function, arguments)}; the first argument and integers of its batch size carry the batch."""
    return {name: (op, args) for name, op, *args in table}


CASES = rows(
    # positions
    ("scatter", lambda x, s: x.scatter(1, TWICE[None, :, None].expand(x.shape[0], 4, 5), s), T3, T3.cos()),
    ("scatter_number", lambda x: x.scatter(1, x.argmax(1, keepdim=True), 2.0), T3),
    ("scatter_add", row_scatter, T3, integers(4, 3, 4, 5), T3.sin()),
    ("scatter_add_short", row_scatter, T3, integers(4, 3, 2, 3), T3.sin()),
    ("scatter_add_empty", row_scatter, T3, integers(4, 3, 0, 5), T3.sin()),
    ("scatter_reduce_sum", lambda x, i, s: x.scatter_reduce(1, i, s, "sum"), T3, integers(4, 3, 4, 5), T3.sin()),
    ("scatter_reduce_mean", lambda x, i, s: x.scatter_reduce(1, i, s, "mean"), T3, integers(4, 3, 4, 5), T3.sin()),
    ("scatter_reduce_amax", lambda x, i, s: x.scatter_reduce(1, i, s, "amax"), T3, integers(4, 3, 4, 5), T3.sin()),
    ("scatter_reduce_amin", lambda x, i, s: x.scatter_reduce(1, i, s, "amin"), T3, integers(4, 3, 4, 5), T3.sin()),
    ("scatter_reduce_prod", lambda x, i, s: x.scatter_reduce(1, i, s, "prod"), T3, integers(4, 3, 4, 5), T3.sin()),
    (
        "scatter_reduce_alone",
        lambda x, i, s: x.scatter_reduce(1, i, s, "amax", include_self=False),
        T3,
        integers(4, 3, 4, 5),
        T3.sin(),
    ),
    ("index_put", lambda x, v: x.index_put((torch.arange(x.shape[0]), torch.tensor([1])), v), T3, seeded(5)),
    ("index_put_add", lambda x, v: x.mT.index_put((TWICE,), v, accumulate=True), seeded(5, 3), seeded(4, 5)),
    ("index_put_two", lambda x, v: x[0].index_put((TWICE, TWICE), v, accumulate=True)[None] + x, T3, seeded(4)),
    ("index_put_empty", lambda x: x[0].index_put((EMPTY,), torch.ones(0, 5), accumulate=True)[None] + x, T3),
    ("index_add", lambda x, s: x.index_add(1, TWICE, s, alpha=0.5), T3, T3.sin()),
    ("index_copy", lambda x, s: x.index_copy(1, ROW_IDS, s[:, :3]), T3, T3.sin()),
    ("index_fill", lambda x: x.index_fill(1, ROW_IDS, 0.5), T3),
    ("index_select", lambda x: x.index_select(1, TWICE), T3),
    ("index_select_one", lambda x: x.index_select(1, torch.tensor(1)), T3),
    ("index_select_empty", lambda x: x.index_select(1, EMPTY), T3),
    ("index", lambda x: x[:, TWICE], T3),
    ("index_negative", lambda x: x[:, TWICE - 2], T3),
    ("index_two", lambda x: x[:, TWICE, TWICE], T3),
    ("index_apart", lambda x: x[TWICE % 1, :, TWICE], T3),
    ("index_broadcast", lambda x: x[:, TWICE[:, None], ROW_IDS], T3),
    ("index_samples", lambda x, i: x[torch.arange(x.shape[0]), i % 4], T3, LABELS),
    ("gather", lambda x, i: x.gather(1, i), T3, integers(4, 3, 2, 5)),
    ("gather_empty", lambda x, i: x.gather(1, i), T3, integers(4, 3, 0, 5)),
    ("take_along_dim", lambda x, i: torch.take_along_dim(x, i, 1), T3, integers(4, 3, 2, 5)),
    ("take", lambda x: x.take(TWICE), T3),
    ("embedding", lambda i, w: F.embedding(i, w), integers(7, 3, 4), TABLE7),
    ("embedding_padded", lambda i, w: F.embedding(i, w, padding_idx=2), integers(7, 3, 4), TABLE7),
    ("embedding_scaled", lambda i, w: F.embedding(i, w, scale_grad_by_freq=True), integers(7, 3, 4), TABLE7),
    ("embedding_empty", lambda i, w: F.embedding(i, w), integers(7, 3, 0), TABLE7),
    ("embedding_bag", lambda i, w: F.embedding_bag(i, w, mode="sum"), integers(7, 3, 4), TABLE7),
    ("one_hot", lambda x, i: x * F.one_hot(i, 6), V, LABELS),
    ("masked_fill", lambda x: x.masked_fill(x > 0.2, -1.0), T3),
    ("masked_fill_tensor", lambda x, v: x.masked_fill(x > 0.2, v), T3, torch.tensor(0.3)),
    ("masked_fill_own", lambda x: x.masked_fill(x[0] > 0.2, x.detach().amax()) + x, T3),
    ("masked_scatter", lambda x, s: x.masked_scatter(x > 0.2, s), T3, T3.sin()),
    ("where", lambda x, y: torch.where(x > 0, x * y, x + y), T3, T3.sin()),
    ("select_scatter", lambda x: x.select_scatter(x[:, 0] * 2, 1, 2), T3),
    ("slice_scatter", lambda x: x.slice_scatter(x[:, :2] * 2, 1, 1, 3), T3),
    ("diagonal_scatter", lambda x: x.diagonal_scatter(x[:, :, 0] * 2, 0, 1, 2), SPD),
    ("diagonal", lambda x: x.diagonal(1, 1, 2), SPD),
    ("diag_embed", torch.diag_embed, V),
    ("writes", written, T3),
    # order
    ("sort", lambda x: x.sort(1), T3),
    ("sort_down", lambda x: x.sort(2, descending=True), T3),
    ("sort_stable", lambda x: (x * 2).round().sort(dim=1, stable=True), T3),
    ("argsort", lambda x: x.gather(1, x.argsort(1)), T3),
    ("topk", lambda x: x.topk(2, 1), T3),
    ("topk_smallest", lambda x: x.topk(3, 2, largest=False), T3),
    ("max_dim", lambda x: x.max(1), T3),
    ("min_dim", lambda x: x.min(2, keepdim=True), T3),
    ("max_all", torch.max, T3),
    ("amax", lambda x: x.amax((1, 2)), T3),
    ("amin_ties", lambda x: x.round().amin(1) + x.sum(1), T3),
    ("aminmax", lambda x: torch.aminmax(x, dim=1), T3),
    ("median_dim", lambda x: x.median(1), T3),
    ("median_all", torch.median, T3),
    ("nanmedian", lambda x: x.nanmedian(1), T3),
    ("kthvalue", lambda x: x.kthvalue(2, 1), T3),
    ("mode", lambda x: x.round().mode(1), T3),
    ("cummax", lambda x: x.cummax(1), T3),
    ("argmax", lambda x: (x.argmax(1), x.argmin(), x), T3),
    ("searchsorted", lambda x: torch.searchsorted(torch.linspace(-1, 1, 7), x) * x, T3),
    ("bucketize", lambda x: torch.bucketize(x, torch.linspace(-1, 1, 7)) * x, T3),
    # sums
    ("sum", lambda x: x.cos().sum((1, 2)), T3),
    ("mean", lambda x: x.mean(1, keepdim=True), T3),
    ("nanmean", lambda x: x.nanmean(1), T3),
    ("nansum", lambda x: x.nansum(1), T3),
    ("prod", lambda x: x.prod(1), P3),
    ("prod_all", torch.prod, P),
    ("prod_zero", lambda x: (x * torch.tensor([0.0, 1, 1, 1, 1, 1])).prod(1), P),
    ("cumsum", lambda x: x.cumsum(1), T3),
    ("cumprod", lambda x: x.cumprod(1), P3),
    ("logcumsumexp", lambda x: x.logcumsumexp(1), T3),
    ("logsumexp", lambda x: x.logsumexp((1, 2)), T3),
    ("var", lambda x: x.var(1), T3),
    ("var_biased", lambda x: x.var((1, 2), unbiased=False), T3),
    ("std", lambda x: x.std(2), T3),
    ("var_mean", lambda x: torch.var_mean(x, 1), T3),
    ("norm", lambda x: x.norm(dim=1), T3),
    ("norm_one", lambda x: x.norm(p=1, dim=2), T3),
    ("norm_three", lambda x: x.norm(p=3, dim=1), T3),
    ("norm_infinite", lambda x: x.norm(p=float("inf"), dim=1), T3),
    ("norm_zero", lambda x: torch.linalg.vector_norm(x, 0, 1) + x.sum(1), T3),
    ("norm_matrix", lambda x: torch.linalg.matrix_norm(x), T3),
    ("count", lambda x: (x > 0).sum(1) * x.sum(1), T3),
    ("count_nonzero", lambda x: (x > 0).count_nonzero(1) * x.sum(1), T3),
    ("count_nonzero_all", lambda x: x.relu().count_nonzero((1, 2)) * x.relu().count_nonzero() + x.sum((1, 2)), T3),
    ("any_all", lambda x: torch.where((x > 1).any(1) | (x > -1).all(1), x[:, 0], x[:, 1]), T3),
    ("trace", lambda x: torch.stack([torch.trace(x[0])]) + x, SPD),
    ("diff", lambda x: x.diff(dim=1), T3),
    ("gradient", lambda x: torch.gradient(x, dim=1)[0], T3),
    ("trapezoid", lambda x: torch.trapezoid(x, dim=1), T3),
    ("renorm", lambda x: x.renorm(2, 1, 0.7), T3),
    # activations
    ("relu", F.relu, V),
    ("relu6", F.relu6, 4 * V),
    ("gelu", F.gelu, V),
    ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), V),
    ("silu", F.silu, V),
    ("sigmoid", torch.sigmoid, V),
    ("tanh", torch.tanh, V),
    ("elu", lambda x: F.elu(x, 0.3), V),
    ("selu", F.selu, V),
    ("celu", lambda x: F.celu(x, 0.7), V),
    ("softplus", lambda x: F.softplus(x, 2.0, 3.0), V),
    ("mish", F.mish, V),
    ("hardswish", F.hardswish, 3 * V),
    ("hardsigmoid", F.hardsigmoid, 3 * V),
    ("hardtanh", F.hardtanh, V),
    ("leaky_relu", lambda x: F.leaky_relu(x, 0.2), V),
    ("rrelu", lambda x: F.rrelu(x, 0.1, 0.3), V),
    ("prelu", F.prelu, V, torch.full((6,), 0.25)),
    ("logsigmoid", F.logsigmoid, V),
    ("softmax", lambda x: F.softmax(x, 1), V),
    ("log_softmax", lambda x: F.log_softmax(x, 1), V),
    ("softmin", lambda x: F.softmin(x, 1), V),
    ("glu", lambda x: F.glu(x, -1), V),
    ("tanhshrink", F.tanhshrink, V),
    ("softsign", F.softsign, V),
    ("hardshrink", F.hardshrink, V),
    ("softshrink", F.softshrink, V),
    ("threshold", lambda x: F.threshold(x, 0.1, 2.0), V),
    ("normalize", lambda x: F.normalize(x, dim=1), V),
    # arithmetic
    ("exponents", lambda x: x.exp() + x.exp2() + x.expm1() + x.sinh() + x.cosh(), V),
    ("logarithms", lambda x: x.log() + x.log2() * x.log10() + x.log1p(), P),
    ("trigonometry", lambda x: x.sin() * x.cos() + x.tan() + x.atan() + x.asinh(), UNIT),
    ("inverses", lambda x: x.asin() * x.acos() + x.atanh() + (x + 1).acosh(), UNIT),
    ("roots", lambda x: x.sqrt() + x.rsqrt() * x.reciprocal() + x**-0.5 + x**1.5, P),
    ("powers", lambda x: x**2 + x**3 + x**4 + x.square() + x**-2 + x**1 + x**0, P),
    ("power_tensors", lambda x, y: x**y + 2.0**y, P, V),
    ("roundings", lambda x: x.floor() + x.ceil() * x.round() + x.trunc() + x.frac() + x, 3 * V),
    ("round_decimals", lambda x: x.round(decimals=1) + x, V),
    ("signs", lambda x: x.abs() + x.sign() * x.sgn() - (-x), V),
    ("copysign", torch.copysign, V, V.cos()),
    ("signbit", lambda x: torch.where(x.signbit(), x, 2 * x), V),
    ("remainders", lambda x: x % 0.7 + torch.fmod(x, 0.7) + x // 0.3 + x, V),
    ("remainder_tensors", lambda x, y: x % y + torch.fmod(x, y), 4 * V, P),
    ("divisions", lambda x, y: x / y + torch.div(x, y, rounding_mode="trunc") + 2 / y, 4 * V, P),
    ("clamps", lambda x: x.clamp(-0.5, 0.7) + x.clamp_min(0.1) * x.clamp_max(0.2), V),
    ("clamp_tensors", lambda x, y: x.clamp(-y, y), V, P / 2),
    ("extremes", lambda x, y: torch.maximum(x, y) + torch.minimum(x, y) * x.fmax(y) + x.fmin(y), V, V.cos()),
    ("erf", lambda x: x.erf() + x.erfc(), V),
    ("erfinv", lambda x: torch.erfinv(x), UNIT - 0.5),
    ("special", lambda x: torch.special.entr(x) + torch.logit(x) + torch.special.xlogy(x, x), UNIT),
    ("sinc", torch.sinc, V),
    ("lgamma", torch.lgamma, P),
    ("digamma", torch.digamma, P),
    ("bessel", torch.special.i0, V),
    ("atan2", torch.atan2, V, V.cos()),
    ("hypot", torch.hypot, V, V.cos()),
    ("ldexp", torch.ldexp, V, V.cos()),
    ("dist", lambda x: torch.dist(x, x.cos(), 3.0), T3),
    ("permute_copy", lambda x: torch.permute_copy(x, (0, 2, 1)), T3),
    ("narrow_copy", lambda x: torch.narrow_copy(x, 1, 0, 2), T3),
    ("unbind_copy", lambda x: torch.unbind_copy(x, 1)[1], T3),
    ("logaddexp", torch.logaddexp, V, V.cos()),
    ("lerp", lambda x, y: torch.lerp(x, y, 0.3) + torch.lerp(x, y, x.sigmoid()), V, V.cos()),
    ("addcmul", lambda x, y: torch.addcmul(x, x, y, value=0.5) + torch.addcdiv(x, y, y + 3), V, V.cos()),
    ("heaviside", lambda x: torch.heaviside(x, torch.tensor(0.5)) * x, V),
    ("nan_to_num", torch.nan_to_num, V),
    ("logic", lambda x: torch.where((x > 0) & (x < 1) | ~(x > -1) ^ (x == 0), x, -x), V),
    ("addition", lambda x, y: torch.add(x, y, alpha=2) - torch.sub(x, y, alpha=0.5) + (1 - x), V, V.cos()),
    ("casts", lambda x: (4 * x).to(torch.int64) * x + x.bool() * x.to(torch.float64).to(torch.float32), V),
    ("polynomial", lambda x: torch.special.polygamma(1, x), P),
    # normalisations
    ("layer_norm", lambda x, w, b: F.layer_norm(x, (5,), w, b), T3, positive(5), seeded(5)),
    ("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), IMAGE, positive(4), seeded(4)),
    ("instance_norm", lambda x: F.instance_norm(x), IMAGE),
    ("batch_norm", lambda x, w, b: F.batch_norm(x, MEANS, SPREADS, w, b), IMAGE, positive(4), seeded(4)),
    ("batch_norm_train", lambda x, w: F.batch_norm(x, None, None, w, training=True), IMAGE, positive(4)),
    ("rms_norm", lambda x, w: F.rms_norm(x, (5,), w), T3, positive(5)),
    ("local_response", lambda x: F.local_response_norm(x, 3), IMAGE),
    # convolutions
    ("conv1d", lambda x, w: F.conv1d(x, w, stride=2, padding=1), SIGNAL, seeded(2, 4, 3)),
    ("conv1d_dilated", lambda x, w: F.conv1d(x, w, dilation=2, groups=2), SIGNAL, seeded(4, 2, 3)),
    ("conv2d", lambda x, w, b: F.conv2d(x, w, b, padding="same"), IMAGE, seeded(2, 4, 3, 3), seeded(2)),
    ("conv2d_groups", lambda x, w: F.conv2d(x, w, groups=2, stride=2), IMAGE, seeded(4, 2, 3, 3)),
    ("conv2d_depthwise", lambda x, w: F.conv2d(x, w, groups=4, dilation=2, padding=2), IMAGE, seeded(4, 1, 3, 3)),
    ("conv2d_unbatched", lambda x, w: F.conv2d(x[0], w)[None] + x[:, :2, :4, :4], IMAGE, seeded(2, 4, 3, 3)),
    ("conv3d", lambda x, w: F.conv3d(x, w, padding=1, stride=(1, 2, 1)), VOLUME, seeded(2, 2, 3, 3, 3)),
    ("transposed1d", lambda x, w: F.conv_transpose1d(x, w, stride=2), SIGNAL, seeded(4, 2, 3)),
    (
        "transposed2d",
        lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1, 2),
        seeded(3, 4, 3, 3),
        seeded(4, 1, 3, 3),
    ),
    ("transposed3d", lambda x, w: F.conv_transpose3d(x, w, dilation=2), seeded(3, 2, 3, 3, 3), seeded(2, 2, 2, 2, 2)),
    # pools
    ("max_pool1d", lambda x: F.max_pool1d(x, 3, 2, 1), SIGNAL),
    ("max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE),
    ("max_pool2d_positions", lambda x: F.max_pool2d(x, 2, return_indices=True), IMAGE),
    ("max_pool3d", lambda x: F.max_pool3d(x, 2), VOLUME),
    ("max_unpool", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), IMAGE),
    ("avg_pool1d", lambda x: F.avg_pool1d(x, 3, 2, 1), SIGNAL),
    ("avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), IMAGE),
    ("avg_pool3d", lambda x: F.avg_pool3d(x, 2), VOLUME),
    ("adaptive_avg1d", lambda x: F.adaptive_avg_pool1d(x, 4), SIGNAL),
    ("adaptive_avg2d", lambda x: F.adaptive_avg_pool2d(x, (2, 4)), IMAGE),
    ("adaptive_avg2d_channels_last", lambda x: F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), 1), IMAGE),
    ("adaptive_avg3d_channels_last", lambda x: F.adaptive_avg_pool3d(x.permute(0, 4, 1, 2, 3), 1), VOLUME),
    ("adaptive_avg3d", lambda x: F.adaptive_avg_pool3d(x, 2), VOLUME),
    ("adaptive_max1d", lambda x: F.adaptive_max_pool1d(x, 4), SIGNAL),
    ("adaptive_max2d", lambda x: F.adaptive_max_pool2d(x, (2, 4)), IMAGE),
    ("adaptive_max3d", lambda x: F.adaptive_max_pool3d(x, 2), VOLUME),
    ("fractional_pool", lambda x: F.fractional_max_pool2d(x, 2, 3, _random_samples=torch.full((3, 4, 2), 0.3)), IMAGE),
    ("lp_pool1d", lambda x: F.lp_pool1d(x.abs() + 1, 2, 2), SIGNAL),
    ("lp_pool2d", lambda x: F.lp_pool2d(x.abs() + 1, 3, 2), IMAGE),
    # padding and resizing
    ("pad", lambda x: F.pad(x, (1, 2, -1, 0), value=0.5), T3),
    ("pad_reflect1d", lambda x: F.pad(x, (2, 1), mode="reflect"), T3),
    ("pad_reflect2d", lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"), IMAGE),
    ("pad_reflect3d", lambda x: F.pad(x, (1, 2, 1, 1, 0, 2), mode="reflect"), VOLUME),
    ("pad_replicate1d", lambda x: F.pad(x, (2, 1), mode="replicate"), T3),
    ("pad_replicate2d", lambda x: F.pad(x, (1, 2, 3, 1), mode="replicate"), IMAGE),
    ("pad_replicate3d", lambda x: F.pad(x, (1, 2, 1, 1, 0, 2), mode="replicate"), VOLUME),
    ("pad_circular", lambda x: F.pad(x, (2, 1), mode="circular"), T3),
    ("nearest1d", lambda x: F.interpolate(x, size=13), SIGNAL),
    ("nearest2d", lambda x: F.interpolate(x, size=(5, 13)), IMAGE),
    ("nearest2d_scaled", lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    ("nearest3d", lambda x: F.interpolate(x, size=(3, 5, 6)), VOLUME),
    ("nearest_exact", lambda x: F.interpolate(x, size=(5, 13), mode="nearest-exact"), IMAGE),
    ("linear", lambda x: F.interpolate(x, size=11, mode="linear"), SIGNAL),
    ("bilinear", lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE),
    ("bilinear_corners", lambda x: F.interpolate(x, size=(5, 11), mode="bilinear", align_corners=True), IMAGE),
    ("bilinear_smooth", lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True), IMAGE),
    ("bicubic", lambda x: F.interpolate(x, size=(5, 9), mode="bicubic"), IMAGE),
    ("bicubic_corners", lambda x: F.interpolate(x, size=(5, 9), mode="bicubic", align_corners=True), IMAGE),
    ("bicubic_smooth", lambda x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True), IMAGE),
    ("trilinear", lambda x: F.interpolate(x, size=(3, 5, 6), mode="trilinear"), VOLUME),
    ("area", lambda x: F.interpolate(x, size=(4, 4), mode="area"), IMAGE),
    ("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), IMAGE),
    ("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), IMAGE),
    ("channel_shuffle", lambda x: F.channel_shuffle(x, 2), IMAGE),
    ("unfold_image", lambda x: F.unfold(x, 3, padding=1, stride=2), IMAGE),
    ("fold_image", lambda x: F.fold(x, (4, 4), 2), seeded(3, 8, 9)),
    ("unfold_axis", lambda x: x.unfold(2, 3, 2), SIGNAL),
    ("grid_sample", lambda x: F.grid_sample(x, x[:, :2].movedim(1, 3).tanh(), align_corners=False), IMAGE),
    ("affine_grid", lambda x: F.affine_grid(x[:, :2, :3], [3, 1, 4, 4], align_corners=False), T3),
    # shapes
    ("roll", lambda x: x.roll(2, 1) + x.roll((-1, 2), (1, 2)) * x.roll(3), T3),
    ("roll_far", lambda x: x.roll(7, 1) + x.roll(-11, 2), T3),
    ("flip", lambda x: x.flip(1, 2), T3),
    ("rot90", lambda x: x.rot90(1, (1, 2)), T3),
    ("triangles", lambda x: x.triu() + x.tril(-1) * x.triu(2), SPD),
    ("repeats", lambda x: x.repeat(1, 2, 1) + x.tile(1, 2, 1) * x.repeat_interleave(2, 1), T3),
    ("joins", lambda x: torch.cat([x, torch.stack([x[:, 0], x[:, 1]], 1)], 1), T3),
    ("cuts", lambda x: [*x.split(3, 1), *x.chunk(2, 2), *x.unbind(1), *x.tensor_split(2, 2)], T3),
    ("slices", lambda x: x[:, 1:3, ::2].sum() + x[:, -2:, -1] * x[:, 5:].sum() + x.narrow(1, 1, 2)[..., 0], T3),
    ("expands", lambda x: x[:, None].expand(-1, 2, -1, -1) + x.unsqueeze(1).expand_as(x[:, None]), T3),
    ("views", lambda x: x.reshape(x.shape[0], -1) + x.flatten(1).view(-1, 20) + x.unflatten(2, (5, 1)).flatten(1), T3),
    ("axes", lambda x: x.permute(2, 0, 1).sum(0) + x.movedim(1, 2).mT.swapaxes(1, 2).sum(1)[:, :4], T3),
    ("squeeze", lambda x: x[:, :1].squeeze(1) + x[:, None].squeeze((1,))[:, 0], T3),
    ("meshgrid", lambda x: [*torch.meshgrid(x[0, 0], x[0, 1], indexing="ij"), x], T3),
    ("fills", lambda x: x + torch.zeros_like(x) + x.new_ones(x.shape[0], 1, 1) * torch.full((4, 5), 0.5), T3),
    ("vander", lambda x: torch.vander(x[0], 3).sum() + x, V),
    ("combinations", lambda x: torch.cartesian_prod(x[0], x[1]), V),
    ("tensor_of_numbers", lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6]) + torch.arange(6) + torch.eye(6)[0], V),
    # products
    ("matmul", torch.matmul, T3, seeded(5, 3)),
    ("matmul_broadcast", torch.matmul, seeded(3, 1, 4, 5), seeded(2, 5, 3)),
    ("matmul_vector", torch.matmul, T3, seeded(5)),
    ("bmm", lambda x: torch.bmm(x, x.mT), T3),
    ("baddbmm", lambda x: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.3, alpha=0.5), T3),
    ("addmm", lambda x, w, b: torch.addmm(b, x, w, beta=0.3, alpha=2), V, seeded(6, 4), seeded(4)),
    ("addmv", lambda x, w: torch.addmv(x[:, 0], x, w, beta=0.5), V, seeded(6)),
    ("addbmm", lambda x: torch.addbmm(torch.ones(4, 4), x, x.mT), T3),
    ("addr", lambda x: torch.addr(torch.ones(6, 6), x[0], x[1]) @ x.mT, V),
    ("linear", F.linear, T3, seeded(2, 5), seeded(2)),
    ("bilinear_form", lambda x, w: F.bilinear(x, x.cos(), w), V, seeded(2, 6, 6)),
    ("einsum", lambda x, w: torch.einsum("bij,jk,bik->bi", x, w, x @ w), T3, seeded(5, 5)),
    ("tensordot", lambda x, w: torch.tensordot(x, w, dims=2), T3, seeded(4, 5, 2)),
    ("kron", lambda x: torch.kron(x[0], x[1])[None] + x.sum(), V),
    ("cross", lambda x: torch.linalg.cross(x[:, :3], x[:, 3:]), V),
    ("cdist", lambda x: torch.cdist(x, x + 1), T3),
    ("matrix_power", lambda x: torch.linalg.matrix_power(x, 3), SPD / 8),
    ("det", torch.linalg.det, SPD),
    ("slogdet", lambda x: torch.linalg.slogdet(x)[1], SPD),
    ("inverse", torch.linalg.inv, SPD),
    ("solve", lambda x: torch.linalg.solve(x, x[:, :, 0]), SPD),
    ("cholesky", torch.linalg.cholesky, SPD),
    ("svdvals", torch.linalg.svdvals, SPD),
    ("attention", lambda x: F.scaled_dot_product_attention(x, x * 0.5, x + 1), IMAGE),
    ("attention_causal", lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), IMAGE),
    ("attention_mask", lambda x, m: F.scaled_dot_product_attention(x, x, x, attn_mask=m), IMAGE, seeded(6, 6)),
    ("rfft", lambda x: torch.fft.rfft(x).abs(), V),
    ("fft_real", lambda x: torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(x.cos())).real, V),
    # losses
    ("cross_entropy", lambda x, y: F.cross_entropy(x, y), V, LABELS),
    ("cross_entropy_weights", lambda x, y, w: F.cross_entropy(x, y, w), V, LABELS, positive(6)),
    ("cross_entropy_smooth", lambda x, y: F.cross_entropy(x, y, ignore_index=1, label_smoothing=0.1), V, LABELS),
    ("cross_entropy_soft", lambda x: F.cross_entropy(x, x.cos().softmax(1)), V),
    (
        "cross_entropy_soft_weights",
        lambda x, w: F.cross_entropy(x, x.cos().softmax(1), w, reduction="sum", label_smoothing=0.1),
        IMAGE,
        positive(4),
    ),
    ("cross_entropy_soft_none", lambda x: F.cross_entropy(x, x.cos().softmax(1), reduction="none"), IMAGE),
    ("cross_entropy_soft_alone", lambda x: F.cross_entropy(x[0], x[0].cos().softmax(0))[None] + x, V),
    ("cross_entropy_image", lambda x, y: F.cross_entropy(x, y, reduction="none"), IMAGE, integers(4, 3, 6, 6)),
    ("nll", lambda x, y: F.nll_loss(x.log_softmax(1), y, reduction="sum"), V, LABELS),
    ("mse", F.mse_loss, V, V.cos()),
    ("l1", F.l1_loss, V, V.cos()),
    ("bce", lambda x: F.binary_cross_entropy(x.sigmoid(), (x > 0.3).float()), V),
    ("bce_with_logits", lambda x: F.binary_cross_entropy_with_logits(x, x.cos(), pos_weight=torch.tensor(2.0)), V),
    ("huber", lambda x, y: F.huber_loss(x, y, delta=0.7), V, V.cos()),
    ("smooth_l1", lambda x, y: F.smooth_l1_loss(x, y, beta=0.3), V, V.cos()),
    ("kl", lambda x: F.kl_div(x.log_softmax(-1), (2 * x).softmax(-1), reduction="batchmean"), V),
    ("kl_log", lambda x: F.kl_div(x.log_softmax(-1), (2 * x).log_softmax(-1), reduction="sum", log_target=True), V),
    ("poisson", lambda x: F.poisson_nll_loss(x, x.exp() + 1), V),
    ("gaussian", lambda x: F.gaussian_nll_loss(x, x.cos(), x.square() + 1), V),
    ("soft_margin", lambda x: F.soft_margin_loss(x, x.sign()), V),
    ("hinge", lambda x: F.hinge_embedding_loss(x, x.sign()), V),
    ("margin", lambda x: F.margin_ranking_loss(x, x.cos(), x.sign()), V),
    ("multi_margin", lambda x, y: F.multi_margin_loss(x, y), V, LABELS),
    ("multilabel", lambda x: F.multilabel_soft_margin_loss(x, (x > 0).float()), V),
    ("triplet", lambda x: F.triplet_margin_loss(x, x.cos(), x.sin()), V),
    ("cosine", lambda x: F.cosine_similarity(x, x + 1, dim=1), V),
    ("cosine_loss", lambda x: F.cosine_embedding_loss(x, x.cos(), x[:, 0].sign()), V),
    ("pairwise", lambda x: F.pairwise_distance(x, x.cos()), V),
    ("ctc", lambda x: F.ctc_loss(x.log_softmax(2), torch.ones(4, 2, dtype=torch.long), (3,) * 4, (2,) * 4), T3),
    # loops
    ("loop", static_loop, T3),
    ("gru", lambda x, w: torch.gru_cell(x, x[:, :2], w, w[:, :2]), V, seeded(6, 6)),
)  # fmt: skip


def floats(values: Any) -> Iterator[torch.Tensor]:
    """The float tensors of a result."""
    for value in values if isinstance(values, (tuple, list)) else [values]:
        if value.is_floating_point():
            yield value


def every_use(op: Op, modes: tuple[str, ...], batched: tuple[bool, ...]) -> Op:
    """A function that returns the operator's value, gradient, per-sample gradients and forward derivative, by name."""

    def scalar(*args: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(())
        for value in floats(op(*args)):
            total = total + (value.sin() + 0.5 * value.square()).sum()
        return total

    def one(*args: torch.Tensor) -> torch.Tensor:
        return scalar(*(arg[None] if mapped else arg for arg, mapped in zip(args, batched, strict=True)))

    def whole(*args: torch.Tensor) -> dict[str, Any]:
        places = tuple(i for i, arg in enumerate(args) if arg.is_floating_point())
        results: dict[str, Any] = {}
        if "forward" in modes:
            value = op(*args)
            results["forward"] = list(value) if isinstance(value, (tuple, list)) else value
        if "grad" in modes:
            results["grad"] = grad(scalar, places)(*args)
        if "vmap_grad" in modes:
            results["vmap_grad"] = vmap(grad(one, places), tuple(0 if mapped else None for mapped in batched))(*args)
        if "jvp" in modes:

            def moved(*given: torch.Tensor) -> list[torch.Tensor]:
                replaced = dict(zip(places, given, strict=True))
                return list(floats(op(*(replaced.get(i, arg) for i, arg in enumerate(args)))))

            given = tuple(args[i] for i in places)
            results["jvp"] = jvp(moved, given, tuple((arg + 1).cos() for arg in given))[1]
        return results

    return whole


def batched(args: tuple[torch.Tensor, ...]) -> tuple[bool, ...]:
    """Which arguments carry the batch: those as long as the first, if that makes them more than a vector of weights."""
    return tuple(
        i == 0
        or (arg.dim() > 0 and arg.shape[0] == args[0].shape[0] and not (arg.is_floating_point() and arg.dim() < 2))
        for i, arg in enumerate(args)
    )


ALL, REVERSE = MODES, ("grad", "vmap_grad")

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "scatter_reduce_prod": (("grad",), "tensor's value"),
    "nanmedian": (ALL, "aten.nanmedian"),
    "mode": (ALL, "aten.mode"),
    "cummax": (ALL, "aten.cummax"),
    "rrelu": (("forward", "grad", "jvp"), "random numbers"),
    "erfinv": (ALL, "aten.erfinv"),
    "lgamma": (ALL, "aten.(lgamma|digamma)"),
    "digamma": (ALL, "aten.(digamma|polygamma)"),
    "bessel": (ALL, "aten.(i0|special_i1)"),
    "polynomial": (ALL, "aten.polygamma"),
    "fractional_pool": (ALL, "aten.fractional_max_pool2d"),
    "det": (("grad", "vmap_grad", "jvp"), "aten._linalg"),
    "slogdet": (ALL, "aten._linalg"),
    "inverse": (ALL, "aten.linalg_inv_ex"),
    "solve": (ALL, "aten._linalg_solve_ex"),
    "cholesky": (ALL, "aten.linalg_cholesky_ex"),
    "svdvals": (ALL, "aten._linalg_svd"),
}
"""What cannot be exported: {case: (its uses, what the error says)}."""

EAGER_REFUSES: dict[str, tuple[str, ...]] = {
    "scatter_add_short": REVERSE,
    "scatter_add_empty": REVERSE,
    "scatter_reduce_prod": ("vmap_grad",),
    "index_select_one": ("vmap_grad",),
    "index_put_add": ("vmap_grad",),
    "embedding_bag": ("jvp",),
    "one_hot": ("vmap_grad",),
    "rrelu": ("vmap_grad",),
    "remainders": ("grad", "vmap_grad", "jvp"),
    "heaviside": ("grad", "vmap_grad", "jvp"),
    "affine_grid": ("vmap_grad",),
    "vander": REVERSE,
    "combinations": ("vmap_grad",),
    "addr": ("vmap_grad",),
    "kron": ("vmap_grad",),
    "cdist": ("jvp",),
    "attention": ("jvp",),
    "attention_causal": ("jvp",),
    "attention_mask": ("jvp",),
    "cross_entropy_weights": REVERSE,
    "gaussian": ("vmap_grad",),
    "soft_margin": ("grad", "vmap_grad", "jvp"),
    "multi_margin": ("jvp",),
    "ctc": ("grad", "vmap_grad", "jvp"),
}
"""What PyTorch itself cannot do: {case: its uses}."""

FIXED_BATCH: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "take",
            "masked_scatter",
            "diagonal_scatter",
            "diagonal",
            "writes",
            "glu",
            "local_response",
            "max_pool3d",
            "max_unpool",
            "avg_pool3d",
            "adaptive_avg3d",
            "adaptive_max1d",
            "adaptive_max2d",
            "adaptive_max3d",
            "pad_reflect1d",
            "pad_reflect2d",
            "pad_reflect3d",
            "pad_replicate1d",
            "pad_replicate2d",
            "pad_replicate3d",
            "pad_circular",
            "bilinear_smooth",
            "pixel_shuffle",
            "pixel_unshuffle",
            "channel_shuffle",
            "unfold_image",
            "fold_image",
            "unfold_axis",
            "bilinear_form",
            "cross",
        ),
        ("vmap_grad",),
    ),
    "index_put_add": ("grad",),
    "gradient": ("forward", "grad", "jvp"),
    "renorm": ("vmap_grad", "jvp"),
    "signs": ("grad",),
    "ctc": ("forward",),  # the number of frames, over which the recursion runs
    "bicubic_smooth": ("grad", "vmap_grad"),
    "grid_sample": ("jvp",),
    "affine_grid": ("forward", "grad", "jvp"),
}
"""What needs a fixed batch, mostly as PyTorch's batching rules ask for sizes as numbers: {case: its uses}."""


if torch.__version__ < "2.15":
    EAGER_REFUSES["grid_sample"] = FIXED_BATCH.pop("grid_sample")  # PyTorch had no forward derivative of it
if torch.__version__ < "2.12":
    EAGER_REFUSES["aminmax"] = ("grad", "vmap_grad", "jvp")  # nor any derivative of this


def wanted(name: str) -> tuple[str, ...]:
    """The uses of a case that must be right."""
    without = {*REFUSED.get(name, ((), ""))[0], *EAGER_REFUSES.get(name, ())}
    return tuple(mode for mode in MODES if mode not in without)


def dynamic(args: tuple[torch.Tensor, ...]) -> tuple[dict[int, str] | None, ...]:
    """The batch as a dynamic axis."""
    return tuple(BATCH if mapped else None for mapped in batched(args))


def judged(name: str, fixed: bool) -> tuple[str, ...]:
    """The uses to judge with a fixed batch, or with a dynamic one."""
    return tuple(mode for mode in wanted(name) if (mode in FIXED_BATCH.get(name, ())) == fixed)


SETTINGS = [(name, fixed) for name in CASES for fixed in (False, True) if judged(name, fixed)]


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")  # PyTorch's own, in its forward derivatives
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # PyTorch's own, where vmap loops
@pytest.mark.parametrize(
    ("name", "fixed"), SETTINGS, ids=[f"{name}-{'fixed' if fixed else 'dynamic'}" for name, fixed in SETTINGS]
)
def test_every_use_of_an_operator_is_right(name: str, fixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge.Judge, "other_sizes", lambda self: iter([{"batch": OTHER}] if self.example else []))
    op, args = CASES[name]
    fn = every_use(op, judged(name, fixed), batched(args))
    verdict = export.verify(fn, args, dynamic=None if fixed else dynamic(args), device="cpu")
    assert verdict.passed, verdict.table()


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, (modes, _) in REFUSED.items() for mode in modes])
def test_what_cannot_be_exported_says_so_with_its_line(name: str, mode: str, tmp_path: Path) -> None:
    op, args = CASES[name]
    with pytest.raises(ExportError, match=rf"(?s){REFUSED[name][1]}.*source: .*test_export_op_transforms\.py:\d+"):
        export.to_onnx(every_use(op, (mode,), batched(args)), args, tmp_path / "f.onnx")


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, modes in FIXED_BATCH.items() for mode in modes])
def test_what_needs_a_fixed_batch_says_so(name: str, mode: str) -> None:
    op, args = CASES[name]
    with pytest.raises(ExportError, match=r"(?s)source: .*test_export_op_transforms\.py:\d+"):
        trace(every_use(op, (mode,), batched(args)), args, dynamic(args), LOWERINGS)


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, modes in EAGER_REFUSES.items() for mode in modes])
def test_what_eager_refuses_is_known(name: str, mode: str) -> None:
    op, args = CASES[name]
    with pytest.raises((RuntimeError, NotImplementedError, IndexError)):
        every_use(op, (mode,), batched(args))(*args)
