"""Where a file first differs from the function: the node, its block and source line, and a folder that reproduces it.

The recorded function is interpreted operator by operator with its rounding scales, and the file is run with the values
of the same operators as additional outputs: a node's metadata says which one it came from.
"""

from __future__ import annotations

import math
import operator
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from export.graph.node_notes import read_notes
from export.graph.onnx_types import ONNX_TYPES
from export.trace.aten_graph import Traced
from export.verdict import branch_forcing
from export.verdict.comparison import element_ratios
from export.verdict.judge import Judge
from export.verdict.reproduction import SCRIPT
from export.verdict.sampled import Sampled, Scales
from export.verdict.verdict_result import Divergence

__all__ = ["localise"]

PAIRED = frozenset({"TopK"})
"""Nodes whose outputs are the results of one recorded operator, in its order; of others the last first output is."""


def localise(judge: Judge, folder: Path) -> Divergence | None:
    """Find the first node of a file whose value differs from the function's, and write a reproduction.

    Args:
        judge: the file and the function, with the inputs on which they were seen to differ.
        folder: where the reproduction goes; made if needed.

    Returns:
        The first difference; None if nothing failed on given inputs.
    """
    if judge.failed is None:
        return None
    leaves, forced = judge.failed
    file = judge.file
    model = branch_forcing.forced(file.model, forced) if forced else file.model
    scales = judge.scales(leaves, forced or None, values=True)
    probes = _probes(model, file.traced)
    dtypes = {node.name: getattr(node.meta.get("val"), "dtype", None) for node in file.traced.graph.graph.nodes}
    loaded = file.variant(branch_forcing.with_outputs(model, [output for _, output, _ in probes]))
    with torch.no_grad():
        values = loaded.inner_values([output for _, output, _ in probes], *file.given(leaves))
    found = None
    for (node, output, name), value in zip(probes, values, strict=True):
        ratio = _ratio(value, scales.values[name], dtypes[name]) if name in scales.values else 0.0
        if ratio > judge.limit:
            found = node, output, name, ratio
            break
    folder.mkdir(parents=True, exist_ok=True)
    divergence = _described(found, folder)
    _reproduce(judge, model, folder, scales, found)
    return divergence


def _probes(model: onnx.ModelProto, traced: Traced) -> list[tuple[onnx.NodeProto, str, str]]:
    """Return (ONNX node, its output, recorded operator) for the values that both sides have, in the file's order."""
    known = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    nodes = traced.graph.graph.nodes
    examples = {node.name: node.meta.get("val") for node in nodes}
    picked = {(node.args[0].name, node.args[1]): node.name for node in nodes if node.target is operator.getitem}
    last: dict[str, tuple[onnx.NodeProto, str]] = {}
    for node in model.graph.node:
        notes = read_notes(node)
        origin = notes.get("fx", "")
        if node.op_type == "Scan":
            results = zip(notes.get("results", "").split(), node.output, strict=True)
            found = {picked.get((origin, int(i)), ""): output for i, output in results}
        elif node.op_type == "If":
            found = {picked.get((origin, i), ""): output for i, output in enumerate(node.output)}
        elif isinstance(examples.get(origin), (tuple, list)):
            count = len(node.output) if node.op_type in PAIRED else 1
            found = {
                picked.get((origin, i), ""): output
                for i, output in enumerate(node.output[:count])
                if isinstance(examples[origin][i], torch.Tensor)
                and known.get(output) == ONNX_TYPES.get(examples[origin][i].dtype)
            }
        else:
            found = {origin: node.output[0]} if len(node.output) == 1 else {}
        for name, output in found.items():
            if isinstance(examples.get(name), torch.Tensor) and output in known:
                last[name] = node, output
    order = {id(node): position for position, node in enumerate(model.graph.node)}
    chosen = sorted(last.items(), key=lambda item: order[id(item[1][0])])
    return [(node, output, name) for name, (node, output) in chosen]


def _ratio(value: np.ndarray[Any, Any], sampled: Sampled, dtype: torch.dtype | None) -> float:
    """Return the largest ratio of an element, as by `comparison.compare`; 0 for another form of the same value."""
    exact = sampled.reference
    if tuple(value.shape) != tuple(exact.shape) or not exact.numel():
        return 0.0
    if not exact.is_floating_point():
        own = torch.from_numpy(np.ascontiguousarray(value))
        return math.inf if bool(((own.double() - exact.double()).abs() > sampled.scale).any()) else 0.0
    own = torch.from_numpy(np.asarray(value, dtype=np.float64))
    return float(element_ratios(own, sampled, dtype or torch.float32)[0].max())


def _described(found: tuple[onnx.NodeProto, str, str, float] | None, folder: Path) -> Divergence:
    if found is None:
        # All operations agree, so the outputs are wrong: swapped, missing or renamed.
        return Divergence("(outputs)", "output", "", "", math.inf, str(folder))
    node, _, _, ratio = found
    notes = read_notes(node)
    return Divergence(node.name, node.op_type, notes.get("path", ""), notes.get("source", ""), ratio, str(folder))


def _reproduce(
    judge: Judge,
    model: onnx.ModelProto,
    folder: Path,
    scales: Scales,
    found: tuple[onnx.NodeProto, str, str, float] | None,
) -> None:
    """Write model.onnx with the node's value as an output, inputs.npz, expected.npz and reproduce.py."""
    assert judge.failed is not None
    file, (leaves, _) = judge.file, judge.failed
    probed = model if found is None else branch_forcing.with_outputs(model, [found[1]])
    (folder / "model.onnx").write_bytes(probed.SerializeToString())
    for data in file.stored_data():
        _linked(data, folder / data.name)
    arguments = file.arguments
    inputs = {
        f"input.{name}": (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).detach().cpu().numpy()
        for name, leaf, owner in zip(arguments.leaf_names, leaves, arguments.owner, strict=True)
        if owner not in file.baked
    }
    expected = dict(zip(file.traced.out_names, scales.outputs, strict=True))
    if found is not None:
        expected[found[1]] = scales.values[found[2]]
    _save(folder / "inputs.npz", inputs)
    _save(
        folder / "expected.npz",
        {
            f"{kind}.{name}": value.cpu().numpy()
            for name, sampled in expected.items()
            for kind, value in (("reference", sampled.reference), ("scale", sampled.scale))
        },
    )
    node = "" if found is None else found[1]
    (folder / "reproduce.py").write_text(SCRIPT.replace("NODE", repr(node)).replace("LIMIT", repr(judge.limit)))


def _save(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    np.savez(path, allow_pickle=False, **arrays)


def _linked(source: Path, target: Path) -> None:
    """Give a data file, whose name tells its content, a second name; copy it where the system cannot."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
