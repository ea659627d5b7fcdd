"""`memory`: the bytes that a file needs while it runs, from its graph alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime

from export.devices import size_flow
from export.errors import ArgumentError, nearest
from export.files.opening import open_model
from export.footprint.arena import held_bytes
from export.footprint.graph_values import GraphValues, graph_values
from export.footprint.lifetimes import Step, alive_at, lifetimes
from export.footprint.memory_use import AliveValue, MemoryUse, NodeMemory
from export.footprint.size_formulas import put_sizes
from export.graph.functions.function_calls import Calls, read_calls
from export.graph.functions.function_inlining import inline
from export.runtime import sessions
from export.runtime.onnxruntime_errors import ERRORS, translated
from export.runtime.saved_graph import save_to, saved_graph

__all__ = ["measure", "memory"]


def memory(path: str | os.PathLike[str], *, sizes: Mapping[str, int] | None = None) -> MemoryUse:
    """Compute the bytes that a file keeps alive while it runs on a CPU, node by node, without running it.

    ONNX Runtime optimises the file as `load` has it do; its graph, in its order, is then followed: what each node
    allocates, what lies on an input's memory, what kernels take for themselves, and what nothing reads any more.

    Args:
        path: a file that `to_onnx` wrote, or any other ONNX file.
        sizes: a number for each dynamic size, by name: `sizes={"batch": 32}`.

    Returns:
        The peak, what is alive there, and every node. `.table()` shows it.

    Raises:
        ArgumentError: if `sizes` does not name exactly the file's dynamic sizes.
        LoadError: if there is no such file, or ONNX Runtime refuses it.

    Example:
        >>> import tempfile, torch
        >>> from export.graph.onnx_export import to_onnx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = to_onnx(lambda x: x.exp().sum(), (torch.ones(256),), folder + "/sum.onnx")
        ...     memory(exported.path).peak_bytes
        1028
    """
    open_model(path)  # which raises for what is no model, or a damaged one
    named = [dim for value in size_flow.skeleton(path).graph.input for dim in _names(value)]
    wanted = list(dict.fromkeys(named))
    given = dict(sizes or {})
    problems = [f"{name}: not given{nearest(name, set(given) - set(wanted))}" for name in wanted if name not in given]
    problems += [f"{name}: the file has no such size{nearest(name, wanted)}" for name in given if name not in wanted]
    problems += [
        f"{name}: must be a whole number from 0 on, got {size!r}"
        for name, size in given.items()
        if isinstance(size, bool) or not isinstance(size, int) or size < 0
    ]
    if problems:
        raise ArgumentError(
            f"sizes does not fit {Path(path).name}, whose dynamic sizes are {', '.join(wanted) or 'none'}:"
            + "".join(f"\n  - {line}" for line in problems)
        )
    return measure(path, given)


def measure(path: str | os.PathLike[str], sizes: Mapping[str, int]) -> MemoryUse:
    """Compute what `memory` does for a file that was looked at already, whose dynamic sizes these are."""
    model = _optimised(path, {})
    _make_readable(model.graph, read_calls(path))
    recorded = inline(size_flow.skeleton(path)).graph
    values = _inferred(model, recorded, sizes)
    if sizes and any(name not in values.bytes for node in model.graph.node for name in node.output if name):
        fixed = _optimised(path, sizes)  # knows more shapes, but is another graph: what depends on sizes alone is gone
        _make_readable(fixed.graph, read_calls(path))
        put_sizes(fixed.graph, sizes)
        put_sizes(recorded, sizes)
        values = values.filled(_inferred(fixed, recorded, sizes))
    return _measured(model.graph, values, Path(path), dict(sizes))


def _inferred(model: onnx.ModelProto, recorded: onnx.GraphProto, sizes: Mapping[str, int]) -> GraphValues:
    """Return what is known of a graph's values, what the file itself says of them included."""
    computed = bool(sizes)  # sizes that are computed are followed; that can take hundreds of MiB
    own = graph_values(onnx.shape_inference.infer_shapes(model, data_prop=computed).graph, sizes)
    more = onnx.ModelProto()
    more.CopyFrom(model)
    known = {value.name for value in model.graph.value_info}
    more.graph.value_info.extend(value for value in recorded.value_info if value.name not in known)
    try:
        inferred = onnx.shape_inference.infer_shapes(more, data_prop=computed).graph
    except onnx.shape_inference.InferenceError:  # a value's axes were permuted, and its name was kept: the bytes stay
        inferred = recorded
    return own.filled(graph_values(inferred, sizes))


def _make_readable(graph: onnx.GraphProto, calls: Calls) -> None:
    """Name nodes and values as the file does: ONNX Runtime renames those of functions."""
    for node in graph.node:
        node.name = calls.readable(node.name)
        node.input[:] = [calls.readable(name) for name in node.input]
        node.output[:] = [calls.readable(name) for name in node.output]
    for value in (*graph.value_info, *graph.initializer):
        value.name = calls.readable(value.name)


def _optimised(path: str | os.PathLike[str], sizes: Mapping[str, int]) -> onnx.ModelProto:
    """Return the graph that ONNX Runtime makes of a file, without weights."""
    options = sessions.session_options(sessions.Choice("cpu", "asked for"), os.fspath(path), None, spinning=False)
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    with saved_graph() as saved:
        save_to(options, saved)
        try:
            onnxruntime.InferenceSession(os.fspath(path), options, providers=[sessions.CPU], enable_fallback=0)
        except ERRORS as error:
            raise translated(error, path) from error
        return onnx.load(saved, load_external_data=False)


def _measured(graph: onnx.GraphProto, values: GraphValues, path: Path, sizes: dict[str, int]) -> MemoryUse:
    """Follow a graph whose nodes are in the order in which they run."""
    threads = os.cpu_count() or 1
    steps = lifetimes(graph.node, values, threads, sizes)
    top = max(range(len(steps)), key=lambda i: steps[i].live, default=0)
    paths = {node.name: _block(node) for node in graph.node}
    return MemoryUse(
        path=path,
        sizes=sizes,
        threads=threads,
        peak_bytes=steps[top].live if steps else 0,
        held_bytes=held_bytes(steps),
        weight_bytes=values.total(values.stored),
        input_bytes=values.total(values.inputs),
        output_bytes=values.total(values.outputs),
        peak_node=steps[top].node.name if steps else "",
        nodes=tuple(
            NodeMemory(s.node.name, s.node.op_type, paths[s.node.name], sum(s.made.values()), s.workspace, s.live)
            for s in steps
        ),
        alive=_alive(steps, top, values),
        unknown=tuple(name for s in steps for name in s.made if name not in values.bytes),
    )


def _alive(steps: list[Step], top: int, values: GraphValues) -> tuple[AliveValue, ...]:
    if not steps:
        return ()
    makers = {name: step.node for step in steps for name in step.made}
    last = {name: step.node.name for step in steps for name in step.freed}
    found = sorted(alive_at(steps, top).items(), key=lambda item: -item[1])
    return tuple(
        AliveValue(
            name,
            count,
            values.shapes.get(name, ()),
            makers[name].op_type,
            _block(makers[name]),
            last.get(name, "output"),
        )
        for name, count in found
    )


def _block(node: onnx.NodeProto) -> str:
    """Return the path of a node's block, which is the front of its name: ONNX Runtime drops its metadata."""
    front = node.name.rpartition(".")[0]
    return front.rpartition(".")[0]


def _names(value: onnx.ValueInfoProto) -> list[str]:
    return [dim.dim_param for dim in value.type.tensor_type.shape.dim if dim.dim_param]
