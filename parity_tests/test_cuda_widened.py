"""What CUDA has no kernel for is written with others: elementary functions, 16-bit floats, pools from opset 22 on.

Which kernels there are is `export.devices.cuda_kernels`; the values are judged here, on the CPU, or by ONNX's reference
where the CPU lacks a kernel too or has a coarser one (ONNX Runtime's float64 cosine is 400 units off near its zeros).
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from torch import Tensor
from torch.func import grad

import export
from export.ops.shared.elementary import FORMS

NUMBERS = {
    "near zero": torch.cat([torch.logspace(-30, -1, 64), torch.linspace(-1, 1, 65)]),
    "large": torch.cat([torch.linspace(-89.3, 89.3, 65), torch.logspace(2, 38, 37), -torch.logspace(2, 38, 37)]),
    "ends": torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, torch.inf, -torch.inf, torch.nan]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [*FORMS, "Atan2"])
def test_the_form_for_cuda_is_the_function(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    fn = getattr(torch, kind.lower())
    for name, numbers in NUMBERS.items():
        x = numbers.to(dtype)
        args = (x, x.flip(0)) if kind == "Atan2" else (x,)
        opset = 22 if dtype == torch.bfloat16 else None
        exported = export.to_onnx(fn, args, tmp_path / "f.onnx", target="cuda", opset=opset)
        if dtype == torch.bfloat16 and kind == "Atan2":  # compares and divides in a dtype that the CPU lacks
            continue
        verdict = export.verify(fn, args, exported.path, device="cpu")
        assert verdict.passed, f"{name}: {verdict.table()}"


def as_numpy(x: Tensor) -> Any:
    return x.float().numpy().astype(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def as_torch(x: Any) -> Tensor:
    is_half = x.dtype == ml_dtypes.bfloat16
    return torch.from_numpy(x.astype(np.float32)).bfloat16() if is_half else torch.from_numpy(np.asarray(x))


def by_reference(path: Path, *args: Tensor) -> list[Tensor]:
    """What ONNX's reference evaluator makes of a file."""
    names = [value.name for value in onnx.load(path).graph.input]
    given = {name: as_numpy(arg) for name, arg in zip(names, args, strict=True)}
    with np.errstate(all="ignore"):
        return [as_torch(value) for value in ReferenceEvaluator(str(path)).run(None, given)]


@pytest.mark.parametrize("kind", FORMS)
def test_the_form_for_cuda_holds_float64(kind: str, tmp_path: Path) -> None:
    fn = getattr(torch, kind.lower())
    x = torch.cat(list(NUMBERS.values())).double()
    path = export.to_onnx(fn, (x,), tmp_path / "f.onnx", target="cuda").path
    (found,) = by_reference(path, x)
    torch.testing.assert_close(found, fn(x), rtol=4 * torch.finfo(torch.float64).eps, atol=0, equal_nan=True)


@pytest.mark.parametrize("target", ["cpu", None])
def test_elsewhere_the_operator_is_kept(target: str | None, tmp_path: Path) -> None:
    path = export.to_onnx(torch.cosh, (torch.ones(3),), tmp_path / "f.onnx", target=target).path
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Cosh"]


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


HALVES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "ConvTranspose": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1),
        (image(2, 4, 5, 5), image(4, 3, 3, 3)),
    ),
    "Pad": (lambda x: F.pad(x, (1, 2, 0, 1), value=0.5), (image(2, 3, 4),)),
    "Pad, by reflection": (lambda x: F.pad(x, (1, 2), mode="reflect"), (image(2, 3, 4),)),
    "Log": (torch.log, (image(64).abs(),)),
    "Floor": (torch.floor, (4 * image(64),)),
    "Reciprocal": (torch.reciprocal, (image(64),)),
    "Equal": (lambda x, y: x == y, (image(64), image(64).roll(1))),
    "TopK": (lambda x: torch.topk(x, 3, 0), (image(16, 4),)),
    "ReduceMax": (lambda x: x.amax(1), (image(4, 16),)),
    "ArgMax": (lambda x: x.argmax(1), (image(4, 16),)),
    "CumSum": (lambda x: x.cumsum(1), (image(4, 16),)),
    "LogSoftmax": (lambda x: F.log_softmax(x, 1), (image(4, 16),)),
    "LeakyRelu": (F.leaky_relu, (image(64),)),
}


@pytest.mark.parametrize("name", HALVES)
def test_an_operator_without_a_bfloat16_kernel_is_computed_in_float32(name: str, tmp_path: Path) -> None:
    fn, args = HALVES[name]
    path = export.to_onnx(fn, args, tmp_path / "f.onnx", target="cuda", opset=22).path
    nodes = onnx.load(path).graph.node
    kind = name.partition(",")[0]
    made = {output: node for node in nodes for output in node.output}
    assert {made[node.input[0]].op_type for node in nodes if node.op_type == kind} == {"Cast"}
    wanted = fn(*(arg.float() for arg in args))  # PyTorch's own bfloat16 kernels add in bfloat16 on some processors
    known = [y.bfloat16() if y.is_floating_point() else y for y in (wanted if isinstance(wanted, tuple) else [wanted])]
    torch.testing.assert_close(by_reference(path, *args), known, rtol=2**-7, atol=0)  # a rounding of either


POOLS = [
    (2, 2, 0, 1, False),
    (3, 2, 1, 1, False),
    (3, 2, 1, 1, True),
    (2, 3, 1, 2, True),
    (3, 1, 1, 2, False),
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (3, 8, 8)], ids=str)
def test_a_pool_without_a_kernel_is_made_of_slices(pool: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def values(x: Tensor) -> Tensor:
        return F.max_pool2d(x, *pool)

    def slope(x: Tensor) -> Tensor:
        return grad(lambda x: values(x).square().sum())(x)

    for fn in (values, slope):
        path = export.to_onnx(fn, (x,), tmp_path / "f.onnx", target="cuda", opset=22).path
        assert "MaxPool" not in [node.op_type for node in onnx.load(path).graph.node]
        assert torch.equal(export.load(path, device="cpu")(x), fn(x))


def test_a_pool_of_slices_takes_any_size(tmp_path: Path) -> None:
    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, 1)

    x = torch.randn(2, 3, 9, 7)
    dynamic = ({0: "batch", 2: "height", 3: "width"},)
    f = export.to_onnx(pool, (x,), tmp_path / "f.onnx", target="cuda", opset=22, dynamic=dynamic).load(device="cpu")
    for batch, height, width in itertools.product((1, 3), (5, 8), (9, 12)):
        y = torch.randn(batch, 3, height, width)
        assert torch.equal(f(y), pool(y))


def test_a_window_of_padding_and_the_lowest_value_has_a_position_in_the_plane(tmp_path: Path) -> None:
    def positions(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, 1, return_indices=True)[1]

    x = torch.full((1, 1, 5, 5), -torch.inf)
    f = export.to_onnx(positions, (x,), tmp_path / "f.onnx", target="cuda", opset=22).load(device="cpu")
    assert 0 <= f(x).min() <= f(x).max() < 25
