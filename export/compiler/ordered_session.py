"""A session that frees early: ONNX Runtime's own graph, its nodes in the order in which the function computes."""

from __future__ import annotations

import os

import onnx
import onnxruntime

from export.compiler.rewriting import rewrite
from export.compiler.thread_choice import thread_count
from export.footprint.graph_values import graph_values
from export.footprint.node_order import early_free_order
from export.runtime import sessions
from export.runtime.saved_graph import MAX_STORED_BYTES, saved_graph

__all__ = ["open_ordered"]

_MIN_SAVED_BYTES = 2**20
"""Bytes that another order must save to be worth opening a session again."""


def open_ordered(
    proto: onnx.ModelProto, choice: sessions.Choice, *, cuda_graph: bool = False
) -> tuple[onnxruntime.InferenceSession, int | None]:
    """Open a session of a model; on a CPU one of a rewritten graph, in the order that needs less memory.

    Outputs of the session may have another shape than the model's; see `rewrite`.

    Returns:
        the session, and the bytes alive at once in its calls: results included, arguments and weights not; None where
        the graph was not looked at.
    """
    model = proto.SerializeToString()
    stored = sum(tensor.ByteSize() for tensor in proto.graph.initializer)
    if choice.device != "cpu" or cuda_graph or stored > MAX_STORED_BYTES:
        return sessions.open_session(model, choice, cuda_graph=cuda_graph), None
    declared = thread_count(proto.graph)
    with saved_graph() as path:
        session = sessions.open_session(model, choice, saved=path, threads=declared)
        optimised = onnx.load(path, load_external_data=False)
        graph = optimised.graph
        rewritten = rewrite(optimised)
        # Without `data_prop`, which can take hundreds of MiB; nothing here computes sizes.
        inferred = onnx.shape_inference.infer_shapes(optimised).graph
        values, threads = graph_values(inferred), thread_count(inferred)
        recorded = {name: i for i, node in enumerate(proto.graph.node) for name in node.output}
        order, after, before = early_free_order(graph.node, recorded, values, threads or os.cpu_count() or 1)
        if before - after < _MIN_SAVED_BYTES and not rewritten and threads == declared:
            return session, before
        del session
        nodes = onnx.GraphProto(node=order)
        del graph.node[:]
        graph.node.extend(nodes.node)
        session = sessions.open_session(
            optimised.SerializeToString(), choice, path=path, in_file_order=True, threads=threads
        )
        return session, after
