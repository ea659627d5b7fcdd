"""Transforms of torch.func are recorded as any function is: each file passes the float64 verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import export
from pure import nets

BLOCK = nets.create("residual_mlp", features=4, hidden_features=6, depth=2)
PARAMS, _ = BLOCK.init(torch.Generator().manual_seed(0))
X, Y = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
BATCHES = (None, {0: "batch"}, {0: "batch"})


def loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (BLOCK(params, x) - y).square().mean()


def sample_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return loss(params, x[None], y[None])


def choice(x: torch.Tensor) -> torch.Tensor:
    return torch.cond(x.sum() > 0, lambda a: a.sin(), lambda a: a * 2, (x,))


CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "grad by params": (grad(loss), (PARAMS, X, Y), BATCHES),
    "grad by input": (grad(loss, 1), (PARAMS, X, Y), BATCHES),
    "vmap(grad)": (vmap(grad(sample_loss), (None, 0, 0)), (PARAMS, X, Y), BATCHES),
    "vjp": (lambda p, x, v: vjp(lambda x: BLOCK(p, x), x)[1](v), (PARAMS, X, Y), BATCHES),
    "jvp": (lambda p, x, v: jvp(lambda x: BLOCK(p, x), (x,), (v,)), (PARAMS, X, Y), None),
    "jacrev": (jacrev(lambda p, x: BLOCK(p, x).sum(0), 1), (PARAMS, X), (None, {0: "batch"})),
    "jacfwd": (jacfwd(lambda x: BLOCK(PARAMS, x[None])[0]), (X[0],), None),
    "hessian": (hessian(lambda x: BLOCK(PARAMS, x[None]).square().sum()), (X[0],), None),
    "vmap(cond)": (vmap(choice), (X,), ({0: "batch"},)),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")  # PyTorch's own, in its forward derivatives
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(("fn", "args", "dynamic"), CASES.values(), ids=CASES)
def test_a_transform_is_a_function_like_any_other(fn: Callable[..., Any], args: tuple[Any, ...], dynamic: Any) -> None:
    verdict = export.verify(fn, args, dynamic=dynamic)
    assert verdict.passed, verdict.table()
