"""What cannot be exported raises a typed error that names the line, leaves no file and leaves the process usable."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import export
from export import errors
from export.trace import isolation

X = torch.linspace(-1, 1, 12).reshape(4, 3)
BATCH = ({0: "batch"},)


def usable(folder: Path) -> None:
    """The next random call and the next export work, and nothing was left behind."""
    torch.rand(3)
    assert isolation.functorch_depth() == 0
    assert torch.overrides._len_torch_function_stack() == 0
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    assert os.listdir(folder) == []
    f = export.to_onnx(lambda x: x + 1, (X,), folder / "next.onnx", dynamic=BATCH).load()
    assert torch.equal(f(X), X + 1)


def branch_on_size(x: torch.Tensor) -> torch.Tensor:
    return x * 2 if x.shape[0] > 10 else x


def loop_over_batch(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([row.sum() for row in x])


def fixed_partner(x: torch.Tensor) -> torch.Tensor:
    return x + torch.ones(4, 1)


def size_as_number(x: torch.Tensor) -> torch.Tensor:
    return x * int(x.shape[0])


def branch_on_one(x: torch.Tensor) -> torch.Tensor:
    return x.squeeze(0) if x.shape[0] == 1 else x


@pytest.mark.parametrize("fn", [branch_on_size, loop_over_batch, fixed_partner, size_as_number, branch_on_one])
def test_a_specialised_size_names_the_size_and_the_line(fn: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(errors.SpecialisedSizeError, match="dynamic size 'batch'") as caught:
        export.to_onnx(fn, (X,), tmp_path / "f.onnx", dynamic=BATCH)
    assert caught.value.name == "batch"
    assert f"in {fn.__name__}" in caught.value.source or "<listcomp>" in caught.value.source, caught.value.source
    assert "test_export_errors.py" in caught.value.source
    usable(tmp_path)


@pytest.mark.parametrize("fn", [branch_on_size, loop_over_batch, fixed_partner, size_as_number])
def test_the_same_functions_export_at_a_fixed_size(fn: Callable[..., Any], tmp_path: Path) -> None:
    torch.testing.assert_close(export.to_onnx(fn, (X,), tmp_path / "f.onnx").load()(X), fn(X))


def test_two_names_that_must_be_equal_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.SpecialisedSizeError, match=r"give '.' and '.' one name"):
        export.to_onnx(lambda a, b: a + b, (X, X), tmp_path / "f.onnx", dynamic=({0: "a"}, {0: "b"}))
    usable(tmp_path)


def test_a_branch_that_changes_nothing_or_only_rejects_is_allowed(tmp_path: Path) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] < 2:
            raise ValueError("two rows at least")
        return x.reshape(x.shape[0], 3) if x.shape[0] > 7 else x

    f = export.to_onnx(fn, (X,), tmp_path / "f.onnx", dynamic=BATCH).load()
    assert torch.equal(f(X.repeat(4, 1)), X.repeat(4, 1))


def test_a_size_that_equals_another_by_chance_stays_dynamic(tmp_path: Path) -> None:
    def fn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x @ w if x.shape != w.shape else x @ w.mT.mT

    f = export.to_onnx(
        fn, (torch.ones(3, 3), torch.ones(3, 3)), tmp_path / "f.onnx", dynamic=({0: "batch"}, None)
    ).load()
    assert f(torch.ones(5, 3), torch.ones(3, 3)).shape == (5, 3)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * x.max().item(),
        lambda x: x[: int(x.abs().sum())],
        lambda x: float(x[0, 0]) + x,
    ],
    ids=["if", "item", "slice", "float"],
)
def test_a_value_used_in_python_is_a_tracing_error(fn: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(errors.TracingError, match=r"(?s)torch\.where.*source: .*test_export_errors\.py:\d+"):
        export.to_onnx(fn, (X,), tmp_path / "f.onnx")
    usable(tmp_path)


@pytest.mark.parametrize(
    "fn", [lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: x.unique()], ids=["mask", "nonzero", "unique"]
)
def test_a_shape_that_depends_on_data_is_a_tracing_error(fn: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(errors.TracingError, match="depends on the data"):
        export.to_onnx(fn, (X,), tmp_path / "f.onnx")
    usable(tmp_path)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + torch.randn_like(x),
        lambda x: x * torch.rand(3),
        lambda x: F.dropout(x, 0.5, training=True),
        lambda x: torch.bernoulli(x.abs()),
        lambda x: x + torch.randn(3, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["randn_like", "rand", "dropout", "bernoulli", "generator"],
)
def test_random_numbers_are_an_error_with_the_fix(fn: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(errors.RandomOpError, match=r"(?s)pass it as an argument.*test_export_errors\.py"):
        export.to_onnx(fn, (X,), tmp_path / "f.onnx")
    usable(tmp_path)


CAPTURED = torch.zeros(3)


def batch_norm_with_buffers(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, mean, mean + 1, training=True)


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (lambda x: x.add_(1), (X,)),
        (lambda x: x[:, 0].relu_(), (X,)),
        (lambda x: CAPTURED.add_(x[0]), (X,)),
        (batch_norm_with_buffers, (X, torch.zeros(3))),
    ],
    ids=["argument", "view", "closure", "running statistics"],
)
def test_changing_a_given_tensor_is_an_error(fn: Callable[..., Any], args: tuple[Any, ...], tmp_path: Path) -> None:
    before = [arg.clone() for arg in (*args, CAPTURED)]
    with pytest.raises(errors.MutationError, match=r"(?s)pure function.*test_export_errors\.py"):
        export.to_onnx(fn, args, tmp_path / "f.onnx")
    assert all(torch.equal(a, b) for a, b in zip((*args, CAPTURED), before, strict=True))
    usable(tmp_path)


def test_an_unsupported_operation_names_itself_and_its_line(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedOpError, match=r"linalg_eigvals|_linalg_eig") as caught:
        export.to_onnx(lambda x: torch.linalg.eigvalsh(x @ x.mT), (X,), tmp_path / "f.onnx")
    assert "aten" in caught.value.op
    assert "test_export_errors.py" in caught.value.source
    usable(tmp_path)


def test_an_operation_that_the_runtime_lacks_names_op_and_dtype(tmp_path: Path) -> None:
    exported = export.to_onnx(
        F.conv1d, (torch.ones(1, 2, 5).double(), torch.ones(3, 2, 3).double()), tmp_path / "f.onnx"
    )
    with pytest.raises(errors.UnsupportedOpError, match="no Conv for float64") as caught:
        exported.load(device="cpu")
    assert (caught.value.op, caught.value.dtype) == ("Conv", "float64")
    half = torch.ones(2, 2, dtype=torch.bfloat16)
    exported = export.to_onnx(torch.matmul, (half, half), tmp_path / "g.onnx")
    with pytest.raises(errors.UnsupportedOpError, match="no MatMul for bfloat16"):
        exported.load(device="cpu")


def test_the_functions_own_error_comes_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        export.to_onnx(lambda x: x @ x, (X,), tmp_path / "f.onnx")
    assert not isinstance(caught.value, errors.ExportError)
    usable(tmp_path)


def test_branches_of_a_condition_must_agree(tmp_path: Path) -> None:
    with pytest.raises(errors.TracingError, match="same structure, shapes and dtypes"):
        export.to_onnx(lambda x: torch.cond(x.sum() > 0, lambda a: a, lambda a: a[0], (x,)), (X,), tmp_path / "f.onnx")
    usable(tmp_path)


def test_a_failure_inside_a_transform_leaves_no_level_behind(tmp_path: Path) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(torch.func.grad(lambda row: row.sum() * (1.0 if row.sum() > 0 else 2.0)))(x)

    with pytest.raises((errors.ExportError, RuntimeError)):
        export.to_onnx(fn, (X,), tmp_path / "f.onnx")
    usable(tmp_path)


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        (({0: "batch"},), "one entry for each of the 2 arguments"),
        (({5: "batch"}, None), "axis 5 does not exist"),
        (({0: "batch"}, {0: "batch"}), r"is 3, but x axis 0 of that name is 4"),
        ((None, {"z": {0: "batch"}}), "z: named in dynamic"),
        ((None, {0: "not a name"}), "must be an identifier"),
        ((3, None), "dynamic must be None or"),
    ],
)
def test_dynamic_that_does_not_fit_is_an_argument_error(dynamic: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        export.to_onnx(lambda x, w: x @ w["w"], (X, {"w": torch.ones(3, 2)}), tmp_path / "f.onnx", dynamic=dynamic)
    usable(tmp_path)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (X, {}, r"write \(x,\)"),
        ((X, object()), {}, "neither a tensor, a container"),
        (({1: X}, 1), {}, "keys must be strings"),
        ((X, 1), {"bake": 0}, r"write bake=\(0,\)"),
        ((X, 1), {"bake": (4,)}, "argument positions from 0 to 1"),
        ((X, 1), {"opset": 3}, "opset must be from 13 to 23"),
        ((X, 1), {"bake": (0,), "dynamic": ({0: "b"}, None)}, "both baked and dynamic"),
        ((X.to(torch.complex64), 1), {}, "which an exported file cannot hold"),
    ],
)
def test_arguments_that_cannot_be_understood(args: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ExportError, match=message):
        export.to_onnx(lambda x, y: x, args, tmp_path / "f.onnx", **options)
    usable(tmp_path)
