"""Measured gradients follow the closed forms that hold at random initialisation, exactly or at finite width."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pure
from pure import flow, nets

FLOAT64 = torch.float64
LIMIT = 3.0


def z_score(ratios: Tensor, expected: float) -> float:
    """How many standard errors the mean of independent draws lies from its expectation."""
    return float((ratios.mean() - expected) / (ratios.std() / math.sqrt(len(ratios))))


def normal(generator: torch.Generator, variance: float, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=FLOAT64) * math.sqrt(variance)


def residual_params(generator: torch.Generator, width: int, hidden: int, depth: int) -> dict[str, Any]:
    """U with variance 2/hidden, V with variance 1/width, no biases: the layer x + αVσ(Ux)."""
    layers: dict[str, Any] = {}
    for layer in range(depth):
        fc1 = {"weight": normal(generator, 2 / hidden, hidden, width), "bias": torch.zeros(hidden, dtype=FLOAT64)}
        fc2 = {"weight": normal(generator, 1 / width, width, hidden), "bias": torch.zeros(width, dtype=FLOAT64)}
        layers[str(layer)] = {"branch": {"fc1": fc1, "fc2": fc2}}
    return layers


@pytest.mark.parametrize(("width", "hidden", "scale"), [(16, 16, 0.5), (12, 24, 0.7)])
def test_residual_activation_gradients_grow_as_one_plus_alpha_squared(width: int, hidden: int, scale: float) -> None:
    """E‖∂loss/∂x_l‖² / ‖∂loss/∂x_L‖² = (1 + α²)^(L − l), exact at any width.

    V is independent of everything below it and U's rows are symmetric in sign, so that E‖Jᵀu‖² = 1 + α² a layer.
    """
    depth, draws = 6, 400
    block = nets.residual_mlp(width, hidden, depth, scale=scale)
    generator = torch.Generator().manual_seed(0)
    ratios = torch.empty(draws, depth, dtype=FLOAT64)
    for draw in range(draws):
        params = residual_params(generator, width, hidden, depth)
        x, u = normal(generator, 1.0, 1, width), normal(generator, 1.0, width)
        norms = flow.gradient_norms(lambda p, x, u=u: (block(p, x) @ u).sum(), params, x, kinds="stream")
        squares = torch.tensor([a.l2**2 for a in norms.activations.values()], dtype=FLOAT64)
        ratios[draw] = squares / squares[-1]
    for layer in range(depth - 1):
        z = z_score(ratios[:, layer], (1 + scale**2) ** (depth - 1 - layer))
        assert abs(z) < LIMIT, f"layer {layer}: z = {z:.2f}"
    assert z_score(ratios[:, 0], 1.0) > LIMIT, "no growth at all is rejected"
    assert abs(z_score(ratios[:, 0], (1 + scale) ** (depth - 1))) > LIMIT, "growth by 1 + α is rejected"


def test_a_plain_he_network_keeps_the_gradient_in_the_mean() -> None:
    """Without skips and with weights of variance 2/fan_out, E‖∂loss/∂x_l‖² stays equal over depth."""
    width, depth, draws = 24, 4, 600
    layer = pure.Sequential(linear=pure.Linear(width, width, bias=False), act=pure.Activation("relu"))
    block = pure.Sequential(*[layer] * depth)
    generator = torch.Generator().manual_seed(1)
    ratios = torch.empty(draws, dtype=FLOAT64)
    for draw in range(draws):
        params = {str(i): {"linear": {"weight": normal(generator, 2 / width, width, width)}} for i in range(depth)}
        x, u = normal(generator, 1.0, 1, width), normal(generator, 1.0, width)

        def loss(params: Any, x: Tensor, u: Tensor = u) -> Tensor:
            return (block(params, pure.tag(x, "input")) @ u).sum()

        ratios[draw] = flow.gradient_norms(loss, params, x).activations["input"].l2 ** 2 / float(u @ u)
    assert abs(z_score(ratios, 1.0)) < LIMIT
    # The fourth moment of the law gives the spread: Var = (1 + 5/n)^L − 1, heavy-tailed, so only its order is checked.
    assert 0.5 < float(ratios.var()) / ((1 + 5 / width) ** depth - 1) < 2.0


def test_a_linear_networks_gradient_is_the_product_of_its_matrices() -> None:
    block = pure.Repeat(pure.Residual(pure.Linear(5, 5, bias=False)), 4)
    params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
    x, u = normal(torch.Generator().manual_seed(1), 1.0, 3, 5), normal(torch.Generator().manual_seed(2), 1.0, 5)
    found = flow.gradient_norms(lambda p, x: (block(p, x) @ u).sum(), params, x).activations
    backward = u
    for depth in reversed(range(4)):
        expected = backward.norm().item()
        assert found[f"{depth}.stream"].sample_l2.tolist() == [pytest.approx(expected, rel=1e-12)] * 3
        backward = backward + params["branch"]["weight"][depth].T @ backward


def test_per_sample_gradients_of_a_zero_branch_are_those_of_a_linear_model() -> None:
    """At W₂ = 0 a residual layer is the identity: ∂loss/∂W₁ is 0 and ∂loss/∂W₂ is g σ(W₁x)ᵀ."""
    block = nets.residual_mlp(5, 7, 1)
    params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
    branch = params["0"]["branch"]
    branch["fc2"] = {name: torch.zeros_like(leaf) for name, leaf in branch["fc2"].items()}
    x = normal(torch.Generator().manual_seed(1), 1.0, 4, 5)
    norms = flow.per_sample_norms(lambda p, x: block(p, x[None]).square().sum() / 2, params, x)
    hidden = torch.relu(x @ branch["fc1"]["weight"].T + branch["fc1"]["bias"])
    assert norms["0.branch.fc1.weight"].tolist() == [0.0] * 4
    torch.testing.assert_close(norms["0.branch.fc2.weight"], x.norm(dim=1) * hidden.norm(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(norms["0.branch.fc2.bias"], x.norm(dim=1), rtol=1e-12, atol=0)
