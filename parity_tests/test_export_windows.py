"""Convolutions and their derivatives as one product for the batch: the same numbers, and only where it pays."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

import export
from export.graph.onnx_export import DEFAULT_OPSET, translate
from export.ops import convolution_gradients
from export.ops.registry import LOWERINGS
from export.ops.shared import weight_gradients, windows
from export.ops.shared.weight_gradients import MIN_CHANNELS_FOR_ONE_PRODUCT
from export.trace.arguments import take_apart
from export.trace.aten_graph import record

CASES: dict[str, tuple[int, tuple[int, ...], dict[str, Any]]] = {
    "plain": (2, (5, 5), {}),
    "padded": (2, (3, 2), {"padding": 1}),
    "padded unevenly": (2, (4, 1), {"padding": (0, 1)}),
    "stride 2": (2, (5, 4), {"stride": 2, "padding": 1}),
    "stride 3, left over": (2, (8, 7), {"stride": 3}),
    "dilated": (2, (6, 5), {"dilation": 2, "padding": 1}),
    "dilated and strided": (2, (7, 7), {"dilation": 2, "stride": 2, "padding": 1}),
    "groups": (2, (3, 3), {"groups": 2, "padding": 1}),
    "one dimension": (1, (9,), {"stride": 2, "padding": 1}),
    "three dimensions": (3, (3, 4, 3), {"stride": (1, 2, 1), "padding": (0, 1, 0)}),
}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MANY, FEW = 10, 8


def drawn(rank: int, space: tuple[int, ...], groups: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (4, FEW * groups, *space), (MANY, FEW, *(3,) * rank), (MANY,)
    x, w, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x, w, b


def kinds(fn: Callable[..., Any], args: tuple[Tensor, ...], target: str | None) -> Counter[str]:
    proto, _ = translate(record(fn, take_apart(fn, args, None), LOWERINGS), frozenset(), DEFAULT_OPSET, target=target)
    return Counter(node.op_type for node in proto.graph.node)


@pytest.mark.parametrize("always", [False, True], ids=["as it pays", "always"])
@pytest.mark.parametrize(("rank", "space", "options"), CASES.values(), ids=CASES)
def test_the_numbers_are_the_convolutions(
    rank: int, space: tuple[int, ...], options: dict[str, Any], always: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if always:  # products and convolutions wherever there can be one, a product a tap
        monkeypatch.setattr(windows, "MIN_WEIGHT_FOR_ONE_PRODUCT", 0)
        monkeypatch.setattr(weight_gradients, "MAX_VALUES_OF_WINDOWS", 1)
        for limit in ("MIN_POSITIONS_FOR_CONVOLUTION", "MIN_POSITIONS_OF_A_MAP"):
            monkeypatch.setattr(convolution_gradients, limit, 1)
    groups = options.get("groups", 1)
    args = drawn(rank, space, groups)

    def loss(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return CONV[rank](x, w, b, **options).pow(3).sum()

    per_sample = vmap(grad(lambda x, w, b: loss(x[None], w, b), (1, 2)), (0, None, None))
    narrow = tuple(leaf.float() for leaf in args)
    for fn in (lambda x, w, b: CONV[rank](x, w, b, **options), grad(loss, (0, 1, 2)), per_sample):
        expected = fn(*args)
        expected = (expected,) if isinstance(expected, Tensor) else expected
        results = export.jit(fn, device="cpu")(*narrow)
        results = (results,) if isinstance(results, Tensor) else results
        for result, reference in zip(results, expected, strict=True):
            assert (result.double() - reference).norm() / reference.norm() < 2e-6


def test_small_maps_become_products_where_a_call_is_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    small, w, b = drawn(2, (3, 3), 1)
    large = torch.zeros(4, FEW, 9, 9)
    conv = lambda x, w, b: F.conv2d(x, w, b, padding=1)  # noqa: E731
    w, b = w.float(), b.float()
    assert w.numel() < windows.MIN_WEIGHT_FOR_ONE_PRODUCT
    assert kinds(conv, (small.float(), w, b), target="cpu") == {"Conv": 1}, "a small weight stays in the cache"
    monkeypatch.setattr(windows, "MIN_WEIGHT_FOR_ONE_PRODUCT", w.numel())
    assert 3 * 3 <= windows.MAX_POSITIONS_FOR_ONE_PRODUCT < 9 * 9
    assert kinds(conv, (small.float(), w, b), target="cpu")["Gemm"] == 1
    assert kinds(conv, (small.float(), w, b), target=None) == {"Conv": 1}
    assert kinds(conv, (large, w, b), target="cpu") == {"Conv": 1}
    assert kinds(conv, (small[:1].float(), w, b), target="cpu") == {"Conv": 1}, "one image is one product already"


def test_the_derivative_of_large_maps_by_the_input_is_a_convolution() -> None:
    small, w, _ = drawn(2, (9, 9), 1)
    large = torch.zeros(8, FEW, 16, 16)
    by_input = grad(lambda x, w: F.conv2d(x, w, padding=1).square().sum())
    assert kinds(by_input, (large, w.float()), target=None)["ConvTranspose"] == 0
    assert kinds(by_input, (small.float(), w.float()), target=None)["ConvTranspose"] == 1
    assert kinds(by_input, (large, w.float()), target="cuda")["ConvTranspose"] == 1


def test_the_derivative_by_a_weight_is_one_product() -> None:
    x, w, _ = drawn(2, (9, 9), 1)
    by_weight = grad(lambda w, x: F.conv2d(x, w, padding=1).square().sum())
    found = kinds(by_weight, (w.float(), x.float()), target=None)
    assert (found["Conv"], found["Gemm"]) == (1, 1)
    thin = kinds(
        by_weight,
        (w[:, : MIN_CHANNELS_FOR_ONE_PRODUCT - 1].float(), x[:, : MIN_CHANNELS_FOR_ONE_PRODUCT - 1].float()),
        target=None,
    )
    assert (thin["Conv"], thin["Gemm"]) == (2, 0)
