"""Norms under every nesting of forward and reverse mode, where PyTorch's kernels are silently wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, hessian, jacfwd, jacrev, jvp

from parity_tests.test_contract import perturbed
from pure import layers, tree
from pure.block import Block
from pure.catalogue import CASES, Case
from pure.interop import from_module

ORDERS = ["".join(kinds) for order in (1, 2, 3) for kinds in itertools.product("GJ", repeat=order)]
TOLERANCE = 1e-10  # relative, of float64


def _plain(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt()


def _nested(f: Callable[[Tensor], Tensor], kinds: str, directions: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the derivative along directions by gradients (G) and forward mode (J), outermost first."""
    if not kinds:
        return f
    inner, along = _nested(f, kinds[1:], directions), directions[len(kinds) - 1]
    if kinds[0] == "G":
        return lambda x: (grad(inner)(x) * along).sum()
    return lambda x: jvp(inner, (x,), (along,))[1]


def _cases() -> dict[str, tuple[Block, Any, Any, tuple[int, ...]]]:
    """Return {name: (block, its params, its state, the normalised axes)} for inputs (4, 6, 5)."""
    generator = torch.Generator().manual_seed(0)
    blocks: dict[str, tuple[Block, tuple[int, ...]]] = {
        "BatchNorm": (layers.BatchNorm(6), (0, 2)),
        "LayerNorm": (layers.LayerNorm(5), (2,)),
        "ChannelNorm": (layers.ChannelNorm(6), (1,)),
    }
    found = {name: (block, *block.init(generator, torch.float64), axes) for name, (block, axes) in blocks.items()}
    modules: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "nn.BatchNorm1d": (nn.BatchNorm1d(6), (0, 2)),
        "nn.LayerNorm": (nn.LayerNorm(5), (2,)),
        "nn.InstanceNorm1d": (nn.InstanceNorm1d(6, affine=True), (2,)),
        "nn.InstanceNorm1d with statistics": (nn.InstanceNorm1d(6, affine=True, track_running_stats=True), (2,)),
    }
    return found | {name: (*from_module(module.double()), axes) for name, (module, axes) in modules.items()}


@pytest.mark.parametrize("kinds", ORDERS)
@pytest.mark.parametrize("name", _cases())
def test_norms_have_right_derivatives_in_every_nesting(name: str, kinds: str) -> None:
    block, params, state, axes = _cases()[name]
    eps = getattr(block, "eps", 1e-5)
    generator = torch.Generator().manual_seed(1)
    x, w, *directions = (torch.randn(4, 6, 5, dtype=torch.float64, generator=generator) for _ in range(5))
    weight, bias = (torch.randn(params["weight"].shape, dtype=torch.float64, generator=generator) for _ in range(2))
    place = (-1,) if name.endswith("LayerNorm") else (-1, 1)

    def ours(x: Tensor) -> Tensor:
        return (block.apply({"weight": weight, "bias": bias}, x, state, {}, True)[0] ** 3 * w).sum()

    def plain(x: Tensor) -> Tensor:
        return ((_plain(x, axes, eps) * weight.reshape(place) + bias.reshape(place)) ** 3 * w).sum()

    found, expected = _nested(ours, kinds, directions)(x), _nested(plain, kinds, directions)(x)
    assert abs(found - expected) <= TOLERANCE * abs(expected)


@pytest.mark.parametrize("name", _cases())
def test_a_forward_derivative_has_the_gradient_of_plain_autograd(name: str) -> None:
    block, params, state, axes = _cases()[name]
    eps = getattr(block, "eps", 1e-5)
    generator = torch.Generator().manual_seed(2)
    given, w, direction = (torch.randn(4, 6, 5, dtype=torch.float64, generator=generator) for _ in range(3))
    gradients = []
    for f in (lambda x: block.apply(params, x, state, {}, True)[0], lambda x: _plain(x, axes, eps)):
        x = given.clone().requires_grad_()
        jvp(lambda x, f=f: (f(x) ** 3 * w).sum(), (x,), (direction,))[1].backward()
        assert x.grad is not None
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=TOLERANCE, atol=1e-9)


@pytest.mark.parametrize("name", _cases())
def test_the_hessian_by_a_mapped_backward_pass_is_that_of_the_formula(name: str) -> None:
    block, params, state, axes = _cases()[name]
    eps = getattr(block, "eps", 1e-5)
    generator = torch.Generator().manual_seed(4)
    x, w = (torch.randn(4, 6, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    weight = torch.randn(params["weight"].shape, dtype=torch.float64, generator=generator)
    place = (-1,) if name.endswith("LayerNorm") else (-1, 1)

    def ours(weight: Tensor) -> Tensor:
        y = block.apply({"weight": weight, "bias": params["bias"]}, x * weight.sum(), state, {}, True)[0]
        return (y**3 * w).sum()

    def plain(weight: Tensor) -> Tensor:
        return ((_plain(x * weight.sum(), axes, eps) * weight.reshape(place)) ** 3 * w).sum()

    torch.testing.assert_close(hessian(ours)(weight), hessian(plain)(weight), rtol=1e-8, atol=1e-8)


def test_the_gradient_of_a_forward_derivative_is_that_of_finite_differences() -> None:
    block = layers.BatchNorm(3)
    params, state = block.init(torch.Generator(), torch.float64)
    generator = torch.Generator().manual_seed(3)
    x, w, t, u = (torch.randn(5, 3, dtype=torch.float64, generator=generator) for _ in range(4))

    def along(x: Tensor) -> Tensor:
        return jvp(lambda x: (block.apply(params, x, state, {}, True)[0] ** 2 * w).sum(), (x,), (t,))[1]

    step = 1e-5
    expected = (along(x + step * u) - along(x - step * u)) / (2 * step)
    assert abs((grad(along)(x) * u).sum() - expected) <= 1e-7 * abs(expected)


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_catalogue_rows_have_one_hessian_by_all_transforms(row: Case) -> None:
    block, params, state, x, extras = perturbed(row)
    x = x if row.tokens is None else x.clamp(min=1)  # a padding index has no gradient by definition
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(0), dtype=torch.float64)
    leaves, spec = tree.tree_flatten(params)
    if not leaves:
        pytest.skip("no parameters")
    generator = torch.Generator().manual_seed(5)
    first, second = (
        [torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator) for leaf in leaves] for _ in range(2)
    )

    def f(z: Tensor) -> Tensor:
        moved = [leaf + z[0] * a + z[1] * b for leaf, a, b in zip(leaves, first, second, strict=True)]
        y = block.apply(tree.tree_unflatten(moved, spec), x, state, extras, True, noise)[0]
        floats = [leaf for leaf in tree.leaves(y) if leaf.is_floating_point()]
        weights = [torch.linspace(0, 1, leaf.numel(), dtype=leaf.dtype).reshape(leaf.shape) for leaf in floats]
        return torch.stack([(leaf**2 * w).sum() for leaf, w in zip(floats, weights, strict=True)]).sum()

    z = torch.zeros(2, dtype=torch.float64)
    expected = jacfwd(grad(f))(z)
    for inner, outer in ((jacrev, jacfwd), (grad, jacrev), (jacrev, jacrev), (jacfwd, jacfwd), (jacfwd, jacrev)):
        found = outer(inner(f))(z)
        assert (found - expected).abs().max() <= 1e-8 * expected.abs().max(), (outer.__name__, inner.__name__)
