"""Values at the edges of their types, odd tensors and odd functions: a file gives what eager gives, or a typed error.

The cases of ``SAME`` are compared bit for bit in integers and to a few ULP in floats, NaN, infinities and shapes
included. What ONNX Runtime computes otherwise is in ``DIFFERS``, with the reason; an entry there that starts to agree
fails the test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import export

Op = Callable[..., Any]
INF, NAN = math.inf, math.nan


def i64(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def f32(*values: float) -> torch.Tensor:
    return torch.tensor(values)


NEGATIVE = -torch.linspace(1, 2, 64)


X = torch.linspace(-1, 1, 12).reshape(4, 3)
ODD = f32(NAN, INF, -INF, 0.0, 1e-30, 1.5, -1.5, 2.5, 0.5, -0.5)
ROWS = torch.tensor([[1.0, NAN, 3.0], [NAN, -2.0, 5.0], [INF, -INF, 0.0], [4.0, 4.0, 1.0]])
LEFT, RIGHT = i64(7, -7, 6, -6, 0, 1, -1), i64(3, 3, -4, -4, 5, -2, 2)
BIG = i64(2**40 + 1, -(2**53) - 1, 2**62 + 3, 2**31, -(2**31) - 1)
BYTES = torch.tensor([0, 1, 200, 255], dtype=torch.uint8)
BOOLS = torch.tensor([True, False, True])
DOUBLES = X.double()


def rows(*table: tuple[Any, ...]) -> dict[str, tuple[Op, tuple[torch.Tensor, ...]]]:
    """{name: (function, arguments)}."""
    return {name: (op, args) for name, op, *args in table}


SAME = rows(
    # NaN and infinities
    ("odd arithmetic", lambda x: (x * 2, x + INF, x * 0, x - x, 1 / x, x / 0.0, -x), ODD),
    ("odd functions", lambda x: (x.exp(), x.log(), x.sqrt(), x.tanh(), x.sigmoid(), x.erf(), x.atan(), x.abs()), ODD),
    ("odd powers", lambda x: (x**0, x**0.5, x**-1, x**3, x**1.5, x**-2, 2.0**x), ODD),
    ("odd comparisons", lambda x: (x == x, x != x, x < 1, x >= x.flip(0), x.isnan(), x.isfinite(), x.bool()), ODD),
    ("odd limits", lambda x: (x.clamp(-1, 1), x.nan_to_num(), x.relu(), torch.maximum(x, x.flip(0))), ODD),
    ("odd roundings", lambda x: (x.round(), x.floor(), x.ceil(), x.trunc()), ODD),
    (
        "odd extremes",
        lambda x: (x.amax(1), x.amin(1), x.max(1), x.min(1), x.max(), x.min(), x.norm(p=INF, dim=1)),
        ROWS,
    ),
    ("odd positions", lambda x: (x.argmax(1), x.argmin(1), x.argmax(), x.argmin(0, keepdim=True)), ROWS),
    ("odd orders", lambda x: (x.sort(1), x.sort(1, descending=True), x.topk(2, 1), x.median(1).values), ROWS),
    ("odd sums", lambda x: (x.sum(1), x.mean(1), x.prod(1), x.cumsum(1), x.var(1), x.norm(dim=1)), ROWS),
    ("odd softmax", lambda x: (x.softmax(1), x.log_softmax(1), x.logsumexp(1), (x - INF).softmax(1)), ROWS),
    ("odd choices", lambda x: (torch.where(x > 0, x, 0.0), x.masked_fill(x.isnan(), -INF), x.tril(), x.any(1)), ROWS),
    ("odd pairs", lambda x: (torch.fmax(x, x.flip(1)), torch.fmin(x, x.flip(1))), ROWS),
    ("odd constants", lambda x: (x + NAN, x * INF, torch.full((2000,), NAN) + x.sum()), X),
    ("minus zero", lambda x: (1 / (x * -0.0), 1 / torch.full((2000,), -0.0), torch.signbit(-x * 0)), f32(1.0, 2.0)),
    ("denormals", lambda x: (x * 0.5, x * 1e-3, x + 1e-40), f32(1e-40, 2e-39, -1e-44)),
    (
        "close doubles",
        lambda x: (
            torch.full((2000,), 1 + 1e-12, dtype=torch.float64)
            - 1
            + x.sum() * 0
            + (torch.full((2000,), 1 + 2e-12, dtype=torch.float64))
        ),
        DOUBLES,
    ),
    ("softplus far", lambda x: F.softplus(x), f32(-200.0, 200.0, 19.9, 20.1)),
    ("half overflow", lambda x: (x * x, x.sum()), f32(300.0, 2.0, 6e4, 1e4).half()),
    ("casts to half", lambda x: (x.half(), x.bfloat16()), f32(7e4, 1e-8, 65519.0, 65520.0, 1.0039)),
    (
        "angles",
        torch.atan2,
        f32(0.0, 0.0, 1.0, -1.0, INF, INF, -INF, NAN),
        f32(0.0, -1.0, 0.0, 0.0, INF, -INF, -INF, 1.0),
    ),
    # roundings, quotients, remainders
    ("half to even", lambda x: (x.round(), x.round(decimals=1)), f32(0.5, 1.5, 2.5, -0.5, -1.5, 0.25, 0.35)),
    ("before the point", lambda x: x.round(decimals=-2), f32(150.0, 249.0, 250.0)),
    (
        "integer quotients",
        lambda a, b: (a // b, a % b, torch.fmod(a, b), torch.div(a, b, rounding_mode="trunc"), a / b),
        LEFT,
        RIGHT,
    ),
    ("float quotients", lambda a, b: (a // b, a % b, torch.fmod(a, b)), 0.3 * LEFT.float(), RIGHT.float()),
    ("inexact quotients", lambda x: (x // 0.1, x % 0.1), f32(6.0, 1.0, -1.0, 0.3)),
    (
        "hypot of infinities",
        torch.hypot,
        f32(math.inf, math.inf, -math.inf, math.inf, math.nan, 0, 0, math.nan, 3),
        f32(math.inf, math.nan, math.inf, 1, -math.inf, math.inf, 0, 1, 4),
    ),
    # ONNX Runtime would join a Pad with zeros to the pooling behind it, which pads with -∞
    ("zeros before max pooling 1d", lambda x: F.max_pool1d(F.pad(x, (1, 1)), 3, 2), NEGATIVE.reshape(2, 4, 8)),
    ("zeros before max pooling 2d", lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2), NEGATIVE.reshape(2, 2, 4, 4)),
    ("zeros before max pooling 3d", lambda x: F.max_pool3d(F.pad(x, (1,) * 6), 3, 2), NEGATIVE.reshape(1, 1, 4, 4, 4)),
    ("large remainders", lambda x: x % 0.7, f32(1e10, -3e8)),
    ("by zero", lambda x: (x / 0, x % 0.0, x // 0.0), f32(1.0, -1.0, 0.0)),
    ("by infinity", lambda x: (x % INF, x / INF), f32(1.0, -1.0, 0.0)),
    ("integer by zero", lambda a: a / 0, LEFT),
    ("logarithms of powers", lambda x: (x.log2().floor(), (x / x).log10()), f32(8.0, 1024.0, 2.0**29, 64.0)),
    # integers
    ("integer powers", lambda a: (a**2, a**5, a**0, a**1, a**0.5), LEFT.abs()),
    ("tensor powers", lambda a, b: a**b, i64(3, 7, -3, 10, 1, -1, 2, -1), i64(39, 22, 39, 18, -1, -1, -2, -2)),
    ("powers of two", lambda a: (2**a, 1 << a, 2.0**a), i64(0, 5, 40, 62, 63)),
    ("large integers", lambda a: (a + 1, a * 3, a % 1000, a // 1000, a.abs(), a.clamp(-(2**40), 2**60)), BIG),
    ("large comparisons", lambda a: (a > 2**53, a == 2**40 + 1, torch.where(a > 0, a, 2**61 + 1)), BIG),
    ("large reductions", lambda a: (a.sum(), a.max(), a.cumsum(0), a.sort(), a[:2].prod(), a.argmax()), BIG),
    ("large casts", lambda a: (a.float(), a.int(), a.double()), BIG),
    ("wrapping products", lambda a: (a.prod(), a.int() * a.int()), i64(2**31 + 1, 2**31 - 1, 3)),
    ("shifts", lambda a: (a << 2, a >> 1, a >> 63, a << 63, a.int() >> 40, 2 << a.abs()), LEFT),
    ("shifts by tensors", lambda a, b: (a << b, a >> b), LEFT, RIGHT.abs()),
    ("bits", lambda a, b: ((a & b) | (a ^ 1), ~a, 5 & a, a ^ 5, a | 8), LEFT, RIGHT),
    ("small integers", lambda a: (a.to(torch.int8) * 100, a.to(torch.int16) * 9999, a.int() * 2**30), LEFT),
    ("bytes", lambda a: (a + 100, a - 1, a * 3, a + a, -a, ~a, a // 7, a % 7, a + 300, a / 2, a + 0.5, a > -1), BYTES),
    ("bytes reduced", lambda a: (a.sum(), a.max(), a.any(), a.all(), a.sort(), a.argmax(), a.float().mean()), BYTES),
    ("bytes shifted", lambda a: (a << 1, a >> 1, a >> 9, a + a.int()), BYTES),
    (
        "booleans",
        lambda a: (a + a, a * True, a * 0.5, a + 1, a.sum(), a.cumsum(0), a.max(), a.sort(), a**2, a > False),
        BOOLS,
    ),
    ("integer casts", lambda a: (a.to(torch.uint8), a.to(torch.int8), a.bool()), i64(300, -1, 256, 200, -129, 0)),
    ("float casts", lambda x: (x.long(), x.int(), x.bool()), f32(1.9, -1.9, 2.5, -0.5, 1e9, 0.0)),
    # promotion
    (
        "promotion",
        lambda a: (a + 0.5, a * f32(0.5), a + torch.tensor(0.5, dtype=torch.float64), a == 0.5, a > 0.5),
        LEFT,
    ),
    ("promotion of tensors", lambda a: (a.int() + i64(2**40), a.int() >= torch.tensor(1.5), a + BOOLS[0]), LEFT),
    (
        "promotion of floats",
        lambda x: (x + torch.ones(1, dtype=torch.float64), x + torch.ones((), dtype=torch.float64)),
        X,
    ),
    # ties
    ("ties", lambda x: (x.argmax(1), x.argmin(1), x.max(1)), torch.tensor([[1.0, 1, 0, 0], [2, 3, 3, 2]])),
    ("stable sorts", lambda x: (x.sort(stable=True), x.sort(stable=True, descending=True)), f32(*[1.0, 0.0] * 20)),
    (
        "many to one place",
        lambda x: (
            torch.zeros(2).index_add(0, torch.arange(20000) % 2, x),
            torch.zeros(2, 3).index_put((torch.arange(20000) % 2, torch.arange(20000) % 3), x, accumulate=True),
        ),
        torch.ones(20000),
    ),
    # shapes and layouts
    (
        "without axes",
        lambda x: (x.sum(0), x.max(), x.sort(), x.cumsum(0), x.softmax(0), x.expand(3), x[None]),
        torch.tensor(2.0),
    ),
    (
        "empty",
        lambda x: (
            x + 1,
            x.sum(),
            x.mean(0),
            x.reshape(0),
            x @ torch.ones(3, 2),
            x.cumsum(0),
            x.sort(1),
            x.prod(),
            x.softmax(1),
            torch.cat([x, x]),
            x.flip(0),
            x.roll(1, 0),
            x.any(),
            x.all(),
            x.any(0),
            x.all(0),
        ),
        torch.zeros(0, 3),
    ),
    ("empty product", lambda x: (x[:, :0] @ x[:, :0].mT, x[:, :0].sum(1), x[:, :0].prod(1), x[:, :0].mean(1)), X),
    ("transposed", lambda x: (x.reshape(-1), x.flatten(), x.contiguous().view(-1)), X.mT),
    ("expanded", lambda x: (x * 2, x.sum(0)), torch.ones(1, 3).expand(4, 3)),
    ("reversed", lambda x: (x.reshape(-1), x + 1), X.flip(0)),
    ("strided", lambda x: x.sum(0), X[::2, ::2]),
    ("negated view", lambda x: x * 2, torch.tensor([1 + 2j, 3 - 1j]).conj().imag),
)

DIFFERS: dict[str, tuple[Op, tuple[torch.Tensor, ...], str]] = {
    "sign of NaN": (torch.sign, (f32(NAN, 1.0),), "eager says 0, the file NaN"),
    "largest of a window with NaN": (
        lambda x: F.max_pool1d(x, 2),
        (torch.tensor([[NAN, -2.0]]),),
        "ONNX Runtime's MaxPool keeps the other value",
    ),
    "scattered maximum of NaN": (
        lambda x: torch.zeros(2).scatter_reduce(0, torch.tensor([0, 0]), x, "amax"),
        (f32(NAN, 3.0),),
        "ONNX Runtime's ScatterElements keeps the other value",
    ),
    "tanh of a denormal number": (torch.tanh, (f32(1e-40),), "ONNX Runtime's polynomial is off by a thousandth there"),
    "angle of NaN": (torch.angle, (f32(NAN, -1.0),), "onnxscript's form says 0"),
    "running sum of exponentials with infinity": (
        lambda x: x.logcumsumexp(0),
        (f32(INF, 0.0),),
        "onnxscript's form gives NaN",
    ),
    "chosen minus zero": (
        lambda x: 1 / torch.where(x < 0, x * 0, x),
        (f32(-1.0, 1.0),),
        "ONNX Runtime's Where makes it a plus zero",
    ),
}
"""What ONNX Runtime computes otherwise than PyTorch: {case: (function, arguments, how)}."""


def leaves(value: Any) -> list[torch.Tensor]:
    return [x for item in value for x in leaves(item)] if isinstance(value, (tuple, list)) else [value]


def agree(found: Any, wanted: Any) -> bool:
    """Equal in structure, shapes, dtypes and integers; floats to 16 ULP, NaN and infinities where eager has them."""
    pairs = list(zip(leaves(found), leaves(wanted), strict=True))
    return all(a.shape == b.shape and a.dtype == b.dtype and _close(a, b) for a, b in pairs)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    step = 16 * torch.finfo(a.dtype).eps
    return torch.allclose(a.double(), b.double(), rtol=step, atol=1e-44, equal_nan=True)


@pytest.mark.parametrize(("fn", "args"), SAME.values(), ids=SAME)
def test_a_file_gives_what_eager_gives(fn: Op, args: tuple[torch.Tensor, ...], tmp_path: Path) -> None:
    found = export.to_onnx(fn, args, tmp_path / "f.onnx").load(device="cpu")(*args)
    wanted = fn(*args)
    assert agree(found, wanted), f"\n{leaves(found)}\nexpected\n{leaves(wanted)}"


@pytest.mark.parametrize(("fn", "args", "how"), DIFFERS.values(), ids=DIFFERS)
def test_what_differs_is_known(fn: Op, args: tuple[torch.Tensor, ...], how: str, tmp_path: Path) -> None:
    found = export.to_onnx(fn, args, tmp_path / "f.onnx").load(device="cpu")(*args)
    assert not agree(found, fn(*args)), f"no longer: {how}"


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention_returns_the_log_sum_exp_of_each_row(causal: bool, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))

    def attention(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, sums = op(x, x.sin(), x.cos(), 0.0, causal)
        return out, sums

    export.to_onnx(attention, (x,), tmp_path / "f.onnx")
    for found, expected in zip(export.load(tmp_path / "f.onnx", device="cpu")(x), attention(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_sum_of_no_products_keeps_the_bias(tmp_path: Path) -> None:
    a, b, bias = torch.ones(3, 0), torch.ones(0, 2), torch.tensor([1.0, -2.0])

    def affine(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.addmm(bias, a, b, beta=2, alpha=3)

    for dynamic in (None, (None, {1: "inner"}, {0: "inner"})):
        export.to_onnx(
            affine,
            (bias, torch.ones(3, 4), torch.ones(4, 2)) if dynamic else (bias, a, b),
            tmp_path / "f.onnx",
            dynamic=dynamic,
        )
        found = export.load(tmp_path / "f.onnx", device="cpu")(bias, a, b)
        torch.testing.assert_close(found, affine(bias, a, b))


def test_the_hessian_of_a_cumulative_product_is_right(tmp_path: Path) -> None:
    x = torch.tensor([0.5, -1.5, 2.0, 0.7])

    def derivative(x: torch.Tensor) -> torch.Tensor:
        return torch.func.hessian(lambda x: x.cumprod(0).sum())(x)

    export.to_onnx(derivative, (x,), tmp_path / "f.onnx")
    found = export.load(tmp_path / "f.onnx", device="cpu")(x)
    torch.testing.assert_close(found.double(), derivative(x.double()), rtol=1e-5, atol=1e-5)


def test_the_first_largest_boolean_is_found(tmp_path: Path) -> None:
    x = torch.tensor([[-1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])

    def largest(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, places = (x > 0).max(1)
        return values, places

    export.to_onnx(largest, (x,), tmp_path / "f.onnx")
    found = export.load(tmp_path / "f.onnx", device="cpu")(x)
    torch.testing.assert_close(found, largest(x))


@pytest.mark.parametrize("transform", ["none", "grad", "vmap"])
def test_a_loop_with_an_open_end_says_what_to_do(transform: str, tmp_path: Path) -> None:
    from torch._higher_order_ops import while_loop  # deferred: it imports the compiler

    def doubled(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (torch.tensor(0), x))[1]
        return result

    used = {"none": doubled, "grad": torch.func.grad(lambda x: doubled(x).sum()), "vmap": torch.func.vmap(doubled)}
    with pytest.raises(export.errors.ExportError, match=r"pure\.scan"):
        export.to_onnx(used[transform], (torch.ones(3, 4),), tmp_path / "f.onnx")
