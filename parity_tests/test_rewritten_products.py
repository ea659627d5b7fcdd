"""Rewrites of products and sums in the graph that a compiled function runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from parity_tests.static_models import gemm, model_of, rewritten, run

make = helper.make_node


def product(*inputs: str, out: str = "y") -> NodeProto:
    """Return a product of the last two axes."""
    return make("MatMul", inputs, [out])


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes."""
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


HEADS = {"q": [2, 3, 4, 5], "k": [2, 3, 4, 5]}
"""Queries and keys of two samples, three heads, four tokens."""

KEYS_LAST = {"q": [2, 3, 4, 5], "k": [2, 3, 5, 4]}
"""The same with the keys transposed."""


@pytest.mark.parametrize("side", [0, 1])
def test_an_operand_transposed_before_a_reshape_is_read_as_it_was(side: int) -> None:
    names = ["p", "p"]
    names[side] = "r"
    nodes = [
        make("Reshape", ["q", "batch"], ["p"]),
        make("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
        make("Reshape", ["t", "turned"], ["r"]),
        product(*names),
    ]
    size = [5, 4][side]
    model = model_of(nodes, HEADS, {"y": [6, size, size]}, batch=[6, 4, 5], turned=[6, 5, 4])
    found = rewritten(model)
    assert (found["Transpose"], found["MatMul"], found["FusedMatMul"]) == (0, 0, 1)
    assert attributes(model.graph.node[-1])[["transA", "transB"][side]] == 1


def test_factors_of_operands_and_of_a_product_become_one() -> None:
    nodes = [
        make("Mul", ["q", "half"], ["s"]),
        make("Reshape", ["s", "batch"], ["p"]),
        make("Reshape", ["k", "turned"], ["r"]),
        product("p", "r", out="z"),
        make("Reshape", ["z", "heads"], ["h"]),
        make("Mul", ["h", "half"], ["y"]),
    ]
    stored: dict[str, Any] = {"batch": [6, 4, 5], "turned": [6, 5, 4], "heads": [2, 3, 4, 4], "half": np.float32(0.5)}
    model = model_of(nodes, KEYS_LAST, {"y": [2, 3, 4, 4]}, **stored)
    assert rewritten(model)["Mul"] == 0
    (fused,) = (node for node in model.graph.node if node.op_type == "FusedMatMul")
    assert attributes(fused)["alpha"] == 0.25


def test_keys_are_transposed_once_for_all_products_that_read_them() -> None:
    nodes = [
        make("Transpose", ["q"], ["p"], perm=[0, 2, 1, 3]),
        make("Transpose", ["k"], ["t"], perm=[0, 2, 3, 1]),  # tokens last: elements are moved one by one
        product("p", "t", out="s"),
        make("Transpose", ["t"], ["u"], perm=[0, 1, 3, 2]),
        product("s", "u", out="z"),
        make("Exp", ["z"], ["y"]),
    ]
    model = model_of(nodes, {"q": [2, 4, 3, 5], "k": [2, 4, 3, 5]}, {"y": [2, 3, 4, 5]})
    assert rewritten(model, tolerance=1e-5)["Transpose"] == 2
    assert {tuple(attributes(node)["perm"]) for node in model.graph.node if node.op_type == "Transpose"} == {
        (0, 2, 1, 3)
    }


def test_a_transposed_operand_that_something_else_reads_stays() -> None:
    nodes = [
        make("Transpose", ["k"], ["t"], perm=[0, 2, 3, 1]),
        product("q", "t", out="y"),
        make("Exp", ["t"], ["z"]),
    ]
    model = model_of(nodes, {"q": [2, 3, 4, 5], "k": [2, 4, 3, 5]}, {"y": [2, 3, 4, 4], "z": [2, 3, 5, 4]})
    assert rewritten(model, changed=False)["Transpose"] == 1


@pytest.mark.parametrize(("perm", "shape", "left"), [([0, 3, 1, 2], [2, 4, 3, 4], 1), ([0, 1, 3, 2], [2, 3, 4, 4], 0)])
def test_the_transpose_of_a_product_is_computed_by_it(perm: list[int], shape: list[int], left: int) -> None:
    nodes = [
        product("q", "k", out="z"),
        make("Transpose", ["z"], ["t"], perm=perm),
        make("Exp", ["t"], ["y"]),
    ]
    model = model_of(nodes, KEYS_LAST, {"y": shape})
    assert rewritten(model)["Transpose"] == left
    assert list(model.graph.node[0].input) == ["k", "q"]


def test_a_product_that_is_read_elsewhere_is_not_turned() -> None:
    nodes = [product("q", "k", out="z"), make("Transpose", ["z"], ["y"], perm=[0, 1, 3, 2])]
    model = model_of(nodes, KEYS_LAST, {"y": [2, 3, 4, 4], "z": [2, 3, 4, 4]})
    assert rewritten(model, changed=False)["Transpose"] == 1


def test_products_of_double_precision_have_no_fused_kernel_and_stay() -> None:
    nodes = [make("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]), make("Exp", ["t"], ["e"]), product("q", "e", out="y")]
    model = model_of(nodes, HEADS, {"y": [2, 3, 4, 4]}, TensorProto.DOUBLE)
    assert rewritten(model, changed=False, tolerance=1e-14)["MatMul"] == 1


LARGE = {"a": [512, 8], "b": [8, 256], "c": [256], "d": [512, 256]}


@pytest.mark.parametrize("summand", ["c", "d"])
def test_a_large_product_adds_afterwards(summand: str) -> None:
    model = model_of([gemm("a", "b", summand, out="y")], LARGE, {"y": [512, 256]})
    assert rewritten(model) == {"Gemm": 1, "Add": 1}


@pytest.mark.parametrize("why", ["small", "scaled", "narrow rows"])
def test_a_product_adds_inside_where_that_is_no_slower(why: str) -> None:
    inputs, shape, kept = LARGE, [512, 256], {"beta": 0.5} if why == "scaled" else {}
    if why == "small":
        inputs, shape = {"a": [16, 8], "b": [8, 256], "c": [256]}, [16, 256]
    if why == "narrow rows":
        inputs, shape = {"a": [4096, 8], "b": [8, 32], "c": [32]}, [4096, 32]
    model = model_of([gemm("a", "b", "c", out="y", **kept)], inputs, {"y": shape})
    assert rewritten(model, changed=False)["Gemm"] == 1


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    ("shape", "axes", "kept"),
    [([16, 24], [0], [1, 24]), ([4, 6, 24], [0, 1], [1, 1, 24]), ([3, 32, 24], [-2], [3, 1, 24])],
)
def test_a_sum_of_rows_is_a_product_with_ones(
    shape: list[int], axes: list[int], kept: list[int], keepdims: int
) -> None:
    target = (
        kept if keepdims else [size for axis, size in enumerate(kept) if axis not in [a % len(shape) for a in axes]]
    )
    nodes = [make("ReduceSum", ["x", "axes"], ["s"], keepdims=keepdims), make("Exp", ["s"], ["y"])]
    found = rewritten(model_of(nodes, {"x": shape}, {"y": target}, axes=axes))
    assert (found["ReduceSum"], found["MatMul"]) == (0, 1)


@pytest.mark.parametrize(
    ("shape", "axes", "target"),
    [([24, 16], [1], [24]), ([4, 6, 24], [0, 2], [6]), ([64, 4, 4], [1], [64, 4]), ([0, 4], [0], [4])],
    ids=["last axis", "axes apart", "many tiny ones", "nothing"],
)
def test_other_sums_stay(shape: list[int], axes: list[int], target: list[int]) -> None:
    nodes = [make("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    model = model_of(nodes, {"x": shape}, {"y": target}, axes=axes)
    if 0 in shape:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    assert rewritten(model, changed=False)["ReduceSum"] == 1


def test_a_sum_of_one_term_has_no_minus_zero() -> None:
    nodes = [make("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    model = model_of(nodes, {"x": [1, 4]}, {"y": [4]}, axes=[0])
    assert rewritten(model)["ReduceSum"] == 0
    (found,) = run(model, {"x": np.array([[-0.0, 0.0, np.nan, -np.inf]], np.float32)})
    np.testing.assert_array_equal(found, np.array([0.0, 0.0, np.nan, -np.inf], np.float32))
    assert not np.signbit(found[:2]).any()


def test_infinities_and_nan_go_through_a_sum_of_rows() -> None:
    nodes = [make("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    x = np.array([[1, np.inf, np.inf, np.nan], [2, 3, -np.inf, 1]], np.float32)
    model = model_of(nodes, {"x": [2, 4]}, {"y": [4]}, axes=[0])
    rewritten(model)
    np.testing.assert_array_equal(run(model, {"x": x})[0].reshape(4), [3, np.inf, np.nan, np.nan])
