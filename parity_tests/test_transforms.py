"""pure.grad and pure.value_and_grad are torch.func's gradients, whoever is outermost."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch.func import jvp, vmap

import pure
from pure import nets, tree
from pure.errors import ArgumentError, DtypeError, ShapeError


def example() -> tuple[Any, Any, torch.Tensor]:
    block = nets.residual_mlp(4, 8, 3, 0.5, "tanh")
    params, _ = block.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (lambda p, x: block(p, x).square().sum()), params, x


def close(a: Any, b: Any) -> None:
    left, right = tree.flatten(a), tree.flatten(b)
    assert list(left) == list(right)
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1, 0), -1])
def test_alone_it_equals_torch_func(argnums: Any) -> None:
    loss, params, x = example()
    theirs, value = torch.func.grad_and_value(loss, argnums)(params, x)
    ours_value, ours = pure.value_and_grad(loss, argnums)(params, x)
    close(ours, theirs)
    close(ours_value, value)
    assert not ours_value.requires_grad
    close(pure.grad(loss, argnums)(params, x), theirs)
    assert not any(leaf.requires_grad for leaf in tree.leaves(params)), "the caller's leaves stay as they are"


def test_inside_other_transforms_it_is_torch_func() -> None:
    loss, params, x = example()
    rows = x[:, None]
    close(vmap(pure.grad(loss), (None, 0))(params, rows), vmap(torch.func.grad(loss), (None, 0))(params, rows))
    tangent = torch.ones_like(x)
    by_input = pure.grad(loss, 1)
    close(
        jvp(lambda v: by_input(params, v), (x,), (tangent,)),
        jvp(lambda v: torch.func.grad(loss, 1)(params, v), (x,), (tangent,)),
    )
    close(
        pure.grad(lambda v: by_input(params, v).sum())(x),
        torch.func.grad(lambda v: torch.func.grad(loss, 1)(params, v).sum())(x),
    )
    compiled = torch.compile(by_input, fullgraph=True, backend="eager")
    close(compiled(params, x), by_input(params, x))


def test_outer_autograd_sees_through_it() -> None:
    loss, params, x = example()
    leaf = x.clone().requires_grad_()
    pure.grad(loss, 1)(params, leaf).square().sum().backward()
    reference = x.clone().requires_grad_()
    torch.func.grad(loss, 1)(params, reference).square().sum().backward()
    close(leaf.grad, reference.grad)


def test_aux_no_grad_and_unused_leaves() -> None:
    def loss(params: Any, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        y = x * params["used"]
        return y.sum(), {"y": y}

    params = {"used": torch.ones(2), "unused": torch.ones(3)}
    with torch.no_grad():
        (value, aux), gradient = pure.value_and_grad(loss, has_aux=True)(params, torch.ones(2))
    assert float(value) == 2.0
    assert not aux["y"].requires_grad
    assert torch.equal(gradient["unused"], torch.zeros(3))
    only, aux = pure.grad(loss, has_aux=True)(params, torch.ones(2))
    assert torch.equal(only["used"], torch.ones(2))
    constant = pure.grad(lambda p: torch.zeros(()))(params)
    assert torch.equal(constant["used"], torch.zeros(2))


def test_bad_requests_are_typed_errors() -> None:
    with pytest.raises(ShapeError, match=r"returned \(2,\), expected a scalar"):
        pure.grad(lambda x: x * 2)(torch.ones(2))
    with pytest.raises(DtypeError, match=r"int64, expected floating point"):
        pure.grad(lambda p: p["n"].sum())({"n": torch.ones(2, dtype=torch.int64)})
    with pytest.raises(DtypeError, match="leaf is int, expected a tensor"):
        pure.grad(lambda p: p["n"])({"n": 3})
    with pytest.raises(ArgumentError, match="argnums=2 of a call with 1 arguments"):
        pure.grad(torch.sin, 2)(torch.ones(()))


def test_a_gradient_inside_may_close_over_what_the_outer_one_differentiates() -> None:
    x, w = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])

    def outer(gradient: Any) -> Any:
        return gradient(lambda w: gradient(lambda v: (w * v**2).sum())(x).sum())(w)

    assert torch.equal(outer(pure.grad), torch.tensor([2.0, 4.0]))
    assert torch.equal(outer(pure.grad), outer(torch.func.grad))


def test_inference_mode_and_its_tensors() -> None:
    with torch.inference_mode():
        x = torch.ones(2)
        assert torch.equal(pure.grad(lambda v: v.square().sum())(x), torch.full((2,), 2.0))
    assert torch.equal(pure.grad(lambda v: v.square().sum())(x), torch.full((2,), 2.0))


def test_an_ordered_dict_is_a_tree_too() -> None:
    gradient = pure.grad(lambda p: p["a"].square().sum())(OrderedDict(a=torch.ones(2)))
    assert torch.equal(gradient["a"], torch.full((2,), 2.0))


def test_one_argument_twice_or_a_missing_aux_is_refused() -> None:
    for argnums in ((0, 0), (0, -1), ()):
        with pytest.raises(ArgumentError, match="different arguments"):
            pure.grad(lambda x: x.sum(), argnums)(torch.ones(2))
    for wrong in (lambda x: x * 2, lambda x: (x.sum(), 1, 2)):
        with pytest.raises(ArgumentError, match=r"expected \(value, aux\)"):
            pure.grad(wrong, has_aux=True)(torch.ones(2))
