"""A third opinion: onnx's own reference evaluator, which shares no code with ONNX Runtime or PyTorch.

It is an opinion and decides nothing: it is known to be wrong for a few operators itself. It is slow Python, so it is
asked about small parts only; the bound is a number of elements, so that nothing depends on a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.external_data_helper import load_external_data_for_model, uses_external_data
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from export.verdict.locating.compared_values import largest_ratio
from export.verdict.locating.failures import FAILURES
from export.verdict.sampled import Sampled

__all__ = ["MAX_ELEMENTS", "MAX_NODES", "opinion"]

MAX_ELEMENTS = 1 << 16
"""How many elements the inputs, the stored tensors and the results together may have."""

MAX_NODES = 256
"""How many nodes may be run."""


def opinion(
    model: onnx.ModelProto,
    feed: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    expected: Mapping[str, Sampled],
    limit: float,
    file: Path,
) -> str:
    """Say who stands alone where ONNX Runtime and PyTorch differ; "" where the evaluator cannot be asked.

    Args:
        model: the file, or a part of it.
        feed: its inputs.
        found: what ONNX Runtime gives, by output.
        expected: the reference, by output.
        limit: the largest ratio of equal values.
        file: the file that the model comes from, with its data beside it.
    """
    values = [*feed.values(), *found.values()]
    sizes = [value.numel() for value in values] + [int(np.prod(tensor.dims)) for tensor in model.graph.initializer]
    if sum(sizes) > MAX_ELEMENTS or len(model.graph.node) > MAX_NODES:
        return ""
    if any(value.dtype == torch.bfloat16 for value in values):  # numpy cannot hold it
        return ""
    third = _evaluated(model, feed, list(found), file)
    if third is None:
        return ""
    with_torch = _agrees(third, expected, found, limit)
    as_found = {name: Sampled(value.double(), expected[name].scale) for name, value in found.items()}
    with_file = _agrees(third, as_found, found, limit)
    if with_torch:
        return "ONNX Runtime alone: onnx's reference evaluator agrees with PyTorch"
    if with_file:
        return "PyTorch alone: onnx's reference evaluator agrees with ONNX Runtime about the file"
    return "all three differ: PyTorch, ONNX Runtime and onnx's reference evaluator"


def _agrees(
    third: Mapping[str, Tensor], expected: Mapping[str, Sampled], found: Mapping[str, Tensor], limit: float
) -> bool:
    return all(
        third[name].dtype == value.dtype
        and expected[name].scale.shape == expected[name].reference.shape
        and largest_ratio(third[name], expected[name], value.dtype) <= limit
        for name, value in found.items()
    )


def _evaluated(
    model: onnx.ModelProto, feed: Mapping[str, Tensor], names: Sequence[str], file: Path
) -> dict[str, Tensor] | None:
    try:
        if any(uses_external_data(tensor) for tensor in model.graph.initializer):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            load_external_data_for_model(copy, str(file.parent))
            model = copy
        session = ReferenceEvaluator(model)
        wanted = set(session.input_names)
        given = {name: value.detach().cpu().numpy() for name, value in feed.items() if name in wanted}
        with np.errstate(all="ignore"):
            results: Any = session.run(list(names), given)
        return {
            name: torch.from_numpy(np.array(value, order="C", ndmin=0))
            for name, value in zip(names, results, strict=True)
        }
    except FAILURES:  # whatever an evaluator written in Python raises on an operator or a dtype, it has no opinion
        return None
