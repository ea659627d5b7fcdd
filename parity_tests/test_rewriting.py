"""Rewrites of the graph that a compiled function runs: the same values, by fewer or faster kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.func import grad, jvp, vmap

import export
import pure
from export.compiler.rewriting import rewrite
from export.compiler.rewriting.blocked_convolutions import BLOCKED, channels_in_a_block
from parity_tests.static_models import gemm, model_of, rewritten
from pure import nets
from pure.skips import pre_norm

DOUBLE = TensorProto.DOUBLE


SQUARES = {"a": [4, 5], "b": [5, 6], "c": [4, 6]}


def test_a_product_adds_what_is_added_to_it() -> None:
    nodes = [gemm("a", "b", out="p"), helper.make_node("Add", ["c", "p"], ["y"])]
    assert rewritten(model_of(nodes, SQUARES, {"y": [4, 6]})) == {"Gemm": 1}


def test_the_later_of_two_products_adds_the_earlier() -> None:
    nodes = [gemm("a", "b", out="p"), gemm("d", "e", out="q", transB=1), helper.make_node("Add", ["q", "p"], ["y"])]
    model = model_of(nodes, {**SQUARES, "d": [4, 3], "e": [6, 3]}, {"y": [4, 6]})
    assert rewritten(model) == {"Gemm": 2}
    assert [len(node.input) for node in model.graph.node] == [2, 3]


@pytest.mark.parametrize("second", ["output", "reader", "bias"])
def test_a_product_that_is_read_elsewhere_or_adds_already_is_left(second: str) -> None:
    product = gemm("a", "b", *["c"] * (second == "bias"), out="p")
    nodes = [product, helper.make_node("Add", ["c", "p"], ["y"])]
    outputs = {"y": [4, 6]}
    if second == "output":
        outputs["p"] = [4, 6]
    if second == "reader":
        nodes.append(helper.make_node("Exp", ["p"], ["z"]))
        outputs["z"] = [4, 6]
    assert rewritten(model_of(nodes, SQUARES, outputs), changed=False)["Add"] == 1


def test_what_is_wider_than_the_product_is_not_added_inside() -> None:
    nodes = [gemm("a", "b", out="p"), helper.make_node("Add", ["c", "p"], ["y"])]
    inputs = {"a": [1, 5], "b": [5, 6], "c": [4, 6]}
    assert rewritten(model_of(nodes, inputs, {"y": [4, 6]}), changed=False)["Add"] == 1


def test_a_factor_moves_into_the_product_before_it_and_scales_its_bias() -> None:
    nodes = [gemm("a", "b", "c", out="p"), helper.make_node("Mul", ["p", "k"], ["y"])]
    assert rewritten(model_of(nodes, SQUARES, {"y": [4, 6]}, k=np.float32(0.3))) == {"Gemm": 1}


def test_a_factor_moves_into_the_products_after_it() -> None:
    nodes = [
        helper.make_node("Mul", ["k", "a"], ["s"]),
        gemm("s", "b", "c", out="y"),
        gemm("s", "a", out="z", transB=1),
    ]
    model = model_of(nodes, SQUARES, {"y": [4, 6], "z": [4, 4]}, k=np.float32(0.3))
    assert rewritten(model) == {"Gemm": 2}


def test_a_factor_that_float32_cannot_hold_stays_where_values_have_more_digits() -> None:
    nodes = [gemm("a", "b", out="p"), helper.make_node("Mul", ["p", "k"], ["y"])]
    model = model_of(nodes, SQUARES, {"y": [4, 6]}, DOUBLE, k=np.float64(0.1))
    assert rewritten(model, changed=False, tolerance=1e-15)["Mul"] == 1
    model = model_of(nodes, SQUARES, {"y": [4, 6]}, DOUBLE, k=np.float64(0.25))
    assert rewritten(model, tolerance=1e-15) == {"Gemm": 1}


@pytest.mark.parametrize("factor", [0.0, np.inf, np.nan])
def test_a_factor_that_changes_infinities_stays(factor: float) -> None:
    nodes = [gemm("a", "b", out="p"), helper.make_node("Mul", ["p", "k"], ["y"])]
    model = model_of(nodes, SQUARES, {"y": [4, 6]}, k=np.float32(factor))
    assert not rewrite(model)


def test_elementwise_work_between_products_is_done_on_rows() -> None:
    make = helper.make_node
    nodes = [
        gemm("a", "b", out="p"),
        make("Reshape", ["p", "three"], ["p3"]),
        make("Add", ["p3", "bias"], ["h"]),
        make("Relu", ["h"], ["r"]),
        make("Softmax", ["r"], ["s"], axis=-1),
        make("ReduceMean", ["s", "last"], ["m"], keepdims=1),
        make("Sub", ["s", "m"], ["d"]),
        make("Reshape", ["d", "two"], ["d2"]),
        gemm("d2", "e", out="y"),
    ]
    stored = {"three": [2, 3, 6], "two": [6, 6], "last": [-1]}
    model = model_of(nodes, {"a": [6, 5], "b": [5, 6], "bias": [6], "e": [6, 2]}, {"y": [6, 2]}, **stored)
    found = rewritten(model)
    assert found["Reshape"] == 0
    assert found["Add"] == 0  # a bias is then inside the product too


def test_what_mixes_the_leading_axes_keeps_its_shape() -> None:
    make = helper.make_node
    nodes = [
        make("Reshape", ["a", "three"], ["a3"]),
        make("Mul", ["a3", "column"], ["h"]),
        make("Reshape", ["h", "two"], ["h2"]),
        make("Exp", ["h2"], ["y"]),
    ]
    stored = {"three": [2, 3, 6], "two": [6, 6]}
    model = model_of(nodes, {"a": [6, 6], "column": [3, 1]}, {"y": [6, 6]}, **stored)
    assert rewritten(model, changed=False)["Reshape"] == 2


def test_views_of_views_are_views_of_the_first() -> None:
    make = helper.make_node
    nodes = [
        make("Unsqueeze", ["a", "axis"], ["u"]),
        make("Transpose", ["u"], ["t"], perm=[1, 0, 2]),
        make("Reshape", ["t", "two"], ["r"]),
        make("Exp", ["r"], ["y"]),
    ]
    model = model_of(nodes, {"a": [4, 6]}, {"y": [4, 6]}, axis=[0], two=[4, 6])
    assert rewritten(model) == {"Exp": 1}


def test_a_spread_value_is_spread_by_the_sum_that_reads_it() -> None:
    make = helper.make_node
    nodes = [
        make("Expand", ["a", "shape"], ["e"]),
        make("Div", ["e", "k"], ["d"]),
        make("Neg", ["d"], ["n"]),
        make("Add", ["n", "b"], ["y"]),
    ]
    model = model_of(nodes, {"a": [4, 1], "b": [4, 6]}, {"y": [4, 6]}, shape=[4, 6], k=np.float32(6))
    assert rewritten(model) == {"Div": 1, "Neg": 1, "Add": 1}


@pytest.mark.parametrize("why", ["output", "outer sum", "maximum"])
def test_a_value_that_nothing_else_spreads_is_spread(why: str) -> None:
    make = helper.make_node
    last = {
        "output": make("Sub", ["e", "k"], ["y"]),
        "outer sum": make("Add", ["e", "row"], ["y"]),
        "maximum": make("Max", ["e", "k"], ["y"]),
    }[why]
    nodes = [make("Expand", ["a", "shape"], ["e"]), last]
    stored = {"shape": [4, 6], "k": np.float32(6), "row": np.ones((1, 6), np.float32)}
    assert rewritten(model_of(nodes, {"a": [4, 1]}, {"y": [4, 6]}, **stored), changed=False)["Expand"] == 1


def test_an_output_that_is_a_view_is_returned_as_its_base() -> None:
    nodes = [helper.make_node("Exp", ["a"], ["e"]), helper.make_node("Reshape", ["e", "flat"], ["y"])]
    model = model_of(nodes, {"a": [4, 6]}, {"y": [24]}, flat=[24])
    assert rewritten(model) == {"Exp": 1}
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [4, 6]


@pytest.mark.parametrize("why", ["base is an input", "base is an output", "read on"])
def test_an_output_that_must_be_a_view_stays_one(why: str) -> None:
    make = helper.make_node
    nodes, outputs = [make("Exp", ["a"], ["e"]), make("Reshape", ["e", "flat"], ["y"])], {"y": [24]}
    if why == "base is an input":
        nodes = [make("Reshape", ["a", "flat"], ["y"])]
    if why == "base is an output":
        outputs["e"] = [4, 6]
    if why == "read on":
        nodes.append(make("Softmax", ["y"], ["z"]))
        outputs["z"] = [24]
    assert rewritten(model_of(nodes, {"a": [4, 6]}, outputs, flat=[24]), changed=False)["Reshape"] == 1


def convolution(kind: str, **attributes: Any) -> list[onnx.NodeProto]:
    """Return a convolution of x with w."""
    return [helper.make_node(kind, ["x", "w"], ["y"], **attributes)]


CHANNELS = 2 * channels_in_a_block()
MAP = [3, CHANNELS, 8, 8]
WEIGHT = [CHANNELS, CHANNELS, 3, 3]
BLOCKS = pytest.mark.skipif(channels_in_a_block() == 1, reason="ONNX Runtime has no blocked kernels on this processor")


@BLOCKS
@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"pads": [1] * 4}, 8),
        ({"pads": [1] * 4, "strides": [2, 2]}, 4),
        ({"pads": [0, 1, 2, 1]}, 8),
        ({"pads": [2] * 4, "dilations": [2, 2]}, 8),
        ({}, 6),
    ],
)
def test_a_convolution_with_a_given_weight_is_blocked(attributes: dict[str, Any], size: int) -> None:
    model = model_of(convolution("Conv", **attributes), {"x": MAP, "w": WEIGHT}, {"y": [3, CHANNELS, size, size]})
    assert rewritten(model, tolerance=1e-5)["ReorderInput"] == 1


@BLOCKS
@pytest.mark.parametrize(("attributes", "size"), [({"pads": [1] * 4}, 8), ({"dilations": [2, 2], "pads": [2] * 4}, 8)])
def test_a_transposed_convolution_of_stride_one_is_blocked(attributes: dict[str, Any], size: int) -> None:
    weight = [CHANNELS, 2 * CHANNELS, 3, 3]
    nodes = convolution("ConvTranspose", **attributes)
    model = model_of(nodes, {"x": MAP, "w": weight}, {"y": [3, 2 * CHANNELS, size, size]})
    found = rewritten(model, tolerance=1e-5)
    assert (found["ConvTranspose"], found["Conv"]) == (0, 1)


@BLOCKS
def test_a_weight_that_the_graph_turns_is_ordered_from_its_source() -> None:
    nodes = [
        helper.make_node("Transpose", ["v"], ["t"], perm=[1, 0, 2, 3]),
        helper.make_node("Slice", ["t", "last", "first", "axes", "last"], ["w"]),
        *convolution("Conv", pads=[1] * 4),
    ]
    stored = {"last": [-1, -1], "first": [-(2**31)] * 2, "axes": [2, 3]}
    model = model_of(nodes, {"x": MAP, "v": [CHANNELS, 2 * CHANNELS, 3, 3]}, {"y": [3, 2 * CHANNELS, 8, 8]}, **stored)
    assert rewritten(model, tolerance=1e-5)["Slice"] == 0


@BLOCKS
def test_the_second_of_two_blocked_convolutions_adds_the_first() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["p"], pads=[1] * 4),
        helper.make_node("Conv", ["x", "v", "bias"], ["q"], pads=[1] * 4),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    model = model_of(nodes, {"x": MAP, "w": WEIGHT, "v": WEIGHT, "bias": [CHANNELS]}, {"y": MAP})
    found = rewritten(model, tolerance=1e-5)
    assert (found["Add"], found["ReorderInput"], found["ReorderOutput"]) == (0, 1, 1)


@BLOCKS
@pytest.mark.parametrize("what", ["groups", "pointwise", "odd channels", "stored"])
def test_what_blocked_kernels_do_no_better_is_left(what: str) -> None:
    weight = {"groups": [CHANNELS, CHANNELS // 2, 3, 3], "pointwise": [CHANNELS, CHANNELS, 1, 1]}.get(what, WEIGHT)
    pads = [0 if what == "pointwise" else 1] * 4
    if what == "odd channels":
        weight = [CHANNELS - 1, CHANNELS, 3, 3]
    nodes = convolution("Conv", pads=pads, group=2 if what == "groups" else 1)
    shape = [3, weight[0], 8, 8]
    inputs, stored = {"x": MAP, "w": weight}, {}
    if what == "stored":
        stored["w"] = np.ones(inputs.pop("w"), np.float32)
    model = model_of(nodes, inputs, {"y": shape}, **stored)
    rewritten(model, changed=False)
    assert BLOCKED not in {node.domain for node in model.graph.node}


Case = tuple[Callable[..., Any], tuple[Any, ...]]


def derivatives(block: pure.Block, x: torch.Tensor) -> dict[str, Case]:
    """Return the output and derivatives of a block by its weights, in double precision too."""
    params, state = block.init(torch.Generator().manual_seed(0))

    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        return block(params, x, pure.tree.cast(state, x.dtype)).square().mean()

    def along(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, direction, x: jvp(lambda params: fn(params, x), (params,), (direction,))

    direction = pure.tree.tree_map(torch.cos, params)
    return {
        "loss": (loss, (params, x)),
        "gradient": (grad(loss), (params, x)),
        "per sample": (vmap(grad(lambda params, one: loss(params, one[None])), (None, 0)), (params, x)),
        "jvp": (along(loss), (params, direction, x)),
        "Hessian product": (along(grad(loss)), (params, direction, x)),
    }


def small_resnet() -> pure.Block:
    """Two residual blocks of two convolutions each, with norms that keep their statistics."""

    def unit() -> pure.Block:
        conv, norm = pure.Conv2d(CHANNELS, CHANNELS, 3, padding=1), pure.BatchNorm(CHANNELS)
        return pure.Sequential(conv1=conv, norm1=norm, act=pure.Activation("relu"), conv2=conv, norm2=norm)

    return pure.Sequential(one=pure.Residual(unit()), two=pure.Residual(unit()))


def small_transformer() -> pure.Block:
    """A pre-norm transformer block."""
    attention = pre_norm(pure.Attention(16, 2, fused=True), pure.LayerNorm(16))
    mlp = pure.Sequential(fc1=pure.Linear(16, 32), act=pure.Activation("gelu"), fc2=pure.Linear(32, 16))
    return pure.Sequential(attention=attention, mlp=pre_norm(mlp, pure.LayerNorm(16)))


NETWORKS = {
    "mlp": (lambda: nets.residual_mlp(8, 8, 3, 0.3), (4, 8)),
    "transformer": (small_transformer, (2, 5, 16)),
    "resnet": (small_resnet, (2, CHANNELS, 8, 8)),
}


@pytest.mark.parametrize("transform", ["loss", "gradient", "per sample", "jvp", "Hessian product"])
@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_derivatives_are_those_of_the_function(name: str, transform: str) -> None:
    make, shape = NETWORKS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    fn, args = derivatives(make(), x)[transform]
    expected = pure.tree.leaves(fn(*pure.tree.cast(args, torch.float64)))
    scale = max(leaf.abs().max().item() for leaf in expected)
    for given, leaf in zip(pure.tree.leaves(export.jit(fn, device="cpu")(*args)), expected, strict=True):
        torch.testing.assert_close(given.double(), leaf, rtol=1e-4, atol=1e-5 * scale)
