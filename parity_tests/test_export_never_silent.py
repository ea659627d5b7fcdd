"""What Python decides while a function is recorded is decided rightly for every size and value, or is a typed error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import grad, jvp, vmap

import export
from export import errors
from parity_tests.test_export_errors import usable

Op = Callable[..., Any]
X = torch.linspace(-1, 1, 12).reshape(4, 3)
BATCH = ({0: "batch"},)
SIZES = (1, 2, 3, 4, 5, 9)


def sized(rows: int) -> torch.Tensor:
    return torch.sin(torch.arange(3.0 * rows)).reshape(rows, 3)


def branch(x: torch.Tensor) -> torch.Tensor:
    return (x * 2 if x.shape[0] > 10 else x.sin()).sum()


def weight_by_size(x: torch.Tensor) -> torch.Tensor:
    return (x * int(x.shape[0])).sum()


def filled_by_size(x: torch.Tensor) -> torch.Tensor:
    return x + torch.full((4, 1), 2.0)


def listed_sizes(x: torch.Tensor) -> torch.Tensor:
    return x * torch.tensor([x.shape[0], 1, 1])


def looped(x: torch.Tensor) -> torch.Tensor:
    total = x[0] * 0
    for i in range(x.shape[0]):
        total = total + x[i]
    return total


def unpacked(x: torch.Tensor) -> torch.Tensor:
    a, b, c, d = x
    return a + b * c + d


def structure_by_size(x: torch.Tensor) -> Any:
    return [x, x * 2] if x.shape[0] > 5 else [x]


def dropped_axis(x: torch.Tensor) -> torch.Tensor:
    return (x.squeeze() * 2).sum(-1)


def tangent(fn: Op) -> Op:
    return lambda x: jvp(fn, (x,), (x.cos(),))[1]


def each(fn: Op) -> Op:
    return lambda x: vmap(fn, in_dims=1)(x)


FROZEN: dict[str, Op] = {
    "branch under grad": grad(branch),
    "branch under vmap": each(branch),
    "branch under jvp": tangent(branch),
    "number under grad": grad(weight_by_size),
    "number under vmap": each(weight_by_size),
    "number under jvp": tangent(weight_by_size),
    "literal size": filled_by_size,
    "size in a tensor": listed_sizes,
    "loop by range": looped,
    "unpacking": unpacked,
    "structure": structure_by_size,
    "linspace": lambda x: x[:, 0] * torch.linspace(0, 1, x.shape[0]),
}


@pytest.mark.parametrize("fn", FROZEN.values(), ids=FROZEN)
def test_a_size_frozen_in_python_is_an_error(fn: Op, tmp_path: Path) -> None:
    with pytest.raises(errors.SpecialisedSizeError, match=r"(?s)batch.*source: .*test_export_never_silent\.py:\d+"):
        export.to_onnx(fn, (X,), tmp_path / "f.onnx", dynamic=BATCH)
    usable(tmp_path)


def test_dropping_an_axis_of_any_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedOpError, match=r"(?s)name the axes.*test_export_never_silent\.py:\d+"):
        export.to_onnx(dropped_axis, (X,), tmp_path / "f.onnx", dynamic=BATCH)
    usable(tmp_path)


COMPUTED: dict[str, Op] = {
    "root of a size": lambda x: x / x.shape[0] ** 0.5,
    "reciprocal": lambda x: x * (1 / x.shape[0]),
    "integer arithmetic": lambda x: x * (x.shape[0] // 2 + x.shape[0] % 3 - 2 * x.numel()),
    "rows apart": lambda x: x.reshape(-1, 1, 3).expand(-1, 2, -1),
    "one row": lambda x: x.reshape(1, -1),
    "full": lambda x: torch.full((x.shape[0], 2), float(3)) + x[:, :2],
    "count": lambda x: x[:, 0] + torch.arange(x.shape[0]),
    "slices": lambda x: x[x.shape[0] // 2 :],
    "window": lambda x: x[-2:],
    "roll": lambda x: x.roll(3, 0) + x.roll(-7, 0),
    "roll by half": lambda x: x.roll(x.shape[0] // 2, 0),
    "roll of all": lambda x: x.roll(5),
    "flip": lambda x: x.flip(0),
    "sort": lambda x: x.sort(0).values,
    "self product": lambda x: x @ x.mT,
    "triangle": lambda x: (x @ x.mT).tril(-1),
    "eye": lambda x: torch.eye(x.shape[0]) @ x,
    "pairs": lambda x: (x[:, None] - x[None]).square().sum(-1),
    "statistics": lambda x: (x - x.mean(0)) / (x.var(0, unbiased=False) + 0.1).sqrt(),
    "repeat": lambda x: x.repeat(x.shape[0], 1),
    "gradient of a mean": grad(lambda x: x.sin().mean()),
    "gradient of samples": lambda x: vmap(grad(lambda row: row.sin().sum()))(x),
    "tangent of a norm": tangent(lambda x: x.norm() / x.shape[0]),
}


@pytest.mark.parametrize("fn", COMPUTED.values(), ids=COMPUTED)
def test_what_is_computed_from_a_size_follows_it(fn: Op, tmp_path: Path) -> None:
    f = export.to_onnx(fn, (X,), tmp_path / "f.onnx", dynamic=BATCH).load(device="cpu")
    for size in SIZES:
        x = sized(size)
        torch.testing.assert_close(f(x), fn(x), rtol=1e-5, atol=1e-6, msg=lambda text: f"at {size}: {text}")  # noqa: B023


def test_an_axis_split_in_a_fixed_number_of_parts(tmp_path: Path) -> None:
    f = export.to_onnx(lambda x: x.reshape(8, -1), (torch.ones(4, 6),), tmp_path / "f.onnx", dynamic=BATCH).load()
    for size in (4, 8, 12):
        x = torch.arange(6.0 * size).reshape(size, 6)
        assert torch.equal(f(x), x.reshape(8, -1))
    with pytest.raises(errors.ExportError):
        f(torch.ones(3, 6))


def test_every_output_comes_back(tmp_path: Path) -> None:
    def fn(x: torch.Tensor, n: torch.Tensor) -> Any:
        y = x + 1
        return {
            "none": None,
            "twice": (y, y),
            "same": x,
            "count": n + 1,
            "largest": x.argmax(),
            "constant": torch.ones(2),
        }

    args = (X, torch.tensor(3))
    found, expected = export.to_onnx(fn, args, tmp_path / "f.onnx").load()(*args), fn(*args)
    assert found["none"] is None
    assert {name: str(value) for name, value in found.items()} == {name: str(value) for name, value in expected.items()}
    assert found["count"].dtype == torch.int64


FUNCTIONS: dict[str, Op] = {
    "mlp": lambda x: (x @ sized(4).mT[:3]).tanh().square().sum(1),
    "softmax": lambda x: (x * x.softmax(1)).logsumexp(1),
    "norm": lambda x: x / (1 + x.norm(dim=1, keepdim=True)),
    "gather": lambda x: x[:, torch.tensor([0, 2, 2])].prod(1),
    "sorted": lambda x: x.sort(1).values.cumsum(1).sin(),
}


@pytest.mark.parametrize("fn", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_tangent_agrees_with_central_differences_of_the_file(fn: Op, tmp_path: Path) -> None:
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return fn(x.to(torch.get_default_dtype()))

    x, v, step = sized(4).double(), sized(4).double().cos(), 1e-6
    torch.set_default_dtype(torch.float64)
    try:
        value = export.to_onnx(doubled, (x,), tmp_path / "f.onnx").load(device="cpu")
        moved = export.to_onnx(lambda x, v: jvp(doubled, (x,), (v,))[1], (x, v), tmp_path / "g.onnx").load(device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    difference = (value(x + step * v) - value(x - step * v)) / (2 * step)
    torch.testing.assert_close(moved(x, v), difference, rtol=1e-6, atol=1e-7)


def test_integer_division_by_zero_is_an_error_when_it_runs(tmp_path: Path) -> None:
    a, b = torch.tensor([4, 9]), torch.tensor([2, 0])
    f = export.to_onnx(lambda a, b: a // b, (a, b + 1), tmp_path / "f.onnx").load(device="cpu")
    assert f(a, b + 1).tolist() == [1, 9]
    with pytest.raises(errors.ExportError, match="division by zero"):
        f(a, b)


def test_a_captured_tensor_is_kept_as_it_was(tmp_path: Path) -> None:
    weight = torch.ones(3)
    f = export.to_onnx(lambda x: x * weight, (X,), tmp_path / "f.onnx").load()
    weight.mul_(5)
    assert torch.equal(f(X), X)


READS: dict[str, Callable[[torch.Tensor], Any]] = {
    "numpy": lambda c: torch.from_numpy(c.numpy() * 2),
    "an array": lambda c: torch.from_numpy(np.asarray(c) * 2),
    "a number": lambda c: 2 * float(np.asarray(c).sum()),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_numpy_reads_a_captured_tensor_rightly_and_a_recorded_one_never(read: Op, tmp_path: Path) -> None:
    (tmp_path / "refused").mkdir()
    captured = torch.tensor([1.0, 2.0, 3.0])
    f = export.to_onnx(lambda x: x + read(captured), (X,), tmp_path / "f.onnx").load()
    assert torch.equal(f(X), X + read(captured))
    for fn in (lambda x: x + read(x), lambda x: x + read(x + 1), grad(lambda x: (x * read(x.detach())).sum())):
        with pytest.raises(errors.TracingError, match=r"numpy array[\s\S]*test_export_never_silent"):
            export.to_onnx(fn, (X,), tmp_path / "refused" / "g.onnx")
        assert not list((tmp_path / "refused").iterdir())
    usable(tmp_path / "refused")


def test_what_python_collects_while_recording_does_not_change_the_file(tmp_path: Path) -> None:
    seen: list[Any] = []

    def fn(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x * len(seen)

    first = export.to_onnx(fn, (X,), tmp_path / "f.onnx")
    assert torch.equal(first.load()(X), X)
    assert not isinstance(seen[0], type(None))


def test_a_branch_on_a_dtype_is_that_of_the_example(tmp_path: Path) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.dtype == torch.float32 else x * 3

    f = export.to_onnx(fn, (X,), tmp_path / "f.onnx").load()
    assert torch.equal(f(X), 2 * X)
    with pytest.raises(errors.ArgumentError, match="float64"):
        f(X.double())
    assert torch.equal(export.to_onnx(fn, (X.double(),), tmp_path / "g.onnx").load()(X.double()), 3 * X.double())


def test_a_device_in_the_source_does_not_matter(tmp_path: Path) -> None:
    f = export.to_onnx(lambda x: x + torch.ones(3, device="cpu").to(x.device), (X,), tmp_path / "f.onnx").load()
    assert torch.equal(f(X), X + 1)


@pytest.mark.parametrize(
    ("fn", "word"),
    [
        (lambda x: x.masked_select(x > 0), "depends on the data"),
        (lambda x: torch.where(x > 0), "depends on the data"),
        (lambda x: x[0].unique_consecutive(), "depends on the data"),
        (grad(lambda x: x[x > 0].sum()), "depends on the data"),
        (tangent(lambda x: x * x.sum().item()), "tensor's value"),
        (grad(lambda x: x.sum() if bool((x > 0).any()) else x.prod()), "tensor's value"),
    ],
    ids=["masked_select", "where", "unique_consecutive", "mask under grad", "item under jvp", "bool under grad"],
)
def test_what_depends_on_values_is_an_error_under_transforms_too(fn: Op, word: str, tmp_path: Path) -> None:
    with pytest.raises(errors.TracingError, match=rf"(?s){word}.*source: .*test_export_never_silent\.py:\d+"):
        export.to_onnx(fn, (X,), tmp_path / "f.onnx")
    usable(tmp_path)
