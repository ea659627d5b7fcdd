"""The rules of all operators, collected from one file a family.

To add an operator, add its rules to the tables of its family (`export/ops/<family>.py`). A new family is one more file
and one more name in `FAMILIES`. Each table maps an overload, such as `torch.ops.aten.relu.default`, to a function. An
operator needs one of the first two; the others serve dynamic sizes (`FAKES`: speed; `COMPOSITES`: any sizes).

`LOWERINGS`: `(g, node, *args) -> ir.Value`. Builds the operator's ONNX nodes; it is then recorded whole.
`DECOMPOSITIONS`: `(*args) -> Tensor`. Computes it from simpler operators, where PyTorch's default rules do not.
    `NotImplemented` leaves the operator as it is.
`BATCHING`: a kernel of `vmap`, where PyTorch's own needs sizes as numbers; `shared.kernels` makes one by
    `mapped_kernel`, `folded` or `pointwise`.
`COMPOSITES`: `(*args) -> Tensor`. Makes it of other operators, where PyTorch does so in C++ with sizes as numbers,
    or looks at values or strides.
`FORWARD_MODE`: `(*args) -> Tensor`. Computes it from operators with forward derivatives, where PyTorch's own forward
    derivative needs sizes as numbers, takes more operators, or is differentiated wrongly; used under `jvp` alone.
`DERIVED_WHOLE`: `(*args) -> Tensor`. A kernel of `Autograd` that keeps an operator whole, with the derivative that its
    C++ form has, where PyTorch's own kernel in Python decomposes it first.
`ABSENT`: why the kernels above serve fixed sizes as well: PyTorch has none at all.
`FAKES`: `(mode, *args) -> FakeTensor`. Makes a result without values at once, where PyTorch runs a decomposition.

PyTorch decomposes what no table has, and what is left goes to onnxscript's function for the overload (`fallback`).

Tests, in `parity_tests`: one case in `test_export_ops.py` (values) and one in `test_export_op_transforms.py` (gradient,
`vmap` and `jvp`, with dynamic sizes); NaN, infinities and signed zeros in `test_export_edge_values.py`; every entry of
`FAKES` in `test_export_fakes.py`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from export.graph.builder import Lowering
from export.ops import (
    activation,
    arithmetic,
    attention,
    batch_norm,
    comparison,
    cond,
    convolution,
    convolution_gradients,
    copying,
    creation,
    ctc,
    distances,
    embedding,
    fallback,
    grid_sample,
    grouped_products,
    indexing,
    integers,
    losses,
    matmul,
    normalisation,
    padding,
    pooling,
    pooling_gradients,
    reduction,
    resize,
    shape,
    sizes,
    sorting,
    transcendental,
)
from export.ops.scan import operator as scan
from export.ops.scan.tracing import recorded_scans

__all__ = [
    "ABSENT",
    "BATCHING",
    "COMPOSITES",
    "DECOMPOSITIONS",
    "DERIVED_WHOLE",
    "FAKES",
    "FAMILIES",
    "FORWARD_MODE",
    "LOWERINGS",
    "control_flow",
    "lowering",
]

FAMILIES: Final[tuple[ModuleType, ...]] = (
    activation, arithmetic, attention, batch_norm, comparison, cond, convolution, convolution_gradients, copying,
    creation, ctc, distances, embedding, grid_sample, grouped_products, indexing, integers, losses, matmul,
    normalisation, padding, pooling, pooling_gradients, reduction, resize, scan, shape, sizes, sorting, transcendental,
)  # fmt: skip


def _union(table: str) -> Mapping[Any, Any]:
    """Return the families' tables of that name as one."""
    merged: dict[Any, Any] = {}
    for family in FAMILIES:
        rules = getattr(family, table, {})
        twice = merged.keys() & rules.keys()
        if twice:
            raise AssertionError(f"{table} of {family.__name__} repeats {', '.join(map(str, twice))}")
        merged.update(rules)
    return merged


LOWERINGS: Final = _union("LOWERINGS")
DECOMPOSITIONS: Final = _union("DECOMPOSITIONS")
BATCHING: Final = _union("BATCHING")
COMPOSITES: Final = _union("COMPOSITES")
DERIVED_WHOLE: Final = _union("DERIVED_WHOLE")
FORWARD_MODE: Final = _union("FORWARD_MODE")
ABSENT: Final = _union("ABSENT")
FAKES: Final = _union("FAKES")


def lowering(operator: Any) -> Lowering:
    """Return an operator's lowering, onnxscript's where this package has none."""
    return LOWERINGS.get(operator, fallback.lower)


@contextlib.contextmanager
def control_flow(symbols: Sequence[Any]) -> Iterator[None]:
    """Record `torch.cond` and `pure.scan` as operators; branches and steps may use the trace's symbolic sizes."""
    with cond.replaced(functools.partial(cond.traced_cond, symbols=symbols)), recorded_scans(symbols):
        yield
