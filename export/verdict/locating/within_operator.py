"""Which of the nodes that stand for one recorded operator is wrong.

What lies between them has no counterpart in the function. It has one among the nodes that the operator is written as
today: both are run on the reference's inputs and compared node by node. This only picks a node; that the operator is
wrong is known from the reference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
import torch
from torch import Tensor

from export.graph.functions.function_inlining import inline
from export.graph.onnx_export import translate
from export.verdict.judged_file import JudgedFile
from export.verdict.locating.node_alone import Alone, Cut, cut_out, run_outputs
from export.verdict.locating.opened_graph import Opened, Site, opened

__all__ = ["written_today", "wrong_node"]

RELATIVE_TOLERANCE = 1e-6
"""How far equal results may be apart, as a share of the largest value: both sides run the same kernels."""


def written_today(file: JudgedFile, branches: Mapping[str, list[bool]], values: Collection[str]) -> Opened | None:
    """Return the recorded function as it is written today, opened in the same way as the file; None without one.

    Args:
        file: the file.
        branches: the sides that conditions take.
        values: values of the file that are looked for: in a repeated block they are called after its function.
    """
    if file.traced is None:
        return None
    opset = next((entry.version for entry in file.model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    best, most = None, -1
    for functions in (False, True):
        model, _ = translate(file.traced, frozenset(file.baked), opset, check=False, aside={}, functions=functions)
        model = inline(model)
        count = len(set(values) & {name for node in model.graph.node for name in node.output})
        if count > most:
            best, most = model, count
        if count == len(values):
            break
    return None if best is None else opened(best, branches)


def wrong_node(
    site: Site, cut: Cut, feed: Mapping[str, Tensor], today: Opened, leaves: Mapping[str, Tensor], alone: Alone
) -> onnx.NodeProto | None:
    """Return the first node of a part that gives something else than its counterpart does; None if none is found.

    Args:
        site: the value that the part makes.
        cut: the part.
        feed: what it is given.
        today: the function as it is written today.
        leaves: the function's tensors by name.
        alone: where the file's operators are run.
    """
    counterparts = {other.node.name: other for other in today.sites if other.node.name}
    by_value = {other.value: other for other in today.sites}
    target = by_value.get(site.value) or counterparts.get(site.node.name)
    if target is None:
        return None
    known = {**leaves, **feed}
    fresh = cut_out(today, target.value, known.get)
    if fresh is None:
        return None
    own = _results(cut, feed, alone)
    expected = _results(fresh, {name: known[name] for name in fresh.given}, alone)
    for node in cut.model.graph.node:
        for place, value in enumerate(node.output):
            other = by_value.get(value) or counterparts.get(node.name)
            if not value or other is None:
                continue
            name = value if value in expected else _output(other.node, place)
            if name in expected and not _same(own[value], expected[name]):
                return node
    return None


def _output(node: onnx.NodeProto, place: int) -> str:
    return node.output[place] if place < len(node.output) else ""


def _results(cut: Cut, feed: Mapping[str, Tensor], alone: Alone) -> dict[str, Tensor]:
    """Return everything that a part computes."""
    model = onnx.ModelProto()
    model.CopyFrom(cut.model)
    names = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values = run_outputs(model, feed, names, alone.file, alone.device, tf32=alone.tf32)
    return dict(zip(names, values, strict=True))


def _same(own: Tensor, other: Tensor) -> bool:
    if own.shape != other.shape or own.dtype != other.dtype:
        return False
    if not own.is_floating_point():
        return torch.equal(own, other)
    finite = other[other.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(own, other, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE * largest, equal_nan=True)
