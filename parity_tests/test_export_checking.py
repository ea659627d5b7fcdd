"""The checker sees every node, dtype and shape of a model, without copying the weights."""

import onnx
import pytest
from onnx import TensorProto, helper

from export.errors import UnsupportedOpError
from export.graph import checking


def model(op: str = "MatMul", rows: int = 64, content: bytes | None = None) -> onnx.ModelProto:
    """x @ w, w a weight of 64×64 numbers in the file."""
    weight = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[rows, 64], raw_data=content or bytes(4 * 64 * rows)
    )
    small = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [helper.make_node(op, ["x", "w"], ["y"]), helper.make_node("ReduceSum", ["y", "axes"], ["z"], keepdims=0)]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])]
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch"])]
    graph = helper.make_graph(nodes, "f", given, out, [weight, small])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def test_the_skeleton_has_all_but_the_large_values() -> None:
    whole = model()
    light = checking.skeleton(whole)
    assert light.ByteSize() < 1000 < whole.ByteSize()
    assert [value.name for value in light.graph.input] == ["x", "w"]
    assert [tensor.name for tensor in light.graph.initializer] == ["axes"]
    assert list(light.graph.node) == list(whole.graph.node)
    assert whole.graph.initializer[0].raw_data, "the model itself keeps its weights"
    checking.check(whole)


def test_a_weight_of_a_shape_that_does_not_fit_is_found() -> None:
    with pytest.raises(UnsupportedOpError, match="no valid ONNX") as refusal:
        checking.check(model(rows=32))
    assert refusal.value.op == "MatMul"


def test_an_unknown_operator_is_found() -> None:
    with pytest.raises(onnx.checker.ValidationError, match="MadMul"):
        checking.check(model("MadMul"))


def test_a_weight_with_bytes_missing_is_found() -> None:
    with pytest.raises(onnx.checker.ValidationError, match=r"w of shape \[64, 64\] has 16000 bytes"):
        checking.check(model(content=bytes(16000)))
