"""Where ONNX Runtime's own partitioner puts the nodes of a file; runs in a process on the stand-in."""

from __future__ import annotations

import collections
import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime

from export.devices import size_flow
from export.graph.functions.function_calls import read_calls
from export.runtime import sessions

__all__ = ["Placement", "place"]

UNKNOWN = "a node that the file does not have"
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


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


def place(model: onnx.ModelProto) -> Placement:
    """Create a session on the stand-in and read where its nodes are; it is never run."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        content = model.SerializeToString()
        try:
            session, optimised = _session(content, folder, cuda_graph=True)
            capturable = True
        except sessions.ERRORS as error:
            if "graph capture" not in str(error):
                raise
            session, optimised = _session(content, folder, cuda_graph=False)
            capturable = False
        readable = _readable(model, content, folder)
    flow: size_flow.Flow = {}
    written = collections.Counter(_kinds(optimised.graph))
    cuda, sizes, data = 0, collections.Counter[str](), []
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            if part.ep_name == sessions.CUDA:
                cuda += 1
                continue
            if not flow:  # the second has the nodes that ONNX Runtime adds, such as a Gather of sizes
                flow = size_flow.data_sources(optimised) | size_flow.data_sources(model)
            key = (readable(node.name), node.op_type)
            seen = flow.get(key) or flow.get((node.name, node.op_type))
            source = seen.source if seen else UNKNOWN
            if source:
                data.append((*key, source))
            else:
                sizes[node.op_type] += 1
    return Placement(cuda, dict(sizes), tuple(data), written["MemcpyFromHost"], written["MemcpyToHost"], capturable)


def _readable(model: onnx.ModelProto, content: bytes, folder: str) -> Callable[[str], str]:
    """Return what makes of ONNX Runtime's name for a node the one that the file has."""
    if not model.functions:
        return str
    path = Path(folder, "file.onnx")
    path.write_bytes(content)
    return read_calls(path).readable


def _session(content: bytes, folder: str, *, cuda_graph: bool) -> tuple[onnxruntime.InferenceSession, onnx.ModelProto]:
    """Return a session, and the graph that it would run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = sessions.SILENT
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.optimized_model_filepath = f"{folder}/optimised.onnx"
    providers = [(sessions.CUDA, {"enable_cuda_graph": str(int(cuda_graph)), "use_tf32": "0"}), sessions.CPU]
    session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
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
