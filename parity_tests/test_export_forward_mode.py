"""Forward derivatives of softmax and GELU: on the terms of the value, and right however transforms are nested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jvp, vmap

import export
from export.ops.registry import LOWERINGS
from export.trace.aten_graph import trace
from pure import tree

X = torch.linspace(-2.0, 2.0, 15, dtype=torch.float64).reshape(3, 5)
V, U = X.cos(), X.sin()

Fn = Callable[[Tensor], Tensor]

FUNCTIONS: dict[str, tuple[Fn, torch.dtype]] = {
    "softmax": (lambda x: F.softmax(x, -1), torch.float64),
    "softmax over the first axis": (lambda x: F.softmax(x, 0), torch.float64),
    "log_softmax": (lambda x: F.log_softmax(x, -1), torch.float64),
    "gelu": (F.gelu, torch.float32),  # ONNX Runtime has no Erf of float64
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), torch.float32),  # nor Cosh
}


def loss(f: Fn) -> Fn:
    """A scalar of a function whose second derivatives do not vanish."""
    return lambda x: (f(x) * torch.cos(x)).sum()


def along(f: Fn, direction: Tensor) -> Fn:
    """The derivative along a direction."""
    return lambda x: jvp(f, (x,), (direction.to(x.dtype),))[1]


COMPOSITIONS: dict[str, Callable[[Fn], Fn]] = {
    "jvp": lambda f: along(f, V),
    "jvp of jvp": lambda f: along(along(f, U), V),
    "jvp of grad": lambda f: along(grad(loss(f)), V),
    "grad of jvp": lambda f: grad(along(loss(f), V)),
    "vmap of jvp": lambda f: vmap(lambda row: along(lambda x: f(x[None])[0], V[0])(row)),
    "jvp of vmap": lambda f: along(vmap(lambda row: f(row[None])[0]), V),
    "jacfwd": jacfwd,
    "hessian": lambda f: hessian(loss(f)),
    "jvp of grad of grad": lambda f: along(grad(lambda x: (grad(loss(f))(x) * U.to(x.dtype)).sum()), V),
    "grad of jvp of jvp": lambda f: grad(along(along(loss(f), U), V)),
}


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_composition_is_the_derivative(name: str, composition: str) -> None:
    f, dtype = FUNCTIONS[name]
    derivative = COMPOSITIONS[composition](f)
    found = export.jit(derivative, device="cpu")(X.to(dtype))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(found.double(), derivative(X), rtol=tolerance, atol=tolerance)


def operators(f: Fn, transform: Callable[[Fn], Fn]) -> Counter[str]:
    """How often each operator is recorded."""
    graph = trace(transform(f), (X,), None, LOWERINGS).graph.graph
    return Counter(str(node.target).split(".")[-2] for node in graph.nodes if "aten" in str(node.target))


def test_a_softmax_and_its_tangent_take_one_softmax() -> None:
    found = operators(FUNCTIONS["softmax"][0], lambda f: lambda x: jvp(f, (x,), (V,)))  # type: ignore[arg-type, return-value]
    assert found - Counter(alias=found["alias"]) == {"_softmax": 1, "mul": 2, "sum": 1, "sub": 1}


def test_gelu_and_its_tangent_share_one_error_function() -> None:
    found = operators(F.gelu, COMPOSITIONS["jvp"])
    assert (found["erf"], found["exp"], found["gelu"]) == (1, 1, 0)


def test_a_tangent_of_half_precision_has_its_dtype() -> None:
    x = X.half()
    value, tangent = export.jit(lambda x: jvp(lambda x: F.softmax(x, -1), (x,), (V.half(),)), device="cpu")(x)
    assert value.dtype == tangent.dtype == torch.float16
    exact = along(lambda x: F.softmax(x, -1), V)(X)
    torch.testing.assert_close(tangent.double(), exact, rtol=0, atol=2e-3 * float(exact.abs().max()))


def test_a_softmax_that_widens_half_precision_has_a_wide_tangent() -> None:
    def pushed(x: Tensor) -> Any:
        return jvp(lambda x: F.softmax(x, -1, dtype=torch.float32), (x,), (V.half(),))

    found = export.jit(pushed, device="cpu")(X.half())
    for given, expected in zip(tree.leaves(found), pushed(X.half()), strict=True):
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)
