"""Where a file first differs from eager: the node, its block and source line, and a folder that reproduces it.

The function is recorded again and interpreted node by node in float64 and in its own precision; the file is run with
the values of the same operations as additional outputs. A node's metadata says which recorded operation it came from.
"""

from __future__ import annotations

import math
import operator
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.fx import GraphModule, Interpreter, Node

from export.errors import ExportError
from export.files import protobuf_wire, stored_tensors
from export.graph.function_inlining import inline
from export.ops.registry import TABLE
from export.ops.scan_operator import looped, scan_op
from export.runtime import loading
from export.trace import isolation
from export.trace.arguments import Arguments
from export.trace.aten_graph import Traced, record
from export.verdict import branch_forcing, reference_runs
from export.verdict.verdict_result import Divergence

OBVIOUS = 8.0
"""A single node's ratio above which it counts as different: one run of one node says less than a pooled leaf."""

_FLOOR_ULP = 4.0

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
    yardstick = expected["yardstick." + name]
    print(f"{name}: root mean square difference from float64 {difference:.3e}, yardstick {yardstick:.3e}")
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


def localise(
    fn: Callable[..., Any],
    arguments: Arguments,
    leaves: Sequence[torch.Tensor],
    file: Path,
    folder: Path,
    *,
    baked: Collection[int] = (),
    device: str = "auto",
    tf32: bool = False,
) -> Divergence | None:
    """Find the first node of a file whose value differs from eager's, and write a reproduction.

    Args:
        fn: The function.
        arguments: Its example arguments.
        leaves: The tensors on which the file was seen to differ.
        file: The file.
        folder: Where the reproduction goes; made if needed.
        baked: Positions of the arguments that are inside the file.
        device: Where the file runs.
        tf32: Whether it may round products to TF32 there.

    Returns:
        The first difference, or None if the function cannot be recorded again or no value differs.
    """
    try:
        traced = record(fn, arguments, TABLE)
    except ExportError:
        return None
    model = inline(onnx.load(file, load_external_data=False))
    probes = _probes(model, traced)
    own = _interpreted(traced, leaves, None)
    exact = _interpreted(traced, leaves, torch.float64)
    args = [arg for i, arg in enumerate(arguments.rebuild(leaves)) if i not in baked]
    folder.mkdir(parents=True, exist_ok=True)
    names = [output for _, output, _ in probes]
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    probed = branch_forcing.with_outputs(model, names, [kinds[name] for name in names]).SerializeToString()
    with torch.no_grad():
        values = loading.open_file(file, device, variant=probed, tf32=tf32).inner_values(names, *args)
    found = None
    for (node, _, name), value in zip(probes, values, strict=True):
        ratio = _ratio(value, own[name], exact[name])
        if ratio > OBVIOUS:
            found = (node, ratio)
            break
    divergence = _described(found, model, folder)
    _reproduce(traced, arguments, leaves, file, folder, own, exact, divergence, baked)
    return divergence


def _probes(model: onnx.ModelProto, traced: Traced) -> list[tuple[onnx.NodeProto, str, str]]:
    """The ONNX nodes and outputs that are recorded operations' values, with those operations' names, in order."""
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    nodes = traced.graph.graph.nodes
    examples = {node.name: node.meta.get("val") for node in nodes}
    picked = {(node.args[0].name, node.args[1]): node.name for node in nodes if node.target is operator.getitem}
    last: dict[str, tuple[onnx.NodeProto, str]] = {}
    for node in model.graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
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
    rmse, eager, norm = (float(x.square().mean().sqrt()) for x in (difference, own.double() - target, target))
    yardstick = max(eager, _FLOOR_ULP * torch.finfo(own.dtype).eps * norm)
    return rmse / yardstick if yardstick else (math.inf if rmse else 0.0)


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
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    return Divergence(node.name, node.op_type, metadata.get("path", ""), metadata.get("source", ""), ratio, str(folder))


def _reproduce(
    traced: Traced,
    arguments: Arguments,
    leaves: Sequence[torch.Tensor],
    file: Path,
    folder: Path,
    own: dict[str, Any],
    exact: dict[str, Any],
    divergence: Divergence,
    baked: Collection[int],
) -> None:
    """Write model.onnx, inputs.npz, expected.npz and reproduce.py."""
    shutil.copyfile(file, folder / "model.onnx")
    for data in stored_tensors.data_files(file, stored_tensors.find(file, protobuf_wire.read_header(file))):
        _linked(data, folder / data.name)
    half = (torch.bfloat16,)
    inputs = {
        name: (leaf.float() if leaf.dtype in half else leaf).detach().cpu().numpy()
        for name, leaf, owner in zip(arguments.leaf_names, leaves, arguments.owner, strict=True)
        if owner not in baked
    }
    output = traced.graph.graph.find_nodes(op="output")[0]
    expected: dict[str, Any] = {}
    for name, item in zip(traced.out_names, output.args[0], strict=True):
        target, eager = exact[item.name].double(), own[item.name].double()
        expected[name] = target.cpu().numpy()
        expected[f"yardstick.{name}"] = (
            np.sqrt(np.mean((eager - target).square().cpu().numpy())) if target.numel() else 0.0
        )
    np.savez(folder / "inputs.npz", allow_pickle=False, **inputs)
    np.savez(folder / "expected.npz", allow_pickle=False, **expected)
    (folder / "reproduce.py").write_text(
        _SCRIPT.replace(
            "DIVERGENCE", repr(f"{divergence.node} ({divergence.op}) {divergence.path} {divergence.source}")
        )
    )
