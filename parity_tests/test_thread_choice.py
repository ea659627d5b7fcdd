"""How many threads a compiled function gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from torch.func import grad

import export
import pure
from export.compiler.thread_choice import ALL_THREADS, thread_count
from export.runtime import sessions
from parity_tests.static_models import gemm, model_of
from pure import nets

make = helper.make_node


@pytest.mark.parametrize(("rows", "expected"), [(32, 1), (64, 1), (256, ALL_THREADS)])
def test_small_products_get_one_thread(rows: int, expected: int) -> None:
    nodes = [gemm("a", "b", out="y", transA=1)]
    model = model_of(nodes, {"a": [64, rows], "b": [64, 64]}, {"y": [rows, 64]})
    assert thread_count(model.graph) == expected


@pytest.mark.parametrize(("size", "expected"), [(128, 1), (129, ALL_THREADS)])
@pytest.mark.parametrize("kind", ["Exp", "ReduceSum"])
def test_the_largest_value_decides(kind: str, size: int, expected: int) -> None:
    model = model_of([make("Exp", ["x"], ["y"])], {"x": [128, size]}, {"y": [128, size]})
    if kind == "ReduceSum":
        nodes = [make("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
        model = model_of(nodes, {"x": [128, size]}, {"y": [size]}, axes=[0])
    assert thread_count(model.graph) == expected


def test_an_outer_product_has_few_multiplications_and_a_large_result() -> None:
    nodes = [make("MatMul", ["a", "b"], ["y"])]
    model = model_of(nodes, {"a": [32, 64, 1], "b": [32, 1, 64]}, {"y": [32, 64, 64]})
    assert thread_count(model.graph) == ALL_THREADS


@pytest.mark.parametrize(("channels", "expected"), [(8, 1), (64, ALL_THREADS)])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_convolutions_count_their_windows(kind: str, channels: int, expected: int) -> None:
    shape = [1, channels, 8, 8]
    nodes = [make(kind, ["x", "w"], ["y"], pads=[1] * 4)]
    model = model_of(nodes, {"x": shape, "w": [channels, channels, 3, 3]}, {"y": shape})
    assert thread_count(model.graph) == expected


def test_the_bodies_of_a_branch_count() -> None:
    def branch(rows: int) -> Any:
        inner = [make("Exp", ["x"], [f"{rows}"])] if rows == 1 else [gemm("x", "x", out=f"{rows}", transB=1)]
        made = helper.make_tensor_value_info(f"{rows}", 1, [512, 512])
        return helper.make_graph(inner, "branch", [], [made])

    nodes = [make("If", ["flag"], ["y"], then_branch=branch(1), else_branch=branch(2))]
    model = model_of(nodes, {"x": [512, 512]}, {"y": [512, 512]}, flag=np.array(True))
    assert thread_count(model.graph) == ALL_THREADS


@pytest.mark.parametrize("why", ["unknown operator", "unknown shape", "recurrence"])
def test_what_is_not_known_to_be_small_gets_all_threads(why: str) -> None:
    model = model_of([make("Exp", ["x"], ["y"])], {"x": [4, 1, 8]}, {"y": [4, 1, 8]})
    assert thread_count(model.graph) == 1
    if why == "unknown operator":
        model.graph.node[0].domain = "com.microsoft"
    if why == "unknown shape":
        model.graph.output[0].type.tensor_type.ClearField("shape")
    if why == "recurrence":
        weights: dict[str, Any] = {name: np.ones((1, 24, 8), np.float32) for name in ("w", "r")}
        nodes = [make("GRU", ["x", "w", "r"], ["", "y"], hidden_size=8)]
        model = model_of(nodes, {"x": [4, 1, 8]}, {"y": [1, 1, 8]}, **weights)
    assert thread_count(model.graph) == ALL_THREADS


@pytest.mark.parametrize(("width", "expected"), [(16, 1), (512, 0)])
def test_a_session_has_the_threads_that_its_graph_is_worth(
    monkeypatch: pytest.MonkeyPatch, width: int, expected: int
) -> None:
    opened: list[onnxruntime.InferenceSession] = []
    original = sessions.open_session

    def noted(*args: Any, **settings: Any) -> onnxruntime.InferenceSession:
        opened.append(original(*args, **settings))
        return opened[-1]

    monkeypatch.setattr(sessions, "open_session", noted)
    block = nets.residual_mlp(width, width, 2, 0.3)
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(64, width)
    fn = grad(lambda params, x: block(params, x, state).square().mean())
    found = pure.tree.leaves(export.jit(fn, device="cpu")(params, x))
    for given, leaf in zip(found, pure.tree.leaves(fn(params, x)), strict=True):
        torch.testing.assert_close(given, leaf, rtol=1e-4, atol=1e-5)
    assert opened[-1].get_session_options().intra_op_num_threads == expected
