"""What gradient flow cannot measure is a typed error that says what was given, what was expected, and the fix."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pure
from pure import flow, nets
from pure.errors import ArgumentError, CaptureError, DtypeError, RankError, ShapeError, TreeError, UnsupportedError
from pure.interop import from_module

W = {"w": torch.ones(3)}
X = torch.ones(4, 3)


def product(params: Any, x: Tensor) -> Tensor:
    return (params["w"] * x).sum()


def per_sample_cases() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], type[Exception], str]]:
    y = torch.ones(5)
    return {
        "no batch": (product, (), ArgumentError, "no batch: give what loss takes after params"),
        "empty batch": (product, (X[:0],), ArgumentError, "0 samples"),
        "a constant among the batch": (product, (X, 2.0), ArgumentError, r"batch\[1\] is float: .* into the loss"),
        "a batch leaf without axes": (product, ({"x": X, "t": torch.ones(())},), ShapeError, r"\.t has no axes"),
        "sizes that disagree": (product, ({"x": X}, y), ShapeError, r"batch\[0\].x: 4, batch\[1\]: 5"),
        "a vector": (lambda p, x: p["w"] * x, (X,), ShapeError, r"shape \(3,\): expected one sample's scalar"),
        "a tuple": (lambda p, x: (product(p, x), x), (X,), ArgumentError, "returned 2 values: expected one sample's"),
        "a number": (lambda p, x: 1.0, (X,), ArgumentError, "returned float: expected one sample's"),
        "an integer": (lambda p, x: product(p, x).long(), (X,), DtypeError, "int64: expected one sample's"),
        "NaN": (lambda p, x: product(p, x).log(), (X * torch.tensor([1, -1, 1, -1])[:, None],), UnsupportedError,
                r"2 of 4 samples \(1, 3\)"),
        "random numbers": (lambda p, x: product(p, x * torch.rand(3)), (X,), UnsupportedError, "draws random numbers"),
        "a branch on a value": (lambda p, x: product(p, x) if x.sum() > 0 else x.sum(), (X,), UnsupportedError,
                                "use torch.where"),
        "no batch axis left": (lambda p, x: pure.Linear(3, 1)({}, x).sum(), (X,), TreeError, "missing 'weight'"),
    }  # fmt: skip


@pytest.mark.parametrize("case", per_sample_cases())
def test_per_sample_norms(case: str) -> None:
    loss, batch, error, message = per_sample_cases()[case]
    with pytest.raises(error, match=message):
        flow.per_sample_norms(loss, W, *batch)


def test_an_input_changed_in_place_after_a_linear_map_read_it() -> None:
    def loss(params: Any, x: Tensor) -> Tensor:
        h = x * 2
        y = F.linear(h, params["w"])
        return y.sum() + h.mul_(2).sum()

    with pytest.raises(UnsupportedError, match="in place after its use"):
        flow.per_sample_norms(loss, {"w": torch.ones(3, 3)}, X)


@pytest.mark.parametrize("space", [(), (5,), (5, 5)], ids=["vector", "sequence", "image"])
def test_per_sample_gradients_through_batch_statistics(space: tuple[int, ...]) -> None:
    block = pure.Sequential(norm=pure.BatchNorm(3), act=pure.Activation("relu"))
    params, state = block.init(torch.Generator())
    x = torch.randn(4, 3, *space, generator=torch.Generator().manual_seed(0))

    def loss(params: Any, x: Tensor) -> Tensor:
        return block.apply(params, x[None], state, {}, True)[0].square().sum()

    with pytest.raises(
        UnsupportedError, match=r"BatchNorm in training.*one sample's gradient does not exist.*GroupNorm"
    ):
        flow.per_sample_norms(loss, params, x)
    evaluation = flow.per_sample_norms(lambda p, x: block(p, x[None], state).square().sum(), params, x)
    assert (evaluation.total > 0).all()


def test_per_sample_gradients_through_a_modules_batch_statistics() -> None:
    block, params, state = from_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))

    def loss(params: Any, x: Tensor) -> Tensor:
        return block.apply(params, x[None], state, {}, True)[0].sum()

    with pytest.raises(UnsupportedError, match="BatchNorm in training"):
        flow.per_sample_norms(loss, params, torch.ones(2, 3, 5, 5))


def test_the_whole_batchs_gradient_through_batch_statistics_is_well_posed() -> None:
    block = pure.BatchNorm(3)
    params, state = block.init(torch.Generator())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    norms = flow.gradient_norms(lambda p, x: block.apply(p, x, state, {}, True)[0].exp().sum(), params, x)
    assert norms["weight"] > 0


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda p, x: p["w"] * x, ShapeError, r"shape \(4, 3\): expected the batch's scalar loss: take .mean\(\)"),
        (lambda p, x: (product(p, x), x), ArgumentError, "returned 2 values: expected the batch's"),
        (lambda p, x: None, ArgumentError, "returned NoneType"),
        (lambda p, x: product(p, x) * torch.nan, UnsupportedError, "loss is nan"),
        (lambda p, x: product(p, x) / 0, UnsupportedError, "loss is inf"),
        ("loss", ArgumentError, "loss is str: expected a function"),
    ],
)
def test_gradient_norms(loss: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        flow.gradient_norms(loss, W, X)


MEASURES: list[Callable[..., Any]] = [flow.gradient_norms, flow.per_sample_norms]


@pytest.mark.parametrize("measure", MEASURES)
def test_integer_parameters(measure: Callable[..., Any]) -> None:
    with pytest.raises(DtypeError, match=r"'steps' is torch.int64, which has no gradient"):
        measure(product, {**W, "steps": torch.zeros((), dtype=torch.int64)}, X)


@pytest.mark.parametrize("measure", MEASURES)
def test_parameters_that_are_no_tensors(measure: Callable[..., Any]) -> None:
    with pytest.raises(TreeError, match="'rate' is float: expected a tensor"):
        measure(product, {**W, "rate": 0.1}, X)


@pytest.mark.parametrize("measure", MEASURES)
def test_inside_a_transform(measure: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"inside a torch\.func transform"):
        torch.func.grad(lambda w: measure(product, {"w": w}, X)["w"])(torch.ones(3))


def test_a_value_tagged_inside_an_inner_derivative() -> None:
    def penalised(params: Any, x: Tensor) -> Tensor:
        return torch.func.grad(lambda row: pure.tag(params["w"] * row, "inner").square().sum())(x).square().sum()

    with pytest.raises(UnsupportedError, match=r"'inner' was tagged inside an inner torch\.func derivative"):
        flow.gradient_norms(penalised, W, X)
    assert flow.gradient_norms(penalised, W, X, kinds=())["w"] > 0


def test_an_unknown_kind_of_tag() -> None:
    with pytest.raises(CaptureError, match="streams"):
        flow.gradient_norms(product, W, X, kinds="streams")


def test_the_errors_of_the_blocks_come_through() -> None:
    block = nets.simple_block(3, 4, 2)
    params, _ = block.init(torch.Generator())
    with pytest.raises(RankError, match=r"add x.unsqueeze\(0\)"):
        flow.per_sample_norms(lambda p, x: block(p, x).sum(), params, X)
    with pytest.raises(ShapeError, match="does not fit"):
        flow.per_sample_norms(lambda p, x: block(p, x[None]).sum(), params, torch.ones(4, 7))


@pytest.mark.parametrize("chunk_size", [0, -3])
def test_chunk_size(chunk_size: int) -> None:
    with pytest.raises(ArgumentError, match="expected at least 1"):
        flow.per_sample_norms(product, W, X, chunk_size=chunk_size)


def test_finite_values_whose_sum_overflows_are_taken() -> None:
    largest = torch.finfo(torch.float32).max
    weights = {"w": torch.tensor([largest, largest / 2, 1.0])}
    assert not torch.isfinite(weights["w"].sum())
    H = flow.hvp(lambda p: (p["w"] / largest).square().sum(), weights)
    torch.testing.assert_close(H({"w": torch.ones(3)})["w"], torch.full((3,), 2 / largest / largest))
    weights["w"][1] = -torch.inf
    with pytest.raises(ArgumentError, match="params 'w' holds NaN or infinity in 1 of 3"):
        flow.hvp(lambda p: (p["w"] / largest).square().sum(), weights)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_norms_of_blocks_neither_overflow_nor_vanish(scale: float) -> None:
    params = {"a": {"w": torch.ones(3, dtype=torch.float64), "b": torch.ones(3, dtype=torch.float64)}}
    x = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64) * scale
    found = flow.per_sample_norms(lambda p, x: ((p["a"]["w"] + p["a"]["b"]) * x).sum(), params, x)
    expected = torch.tensor([5.0, 1.0], dtype=torch.float64) * scale * 2**0.5
    torch.testing.assert_close(found.total, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(found.blocks["a"], expected, rtol=1e-14, atol=0)
