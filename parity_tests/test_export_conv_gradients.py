"""Derivatives of convolutions and pooling, of every kind that PyTorch has, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vjp, vmap

import export

CONVOLUTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (2, {}),
    "padded": (2, {"padding": 1}),
    "padded unevenly": (2, {"padding": (0, 2)}),
    "stride 2": (2, {"stride": 2, "padding": 1}),
    "stride 3, left over": (2, {"stride": 3}),
    "stride by axis": (2, {"stride": (1, 2)}),
    "dilated": (2, {"dilation": 2, "padding": 2}),
    "dilated and strided": (2, {"dilation": 2, "stride": 2, "padding": 1}),
    "groups": (2, {"groups": 2, "padding": 1}),
    "groups, strided": (2, {"groups": 2, "stride": 2, "padding": 1}),
    "depthwise": (2, {"groups": 4, "padding": 1, "stride": 2}),
    "one dimension": (1, {"stride": 2, "padding": 1}),
    "three dimensions": (3, {"stride": (1, 2, 1), "padding": 1}),
    "three dimensions, groups": (3, {"groups": 2}),
}
TRANSPOSED: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (2, {}),
    "stride 2": (2, {"stride": 2, "padding": 1}),
    "stride 2, output padded": (2, {"stride": 2, "padding": 1, "output_padding": 1}),
    "dilated": (2, {"dilation": 2, "stride": 2}),
    "groups": (2, {"groups": 2, "stride": 2}),
    "one dimension": (1, {"stride": 3, "output_padding": 2}),
    "three dimensions": (3, {"padding": 1}),
}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
BATCH = {0: "batch"}


def drawn(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def judge(fn: Callable[..., Any], args: tuple[Any, ...], dynamic: tuple[Any, ...] | None) -> None:
    verdict = export.verify(fn, args, dynamic=dynamic)
    assert verdict.passed, verdict.table()


@pytest.mark.parametrize(("rank", "options"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_the_derivatives_of_a_convolution(rank: int, options: dict[str, Any]) -> None:
    groups = options.get("groups", 1)
    x, w, b = drawn(
        (3, 4, *(8, 7, 6)[:rank]), (6 if groups < 4 else 4, 4 // groups, *(3,) * rank), (6 if groups < 4 else 4,)
    )

    def loss(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return CONV[rank](x, w, b, **options).pow(3).sum()

    judge(grad(loss, (0, 1, 2)), (x, w, b), (BATCH, None, None))


@pytest.mark.parametrize(("rank", "options"), TRANSPOSED.values(), ids=TRANSPOSED)
def test_the_derivatives_of_a_transposed_convolution(rank: int, options: dict[str, Any]) -> None:
    groups = options.get("groups", 1)
    x, w, b = drawn((3, 4, *(5, 4, 3)[:rank]), (4, 6 // groups, *(3,) * rank), (6,))

    def loss(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return CONV_TRANSPOSED[rank](x, w, b, **options).pow(3).sum()

    judge(grad(loss, (0, 1, 2)), (x, w, b), (BATCH, None, None))


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"groups": 2}], ids=["plain", "strided", "groups"]
)
def test_per_sample_and_second_derivatives_of_a_convolution(options: dict[str, Any]) -> None:
    x, w = drawn((3, 4, 6, 5), (6, 4 // options.get("groups", 1), 3, 3))

    def loss(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x[None], w, **options).pow(3).sum()

    judge(vmap(grad(loss), (None, 0)), (w, x), None)

    def product(w: torch.Tensor, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = jvp(grad(lambda w: loss(w, x)), (w,), (v,))[1]
        return total

    judge(product, (w, x[0], w.cos()), None)


POOLS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max, overlapping": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max, ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max, dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "max, one dimension": lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1),
    "mean": lambda x: F.avg_pool2d(x, 2),
    "mean, overlapping, padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "mean, padding not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "mean, ceil": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False),
    "mean, ceil, padded": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "mean, own divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "mean, one dimension": lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1),
    "mean of all": lambda x: F.adaptive_avg_pool2d(x, 1),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_the_derivative_of_pooling(pool: Callable[[torch.Tensor], torch.Tensor]) -> None:
    (x,) = drawn((3, 2, 7, 6))
    y, pull = vjp(pool, x)
    del pull

    def fn(x: torch.Tensor, v: torch.Tensor) -> Any:
        return vjp(pool, x)[1](v)

    judge(fn, (x, y.cos()), (BATCH, BATCH))


def test_a_derivative_that_needs_a_fixed_size_says_so() -> None:
    x, w = drawn((2, 3, 8, 8), (4, 3, 3, 3))
    fn = grad(lambda x, w: F.conv2d(x, w, stride=2).square().sum())
    with pytest.raises(export.errors.ExportError, match="fixed spatial sizes"):
        export.verify(fn, (x, w), dynamic=({2: "height"}, None))
    judge(grad(lambda x, w: F.conv2d(x, w).square().sum(), (0, 1)), (x, w), ({2: "height"}, None))
