"""Where a file first differs from eager: the node, its block and source line, and a folder that reproduces it.

The function is recorded again and interpreted node by node in float64 and in its own precision; the file is run with
the values of the same operations as additional outputs. A node's metadata says which recorded operation it came from.
"""

from __future__ import annotations

import math
import operator
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.fx import GraphModule, Interpreter, Node

from export.errors import ExportError
from export.files import protobuf_wire, stored_tensors
from export.graph.node_notes import read_notes
from export.ops.registry import LOWERINGS
from export.ops.scan.operator import looped, scan_op
from export.trace import isolation
from export.trace.aten_graph import Traced, record
from export.verdict import reference_runs
from export.verdict.error_ratio import Errors
from export.verdict.paired_runs import PairedRuns
from export.verdict.verdict_result import Divergence

__all__ = ["localise"]

MIN_DIVERGING_RATIO = 8.0
"""A single node's ratio above which it counts as different: one run of one node says less than a pooled leaf."""

_NODE_FLOOR_ULP = 4.0
"""The rounding scale's floor for a single node, in ULP of its value's root mean square."""

_SCRIPT = '''"""Runs model.onnx on inputs.npz and compares with expected.npz, which holds eager's results in float64."""

from pathlib import Path

import numpy as np
import onnxruntime

here = Path(__file__).parent
inputs, expected = np.load(here / "inputs.npz"), np.load(here / "expected.npz")
session = onnxruntime.InferenceSession(here / "model.onnx", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
for name, value in zip(names, session.run(names, {i.name: inputs[i.name] for i in session.get_inputs()})):
    difference = np.sqrt(np.mean((value.astype(np.float64) - expected[name]) ** 2))
    scale = expected["rounding_scale." + name]
    print(f"{name}: root mean square difference from float64 {difference:.3e}, rounding scale {scale:.3e}")
print("first different node:", DIVERGENCE)
'''


class _Values(Interpreter):
    """Runs a recorded graph and keeps every node's value; conditions and loops are run in Python."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.kept: dict[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        """Run one node and keep its value."""
        self.kept[n.name] = super().run_node(n)
        return self.kept[n.name]

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator; run the branch of a condition, and the steps of a loop."""
        if target is torch.ops.higher_order.cond:
            pred, yes, no, operands = args
            return _Values(yes if bool(pred) else no).run(*operands)
        if target is scan_op:
            return looped(_Values(args[0]).run, *args[1:])
        return super().call_function(target, args, kwargs)


def localise(runs: PairedRuns, leaves: Sequence[torch.Tensor], folder: Path) -> Divergence | None:
    """Find the first node of a file whose value differs from eager's, and write a reproduction.

    Args:
        runs: the file and the function.
        leaves: the tensors on which the file was seen to differ.
        folder: where the reproduction goes; made if needed.

    Returns:
        The first difference, or None if the function cannot be recorded again.
    """
    try:
        traced = record(runs.fn, runs.arguments, LOWERINGS)
    except ExportError:
        return None
    probes = _probes(runs.model, traced)
    own = _interpreted(traced, leaves, None)
    exact = _interpreted(traced, leaves, torch.float64)
    folder.mkdir(parents=True, exist_ok=True)
    values = runs.inner_values([output for _, output, _ in probes], leaves)
    found = None
    for (node, _, name), value in zip(probes, values, strict=True):
        ratio = _ratio(value, own[name], exact[name])
        if ratio > MIN_DIVERGING_RATIO:
            found = (node, ratio)
            break
    divergence = _described(found, runs.model, folder)
    _reproduce(runs, traced, leaves, folder, own, exact, divergence)
    return divergence


def _probes(model: onnx.ModelProto, traced: Traced) -> list[tuple[onnx.NodeProto, str, str]]:
    """Return (ONNX node, its output, recorded operation) for the values that both sides have, in the file's order."""
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
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
        else:
            found = {origin: node.output[0]} if len(node.output) == 1 else {}
        for name, output in found.items():
            if isinstance(examples.get(name), torch.Tensor) and output in known:
                last[name] = node, output
    order = {id(node): position for position, node in enumerate(model.graph.node)}
    chosen = sorted(last.items(), key=lambda item: order[id(item[1][0])])
    return [(node, output, name) for name, (node, output) in chosen]


def _interpreted(traced: Traced, leaves: Sequence[torch.Tensor], to: torch.dtype | None) -> dict[str, Any]:
    given = [leaf.to(to) if to is not None and leaf.is_floating_point() else leaf for leaf in leaves]
    interpreter = _Values(traced.graph)
    with isolation.restored(), torch.no_grad(), reference_runs.precision(to):
        interpreter.run(*given)
    return interpreter.kept


def _ratio(value: np.ndarray[Any, Any], own: torch.Tensor, exact: torch.Tensor) -> float:
    if tuple(value.shape) != tuple(own.shape):
        return 0.0  # another form of the same value, such as before a reshape
    if not own.is_floating_point():
        return 0.0
    target = exact.double()
    difference = torch.from_numpy(np.asarray(value, dtype=np.float64)).to(target.device) - target
    if not bool(difference.isfinite().all()):
        return math.inf if bool(target.isfinite().all()) else 0.0
    if not target.numel():
        return 0.0
    errors = Errors()
    errors.add(target + difference, target, own.double() - target)
    return errors.measures(own.dtype, _NODE_FLOOR_ULP)[2]


def _linked(source: Path, target: Path) -> None:
    """Give a data file, whose name tells its content, a second name; copy it where the system cannot."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _described(found: tuple[onnx.NodeProto, float] | None, model: onnx.ModelProto, folder: Path) -> Divergence:
    if found is None:
        # All operations agree, so the outputs are wrong: swapped, missing or renamed.
        return Divergence("(outputs)", "output", "", "", math.inf, str(folder))
    node, ratio = found
    notes = read_notes(node)
    return Divergence(node.name, node.op_type, notes.get("path", ""), notes.get("source", ""), ratio, str(folder))


def _reproduce(
    runs: PairedRuns,
    traced: Traced,
    leaves: Sequence[torch.Tensor],
    folder: Path,
    own: dict[str, Any],
    exact: dict[str, Any],
    divergence: Divergence,
) -> None:
    """Write model.onnx, inputs.npz, expected.npz and reproduce.py."""
    file, arguments = runs.file, runs.arguments
    shutil.copyfile(file, folder / "model.onnx")
    for data in stored_tensors.data_files(file, stored_tensors.find(file, protobuf_wire.read_header(file))):
        _linked(data, folder / data.name)
    inputs = {
        name: (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).detach().cpu().numpy()
        for name, leaf, owner in zip(arguments.leaf_names, leaves, arguments.owner, strict=True)
        if owner not in runs.baked
    }
    output = traced.graph.graph.find_nodes(op="output")[0]
    expected: dict[str, Any] = {}
    for name, item in zip(traced.out_names, output.args[0], strict=True):
        target, eager = exact[item.name].double(), own[item.name].double()
        expected[name] = target.cpu().numpy()
        expected[f"rounding_scale.{name}"] = (
            np.sqrt(np.mean((eager - target).square().cpu().numpy())) if target.numel() else 0.0
        )
    np.savez(folder / "inputs.npz", allow_pickle=False, **inputs)
    np.savez(folder / "expected.npz", allow_pickle=False, **expected)
    (folder / "reproduce.py").write_text(
        _SCRIPT.replace(
            "DIVERGENCE", repr(f"{divergence.node} ({divergence.op}) {divergence.path} {divergence.source}")
        )
    )
