"""Small models of static shapes, rewritten and run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from export.compiler.rewriting import rewrite

__all__ = ["gemm", "model_of", "rewritten", "run"]

Array = np.ndarray[Any, np.dtype[Any]]

FLOAT = TensorProto.FLOAT


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int]],
    outputs: dict[str, list[int]],
    kind: int = FLOAT,
    **stored: Any,
) -> onnx.ModelProto:
    """Return a model of float tensors with its inner shapes inferred."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Run a model as it is."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def rewritten(model: onnx.ModelProto, *, changed: bool = True, tolerance: float = 1e-6) -> Counter[str]:
    """Rewrite a model, check that it computes the same, and count its operators."""
    rng = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
    feeds = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    before = run(model, feeds)
    assert rewrite(model) is changed
    for old, new in zip(before, run(model, feeds), strict=True):
        new = new.reshape(old.shape)
        np.testing.assert_allclose(new, old, rtol=0, atol=tolerance * np.abs(old).max())
    return Counter(node.op_type for node in model.graph.node)


def gemm(*inputs: str, out: str, **attributes: Any) -> onnx.NodeProto:
    """Return a product."""
    return helper.make_node("Gemm", inputs, [out], **attributes)
