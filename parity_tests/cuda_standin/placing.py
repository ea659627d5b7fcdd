"""Where ONNX Runtime's own partitioner puts the nodes of a file; runs in a process on the stand-in."""

from __future__ import annotations

import collections
import dataclasses
import tempfile
from pathlib import Path

import onnx
import onnxruntime

from export.devices import size_flow
from export.graph.function_calls import read_calls
from export.runtime import sessions

__all__ = ["Placement", "place"]

UNKNOWN = "a node that the file does not have"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the nodes of a file would run.

    Attributes:
        cuda: nodes on CUDA.
        sizes: nodes on the CPU that compute sizes alone, {operator: count}.
        data: nodes on the CPU that compute on data: (name, operator, what the value depends on).
        to_gpu: copies from the host that the graph has in every run.
        to_host: copies to the host.
        capturable: whether ONNX Runtime accepts the file for one CUDA graph.
    """

    cuda: int
    sizes: dict[str, int]
    data: tuple[tuple[str, str, str], ...]
    to_gpu: int
    to_host: int
    capturable: bool


def place(path: Path) -> Placement:
    """Create a session on the stand-in and read where its nodes are; it is never run."""
    try:
        session, model = _session(path, cuda_graph=True)
        capturable = True
    except sessions.ERRORS as error:
        if "graph capture" not in str(error):
            raise
        session, model = _session(path, cuda_graph=False)
        capturable = False
    readable = read_calls(path).readable
    flow = size_flow.data_sources(size_flow.skeleton(path))
    optimised = size_flow.data_sources(model)  # has the nodes that ONNX Runtime adds, such as a Gather of sizes
    written = collections.Counter(_kinds(model.graph))
    cuda, sizes, data = 0, collections.Counter[str](), []
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            if part.ep_name == sessions.CUDA:
                cuda += 1
                continue
            key = (readable(node.name), node.op_type)
            seen = flow.get(key) or optimised.get((node.name, node.op_type))
            source = seen.source if seen else UNKNOWN
            if source:
                data.append((*key, source))
            else:
                sizes[node.op_type] += 1
    return Placement(cuda, dict(sizes), tuple(data), written["MemcpyFromHost"], written["MemcpyToHost"], capturable)


def _session(path: Path, *, cuda_graph: bool) -> tuple[onnxruntime.InferenceSession, onnx.ModelProto]:
    """Return a session, and the graph that it would run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = sessions.SILENT
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        providers = [(sessions.CUDA, {"enable_cuda_graph": str(int(cuda_graph)), "use_tf32": "0"}), sessions.CPU]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        if sessions.CUDA not in session.get_providers():
            raise RuntimeError("ONNX Runtime could not start its CUDA provider on the stand-in")
        return session, onnx.load(options.optimized_model_filepath, load_external_data=False)


def _kinds(graph: onnx.GraphProto) -> list[str]:
    found = []
    for node in graph.node:
        found.append(node.op_type)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _kinds(attribute.g)
    return found
