"""Nothing that torch.onnx can translate is lost: what no rule here covers goes to onnxscript's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad

import export
from export.errors import UnsupportedOpError
from export.ops import fallback
from export.ops.registry import LOWERINGS
from export.trace.active_rules import decompositions
from export.trace.aten_graph import trace

X = torch.linspace(-1, 1, 12).reshape(4, 3)
EDGES = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, -1.0, 3.999])
VOLUME = torch.linspace(-1, 1, 64).reshape(1, 1, 4, 4, 4)

USED: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...], Any]] = {
    "masked_scatter": (lambda x: x.masked_scatter(x > 0, x.sin()), (X,), torch.ops.aten.masked_scatter.default),
    "logcumsumexp": (lambda x: x.logcumsumexp(1), (X,), torch.ops.aten.logcumsumexp.default),
    "gradient of logcumsumexp": (grad(lambda x: x.logcumsumexp(1).sum()), (X,), torch.ops.aten.logcumsumexp.default),
    "histogram at its edges": (lambda x: torch.histc(x, 4, 0, 4), (EDGES,), torch.ops.aten.histc.default),
    "renormalised rows": (
        lambda x: torch.ops.aten.embedding_renorm(x, torch.tensor([0, 2]), 0.5, 2.0),
        (X,),
        torch.ops.aten.embedding_renorm.default,
    ),
}
REFUSED: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...], str]] = {
    "angle of integers": (torch.angle, (torch.arange(-3, 4),), "cast the argument"),
    "histogram without limits": (lambda x: torch.histc(x, 5), (X,), "min == max"),
    "grouped products": (
        torch.ops.aten._grouped_mm,
        (torch.ones(3, 4, 8).bfloat16(), torch.ones(3, 8, 8).bfloat16()),
        "no MatMul",
    ),
}


@pytest.mark.parametrize(("fn", "args", "op"), USED.values(), ids=USED)
def test_an_operator_without_a_rule_goes_to_onnxscript(fn: Any, args: tuple[torch.Tensor, ...], op: Any) -> None:
    assert op not in LOWERINGS
    assert op in {node.target for node in trace(fn, args, None, LOWERINGS).graph.graph.nodes}
    verdict = export.verify(fn, args, device="cpu")
    assert verdict.passed, verdict.table()


@pytest.mark.parametrize(("fn", "args", "reason"), REFUSED.values(), ids=REFUSED)
def test_where_onnxscript_would_be_wrong_a_typed_error_says_so(
    fn: Any, args: tuple[torch.Tensor, ...], reason: str
) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        export.verify(fn, args, device="cpu")


def test_an_argument_that_onnxscript_ignores_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LOWERINGS, torch.ops.aten._upsample_bilinear2d_aa.default)  # its rule; onnxscript's is left

    def halved(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)

    with pytest.raises(UnsupportedOpError, match=r"ignores what is given as scales_h, scales_w.*size="):
        export.verify(halved, (VOLUME[0, :, :, :3],), device="cpu")


LOST = {
    "aten::_conj": "complex",
    "aten::_fft_c2c": "complex",
    "aten::_fft_c2r": "complex",
    "aten::_fft_r2c": "complex",
    "aten::complex": "complex",
    "aten::polar": "complex",
    "aten::view_as_complex": "complex",
    "aten::view_as_complex_copy": "complex",
    "aten::view_as_real": "complex",
    "aten::view_as_real_copy": "complex",
    "aten::as_strided": "memory by strides",
    "aten::_unique": "a shape that depends on the data",
    "aten::_unique2": "a shape that depends on the data",
    "aten::bincount": "a shape that depends on the data",
    "aten::nonzero": "a shape that depends on the data",
    "aten::repeat_interleave.Tensor": "a shape that depends on the data",
    "aten::unique_consecutive": "a shape that depends on the data",
    "aten::unique_dim": "a shape that depends on the data",
    "aten::_local_scalar_dense": "a value in Python",
    "aten::allclose": "a value in Python",
    "aten::equal": "a value in Python",
    "aten::special_erfcx": "needs a local function",
}
"""Overloads of onnxscript's library that cannot be exported here: {name: why}; random ones are refused on purpose."""


LEFT_TO_ONNXSCRIPT = {
    "aten::angle",
    "aten::embedding_renorm",
    "aten::histc",
    "aten::logcumsumexp",
    "aten::masked_scatter",
}
"""Overloads that no rule covers and onnxscript translates."""


def only_in_onnxscript() -> set[str]:
    """Overloads of its library that are recorded whole and have no rule here; random ones are refused on purpose."""
    rules = decompositions(frozenset(LOWERINGS))
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    known = set(torch._C._dispatch_get_all_op_names())
    found = set()
    for name in map(str, fallback._registry().functions):
        if not name.startswith("aten::") or name not in known:
            continue
        base, _, kind = name.removeprefix("aten::").partition(".")
        op = getattr(getattr(torch.ops.aten, base), kind or "default")
        covered = op in LOWERINGS or op in rules or op.has_kernel_for_dispatch_key(composite)
        if not covered and torch.Tag.nondeterministic_seeded not in op.tags:
            found.add(name)
    return found


def test_what_onnxscript_alone_can_do_is_listed() -> None:
    assert only_in_onnxscript() == LEFT_TO_ONNXSCRIPT | set(LOST)


def test_what_needs_a_local_function_says_so() -> None:
    with pytest.raises(UnsupportedOpError, match="local functions"):
        export.verify(torch.special.erfcx, (X,))
