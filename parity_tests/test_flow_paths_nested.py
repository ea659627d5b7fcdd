"""Branches inside branches count once, each, or the innermost alone; what comes before a branch is outside it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pure
from pure import flow
from pure.skips import Residual

DOUBLE = torch.float64
X, V = torch.zeros(1, 1, dtype=DOUBLE), torch.ones(1, 1, dtype=DOUBLE)


def times(factor: float) -> pure.Block:
    return pure.Function(lambda x: factor * x)


def polynomial(block: Any, **given: Any) -> list[float]:
    """The spectrum of a linear scalar network is a polynomial in its branches."""
    found = flow.path_spectrum(block, {}, X, V, **given)
    return [round(value, 12) for value in found.components.flatten().tolist()]


INNER = pure.Sequential(*[Residual(times(3.0))] * 2)  # (1 + 3z)²


@pytest.mark.parametrize(
    ("count", "expected"),
    [("outermost", [1.0, 32.0]), ("innermost", [3.0, 12.0, 18.0]), ("all", [1.0, 2.0, 12.0, 18.0])],
)
def test_a_branch_that_holds_branches(count: Any, expected: list[float]) -> None:
    """1 + z · 2(1 + 3w)²: with w = 1, with z = 1, and with w = z."""
    block = Residual(pure.Sequential(INNER, times(2.0)))
    assert polynomial(block, count=count) == expected


def test_three_levels() -> None:
    block = pure.Sequential(*[Residual(Residual(Residual(times(2.0))))] * 2)  # one block: 1 + z(1 + z(1 + 2z))
    assert polynomial(block) == [1.0, 8.0, 16.0]
    assert polynomial(block, count="innermost") == [9.0, 12.0, 4.0]
    assert polynomial(block, count="all") == [1.0, 2.0, 3.0, 6.0, 5.0, 4.0, 4.0]


def test_a_residual_block_as_the_shortcut_is_not_inside_the_branch() -> None:
    block = Residual(times(2.0), Residual(times(3.0)))  # (1 + 3z) + 2z
    assert polynomial(block) == [1.0, 5.0]
    assert flow.path_spectrum(block, {}, X, V).paths == (1, 2)


def test_a_network_before_a_functions_own_branch_is_not_inside_it() -> None:
    def own(params: Any, x: Tensor) -> Tensor:
        h: Tensor = INNER({}, x)
        return h + pure.tag(2 * h, "own", kind="branch")

    assert polynomial(own) == [1.0, 8.0, 21.0, 18.0]  # (1 + 3z)² (1 + 2z)
    found = flow.path_spectrum(own, {}, X, V)
    assert found.labels == ("0.branch", "1.branch", "own")
    assert found.paths == (1, 3, 3, 1)


def test_a_scope_makes_ones_own_branches_nest() -> None:
    def layer(x: Tensor) -> Tensor:
        return x + pure.tag(3 * x, "inner", kind="branch")

    def flat(params: Any, x: Tensor) -> Tensor:
        return x + pure.tag(layer(layer(x)), "outer", kind="branch")

    def scoped(params: Any, x: Tensor) -> Tensor:
        with pure.tags.scope("f"):
            f = layer(layer(x))
        return x + pure.tag(f, "outer", kind="branch")

    assert polynomial(scoped) == [1.0, 16.0]
    assert polynomial(flat) == polynomial(scoped, count="all") == [1.0, 1.0, 6.0, 9.0]


def test_a_gate_on_the_carry_alone_counts_with_its_branch() -> None:
    """y = σ(x) x + z · x at 0: the carry is 1/2, its gate's derivative 0; at 1 the gate's derivative counts."""

    def block(params: Any, x: Tensor) -> Tensor:
        t = pure.tag(torch.sigmoid(x), "gate", kind="gate")
        return t * x + pure.tag(2 * x, "branch", kind="branch")

    one = torch.ones_like(X)
    s = float(torch.sigmoid(one))
    found = flow.path_spectrum(block, {}, one, V)
    torch.testing.assert_close(found.components.flatten(), torch.tensor([s, 2 + s * (1 - s)], dtype=DOUBLE))
    assert found.through_gates is not None
    torch.testing.assert_close(found.through_gates.flatten(), torch.tensor([0, s * (1 - s)], dtype=DOUBLE))


def test_dense_paths_go_over_all_edges() -> None:
    """Each layer adds 2 times the mean of all before: a path is any set of layers in order."""

    def net(params: Any, x: Tensor) -> Tensor:
        seen = [x]
        for layer in range(3):
            seen.append(pure.tag(2 * torch.stack(seen).sum(0), f"layer{layer}", kind="branch"))
        return torch.stack(seen).sum(0)

    assert polynomial(net) == [1.0, 6.0, 12.0, 8.0]
    assert flow.path_spectrum(net, {}, X, V).paths == (1, 3, 3, 1)


def test_branches_side_by_side_are_never_passed_together() -> None:
    def net(params: Any, x: Tensor) -> Tensor:
        return x + pure.tag(2 * x, "a", kind="branch") + pure.tag(3 * x, "b", kind="branch")

    assert polynomial(net) == [1.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("factor", [1e-4, 1.0, 50.0])
def test_hundreds_of_blocks_neither_overflow_nor_vanish(factor: float, dtype: torch.dtype) -> None:
    """J_k = C(300, k) a^k, up to 10^512."""
    net = pure.Sequential(*[Residual(times(factor))] * 300)
    found = flow.path_spectrum(net, {}, X.to(dtype), V.to(dtype))
    reverse = flow.path_spectrum_of_loss(lambda params, x: net(params, x).sum(), {}, X.to(dtype))
    expected = [math.log2(math.comb(300, k)) + k * math.log2(factor) for k in range(301)]
    far = 300 * math.log2(1 + factor) > 500
    for result in (found, reverse):
        assert (result.exponent != 0) == far
        for k, logarithm in enumerate(expected):
            if logarithm - result.exponent > -1000:  # the rest is below what float64 holds
                assert math.log2(result[k]) + result.exponent == pytest.approx(logarithm, abs=1e-3)
        assert math.log2(float(result.whole)) + result.exponent == pytest.approx(300 * math.log2(1 + factor), abs=1e-3)
        assert result.norms.isfinite().all()
        assert float(result.shares.sum()) == pytest.approx(1)
