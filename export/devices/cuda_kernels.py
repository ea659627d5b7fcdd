"""Which nodes ONNX Runtime's CUDA provider takes: kernels by operator, dtype and opset, and what else it asks for.

The kernels are in `cuda_kernels.json`, found by placing one node at a time (`python -m parity_tests.cuda_kernels`); the
rules below are those of its code that look at attributes. Both are of the version in `VERSION`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

__all__ = ["RULES", "VERSION", "Rule", "decisive_input", "only_in_float32", "why_not"]

_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_KERNELS: dict[str, dict[str, Any]] = _TABLE["kernels"]

VERSION: str = _TABLE["onnxruntime"]
"""The ONNX Runtime that the kernels and rules are of."""

_PROVIDER = "onnxruntime/core/providers/cuda/cuda_execution_provider.cc"

Attributes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What the provider asks of an operator beside the dtype.

    Attributes:
        kinds: the operators.
        refuses: whether it leaves a node with these attributes to the CPU, or fails on it.
        reason: what it has no kernel for.
        way_out: what to write instead.
        source: where that is decided.
    """

    kinds: tuple[str, ...]
    refuses: Callable[[Attributes], bool]
    reason: str
    way_out: str
    source: str


def _unequal_pads(attributes: Attributes) -> bool:
    pads = attributes.get("pads", [])
    return list(pads[: len(pads) // 2]) != list(pads[len(pads) // 2 :])


RULES = (
    Rule(
        ("ConvTranspose",),
        _unequal_pads,
        "pads that differ before and after an axis",
        "pad equally on both sides and cut the result by a slice",
        f"{_PROVIDER}, ConvTransposeNeedFallbackToCPU",
    ),
    Rule(
        ("ConvTranspose",),
        lambda attributes: str(attributes.get("auto_pad", b"NOTSET")).find("SAME") >= 0,
        "auto_pad",
        "give the pads as numbers",
        f"{_PROVIDER}, ConvTransposeNeedFallbackToCPU",
    ),
    Rule(
        ("ArgMax", "ArgMin"),
        lambda attributes: bool(attributes.get("select_last_index", 0)),
        "the last of several extremes (select_last_index)",
        "flip the axis, take the first, and count from the end",
        f"{_PROVIDER}, ArgMaxOrArgMinNeedFallbackToCPU",
    ),
    Rule(
        ("BatchNormalization",),
        lambda attributes: bool(attributes.get("training_mode", 0)),
        "batch statistics (training_mode)",
        "compute mean and variance by ReduceMean",
        "onnxruntime/core/providers/cuda/nn/batch_norm.h, BatchNorm",
    ),
    Rule(
        ("Conv", "ConvTranspose", "MaxPool", "AveragePool"),
        lambda attributes: len(attributes.get("kernel_shape", ())) > 3,
        "more than three spatial axes",
        "fold an axis into the batch",
        "cuDNN's API reference, cudnnConvolutionForward: tensors of 4 or 5 dimensions",
    ),
)
"""What the provider decides by attributes. `If`, `Loop` and `Scan` it takes; their bodies are placed by the same rules,
and their conditions and numbers of steps are copied to the host in every run, so that no CUDA graph can hold them."""


def decisive_input(kind: str) -> int | None:
    """Return which input's dtype decides whether there is a kernel; None for operators that the table lacks."""
    row = _KERNELS.get(kind)
    return None if row is None else int(row["input"])


def only_in_float32(kind: str, dtype: str, opset: int) -> bool:
    """Tell whether there is an operator in float32 and none in the dtype."""
    dtypes = _dtypes(kind, opset)
    return "float32" in dtypes and dtype not in dtypes


def _dtypes(kind: str, opset: int) -> list[str]:
    """Return the dtypes that an operator of the table has kernels for."""
    row = _KERNELS[kind]
    held = [found for found in row if found != "input" and int(found) <= opset]
    return str(row[max(held, key=int)]).split() if held else []


def why_not(node: onnx.NodeProto, dtype: str | None, opset: int) -> tuple[str, str] | None:
    """Return why the provider does not take a node and what to do instead; None if it does.

    Args:
        node: a node of ONNX's own domain.
        dtype: the dtype of its decisive input; None if that is not known, and then no kernel is missed.
        opset: the model's opset.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    row = _KERNELS.get(node.op_type)
    if row is not None and dtype is not None:
        dtypes = _dtypes(node.op_type, opset)
        if dtype not in dtypes:
            return _missing(node.op_type, dtype, dtypes, row, opset)
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    for rule in RULES:
        if node.op_type in rule.kinds and rule.refuses(attributes):
            return f"its {node.op_type} has no kernel for {rule.reason}", rule.way_out
    return None


def _missing(kind: str, dtype: str, dtypes: list[str], row: Mapping[str, Any], opset: int) -> tuple[str, str]:
    others = [int(found) for found in row if found != "input" and dtype in str(row[found]).split()]
    if others:
        later = [found for found in others if found > opset]
        other = f"opset={min(later)}" if later else f"an opset below {opset}, such as opset=20"
        return f"it has no {kind} for {dtype} in opset {opset}", f"export with {other}"
    if not dtypes:
        return f"it has no {kind} in any dtype", "write it with other operations"
    alike = [one for one in dtypes if one.startswith(("int", "uint")) == dtype.startswith(("int", "uint"))] or dtypes
    wider = [one for one in alike if _bits(one) > _bits(dtype)] or alike
    return f"it has no {kind} for {dtype}", f"cast to {min(wider, key=_bits)} before it"


def _bits(dtype: str) -> int:
    return int("".join(filter(str.isdigit, dtype)) or 8)
