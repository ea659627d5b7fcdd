"""Long sums: the file's are no coarser than eager's, whatever the axis, its length, and whether that is dynamic."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

import export

LENGTH = 100_000
ROUNDING = 2.0**-24


def drawn(*shape: int) -> Tensor:
    """Numbers between 0 and 2, whose sum grows with every term."""
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def errors(fn: Callable[..., Any], args: tuple[Any, ...], path: Path, **options: Any) -> tuple[float, float]:
    """The largest errors of the file and of eager, in roundings of the largest value."""
    export.to_onnx(fn, args, path, **options)
    exact = fn(*(arg.double() for arg in args))
    return tuple(
        float((y.double() - exact).abs().max() / exact.abs().max() / ROUNDING)
        for y in (export.load(path)(*args), fn(*args))
    )


CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "sum": (lambda x: x.sum(), (drawn(LENGTH),)),
    "mean of rows": (lambda x: x.mean(-1, keepdim=True), (drawn(4, LENGTH),)),
    "sum of columns": (lambda x: x.sum(0), (drawn(LENGTH, 8),)),
    "mean of columns, a prime number": (lambda x: x.mean(0), (drawn(99_991, 8),)),
    "sum over an axis in the middle": (lambda x: x.sum(1), (drawn(2, LENGTH // 2, 4),)),
    "variance of columns": (lambda x: x.var(0), (drawn(LENGTH, 4),)),
    "norm": (lambda x: x.norm(), (drawn(LENGTH),)),
    "group norm": (lambda x: F.group_norm(x, 2)[:, :, :50], (drawn(2, 8, LENGTH // 8),)),
    "layer norm": (lambda x: F.layer_norm(x, (LENGTH,))[:, :50], (drawn(2, LENGTH),)),
    "logsumexp": (lambda x: x.logsumexp(0), (drawn(LENGTH, 3),)),
    "running sum": (lambda x: x.cumsum(0), (drawn(LENGTH),)),
    "loss": (lambda x, y: F.mse_loss(x, y), (drawn(LENGTH), drawn(LENGTH).flip(0))),
    "gradient with respect to a bias": (
        grad(lambda b, x: (x + b).square().sum()),
        (torch.ones(4), drawn(LENGTH, 4)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_long_sum_is_as_exact_as_eager(name: str, tmp_path: Path) -> None:
    """1.5 times eager's error, and two roundings for results that eager happens to hit."""
    file, eager = errors(*CASES[name], tmp_path / "sum.onnx")
    assert file <= 1.5 * eager + 2, (file, eager)


@pytest.mark.parametrize("rows", [0, 1, 3, 31, 33, 300, 2_049])
def test_a_dynamic_axis_that_is_long_in_the_example_takes_every_size(rows: int, tmp_path: Path) -> None:
    def fn(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.sum(0), x.mean(0, keepdim=True), x.reshape(-1).sum()

    export.to_onnx(fn, (drawn(20_000, 3),), tmp_path / "sum.onnx", dynamic=({0: "rows"},))
    x = drawn(rows, 3)
    for own, expected in zip(export.load(tmp_path / "sum.onnx")(x), fn(x), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("shape", [(32, 8), (4, 2_048), (2, 8, 16, 16)])
def test_a_short_sum_is_one_operator(shape: Sequence[int], tmp_path: Path) -> None:
    axis = len(shape) - 1 if shape[0] == 4 else 0
    export.to_onnx(lambda x: x.sum(axis), (drawn(*shape),), tmp_path / "sum.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "sum.onnx").graph.node] == ["ReduceSum"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize(
    ("indices", "values"),
    [((0,), (6, 4, 5)), ((0, 1), (6, 5)), ((0, 1, 2), (6,)), ((1,), (3, 6, 5)), ((0, 2), (6, 4))],
)
def test_additions_to_one_position_are_all_made(
    indices: Sequence[int], values: Sequence[int], dtype: torch.dtype, tmp_path: Path
) -> None:
    place = torch.tensor([2, 0, -1, 2, -3, 2])

    def fn(x: Tensor, values: Tensor, place: Tensor) -> Tensor:
        given = tuple(place if axis in indices else None for axis in range(max(indices) + 1))
        return torch.ops.aten.index_put.default(x, given, values, True)

    x, added = drawn(3, 4, 5).mul(4).to(dtype), drawn(*values).mul(4).to(dtype)
    export.to_onnx(fn, (x, added, place), tmp_path / "add.onnx")
    assert export.verify(fn, (x, added, place), tmp_path / "add.onnx")
    assert "ScatterND" not in {node.op_type for node in onnx.load(tmp_path / "add.onnx").graph.node}


def test_rows_are_added_by_an_operator_without_races(tmp_path: Path) -> None:
    """ONNX Runtime's ScatterND loses additions where its threads meet."""
    index = torch.zeros(100_000, dtype=torch.int64)
    export.to_onnx(lambda x: torch.zeros(1, 4).index_add(0, index, x), (torch.ones(100_000, 4),), tmp_path / "add.onnx")
    file = export.load(tmp_path / "add.onnx")
    assert {float(file(torch.ones(100_000, 4)).sum()) for _ in range(20)} == {400_000.0}


def test_a_mean_of_more_values_than_float16_can_count_has_its_gradient(tmp_path: Path) -> None:
    """The divisor 300,000 is inf in float16; PyTorch reads it in float32."""
    fn, args = grad(lambda x: x.square().mean()), (drawn(100_000, 3).half(),)
    export.to_onnx(fn, args, tmp_path / "mean.onnx")
    assert export.verify(fn, args, tmp_path / "mean.onnx")
    assert bool((export.load(tmp_path / "mean.onnx")(*args) != 0).any())
