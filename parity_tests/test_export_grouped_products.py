"""Products by groups of rows, as mixtures of experts compute them: values, gradients, maps, tangents and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap

import export
from pure.tree import leaves

pytestmark = pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this PyTorch has no grouped_mm")

ROWS, INNER, OUTER, GROUPS = 8, 16, 4, 4
GENERATOR = torch.Generator().manual_seed(0)
ROW_VALUES = torch.randn(ROWS, INNER, generator=GENERATOR)
EXPERTS = torch.randn(GROUPS, INNER, OUTER, generator=GENERATOR)
ENDS = torch.tensor([2, 2, 6, ROWS], dtype=torch.int32)
"""The second group is empty."""


def experts(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Multiply each row with the matrix of its group."""
    return F.grouped_mm(x, w, offs=ends)


def reference(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Pick each row's matrix and multiply, in float64."""
    group = (torch.arange(x.shape[0]).unsqueeze(1) >= ends).sum(1)
    return torch.einsum("ri,rio->ro", x.double(), w.double()[group])


def squares(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the sum of the squares of a function's result."""
    return lambda *args: f(*args).square().sum()


TRANSFORMS: dict[str, Callable[[Callable[..., Tensor]], Callable[..., object]]] = {
    "value": lambda f: f,
    "gradient": lambda f: grad(squares(f), argnums=(0, 1)),
    "product with the Hessian": lambda f: (
        lambda x, w, ends: grad(lambda w: (grad(squares(f), argnums=1)(x, w, ends) * EXPERTS.to(w.dtype)).sum())(w)
    ),
    "tangent": lambda f: lambda x, w, ends: jvp(lambda x, w: f(x, w, ends), (x, w), (x.sin(), w.cos()))[1],
    "ensemble": lambda f: lambda x, w, ends: vmap(f, (None, 0, None))(x, torch.stack([w, w.sin()]), ends),
    "gradients of an ensemble": lambda f: (
        lambda x, w, ends: vmap(grad(squares(f), argnums=1), (None, 0, None))(x, torch.stack([w, w.sin()]), ends)
    ),
}


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_is_right(name: str, fixed: bool, tmp_path: Path) -> None:
    dynamic = None if fixed else ({0: "rows"}, None, None)
    path = tmp_path / "experts.onnx"
    export.to_onnx(TRANSFORMS[name](experts), (ROW_VALUES, EXPERTS, ENDS), path, dynamic=dynamic)
    loaded = export.load(path, device="cpu")
    longer = torch.cat([ROW_VALUES, ROW_VALUES.flip(0) * 0.5])
    cases = [(ROW_VALUES, EXPERTS, ENDS)]
    cases += [] if fixed else [(longer, EXPERTS, torch.tensor([0, 9, 9, 16], dtype=torch.int32))]
    for x, w, ends in cases:
        expected = TRANSFORMS[name](reference)(x.double(), w.double(), ends)
        actual = loaded(x, w, ends)
        for found, right in zip(leaves(actual), leaves(expected), strict=True):
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5 * float(right.abs().max()))


@pytest.mark.parametrize("name", ["value", "gradient"])
def test_verdicts_pass(name: str) -> None:
    verdict = export.verify(TRANSFORMS[name](experts), (ROW_VALUES, EXPERTS, ENDS), device="cpu")
    assert verdict, str(verdict)


def test_products_by_groups_of_columns_are_right(tmp_path: Path) -> None:
    def columns(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
        return F.grouped_mm(a, b, offs=ends)

    a, b = EXPERTS.transpose(1, 2).contiguous(), ROW_VALUES.t().contiguous()
    export.to_onnx(columns, (a, b, ENDS), tmp_path / "columns.onnx")
    actual = export.load(tmp_path / "columns.onnx", device="cpu")(a, b, ENDS)
    torch.testing.assert_close(actual, reference(ROW_VALUES, EXPERTS, ENDS).t().float(), rtol=1e-5, atol=1e-5)


def test_the_cost_does_not_grow_with_the_number_of_groups(tmp_path: Path) -> None:
    exported = export.to_onnx(experts, (ROW_VALUES, EXPERTS, ENDS), tmp_path / "experts.onnx")
    kinds = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert kinds.count("MatMul") == GROUPS
    assert "Expand" in kinds, "rows after the last group are zeros"
