"""Where nothing depends on the direction of a forward derivative, its graph multiplies no zeros."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap

import export
from export.ops.registry import LOWERINGS
from export.trace.aten_graph import trace

X = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
W = torch.linspace(0.5, 2.0, 6).reshape(2, 3)
V = W.cos()


def operators(fn: Any, *args: Any, dynamic: Any = None) -> Counter[str]:
    """How often each operator was recorded."""
    graph = trace(fn, args, dynamic, LOWERINGS).graph.graph
    return Counter(str(node.target).split(".")[-2] for node in graph.nodes if "aten" in str(node.target))


def by_weight(w: torch.Tensor, v: torch.Tensor, x: torch.Tensor) -> Any:
    """The forward derivative by the weights; the normalisation before them does not depend on them."""
    return jvp(lambda w: F.layer_norm(x, (3,)) @ w.T, (w,), (v,))


@pytest.mark.parametrize("dynamic", [None, (None, None, {0: "batch"})], ids=["static", "dynamic"])
def test_one_product_for_the_value_and_one_for_its_derivative(dynamic: Any, tmp_path: Path) -> None:
    """The normalisation, which no tangent reaches, stays one operator, with a dynamic size too."""
    found = operators(by_weight, W, V, X, dynamic=dynamic)
    assert found["mm"] == 2
    assert found["native_layer_norm"] == 1
    assert found["add"] == found["mul"] == 0, found
    f = export.to_onnx(by_weight, (W, V, X), tmp_path / "f.onnx", dynamic=dynamic).load("cpu")
    for given, expected in zip(f(W, V, X), by_weight(W, V, X), strict=True):
        torch.testing.assert_close(given, expected)


def test_the_input_of_a_convolution_has_no_derivative_by_its_weights() -> None:
    image, kernel = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3)

    def pushed(kernel: torch.Tensor, v: torch.Tensor, x: torch.Tensor) -> Any:
        return jvp(lambda kernel: F.conv2d(x * 2, kernel), (kernel,), (v,))

    assert operators(pushed, kernel, kernel.cos(), image)["convolution"] == 2


def test_hessian_vector_product_and_vmap(tmp_path: Path) -> None:
    def product(w: torch.Tensor, v: torch.Tensor, x: torch.Tensor) -> Any:
        def loss(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(F.layer_norm(x, (3,)) @ w.T).square().sum()

        return vmap(lambda x: jvp(lambda w: grad(loss)(w, x), (w,), (v,))[1])(x)

    f = export.to_onnx(product, (W, V, X), tmp_path / "f.onnx").load("cpu")
    torch.testing.assert_close(f(W, V, X), product(W, V, X))


def test_zeros_of_the_function_itself_are_computed_with(tmp_path: Path) -> None:
    """0 · ∞ is not a number, where the function says 0 · ∞."""

    def pushed(x: torch.Tensor, v: torch.Tensor) -> Any:
        return jvp(lambda x: torch.zeros(3) * (x / 0) + x, (x,), (v,))

    x = torch.tensor([1.0, 2.0, 3.0])
    assert operators(pushed, x, x)["mul"] == 2
    value, tangent = export.to_onnx(pushed, (x, x), tmp_path / "f.onnx").load("cpu")(x, x)
    assert value.isnan().all()
    assert tangent.isnan().all()


def test_a_sum_that_stretches_its_term_keeps_its_shape(tmp_path: Path) -> None:
    def pushed(x: torch.Tensor, row: torch.Tensor) -> Any:
        return jvp(lambda row: x.sin() + row, (row,), (row,))

    expected = pushed(X, X[0])
    given = export.to_onnx(pushed, (X, X[0]), tmp_path / "f.onnx").load("cpu")(X, X[0])
    assert given[1].shape == (4, 3)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_mean_of_nothing_is_not_zero(tmp_path: Path) -> None:
    def pushed(x: torch.Tensor, w: torch.Tensor) -> Any:
        return jvp(lambda w: (x.detach() * w[:0]).mean(0) + (x * 0).mean(0, keepdim=True) * w.sum(), (w,), (w,))[1]

    x, w = torch.ones(0), torch.ones(2)
    expected = pushed(x, w)
    given = export.to_onnx(pushed, (x, w), tmp_path / "f.onnx").load("cpu")(x, w)
    assert torch.equal(given.isnan(), expected.isnan())
