"""Singular values of Jacobians: exact for known maps, one answer by all methods, and the closed laws."""

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pure
from parity_tests import theory_ensembles as ensembles
from parity_tests.test_flow_plots import check_layout
from pure import flow, nets
from pure.errors import ArgumentError, DtypeError, UnsupportedError
from pure.flow import theory
from pure.flow.shared.estimate import estimate, ratio

FLOAT64 = torch.float64
LIMIT = 3.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=FLOAT64)


def orthogonal(size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


def of_block(block: pure.Block, seed: int = 0) -> Any:
    params, state = block.init(seeded(seed), FLOAT64)
    return lambda x: block(params, x[None], state)[0]


METHODS: list[dict[str, Any]] = [
    {"method": "full"},
    {"method": "golub-kahan", "k": 6},
    {"method": "lanczos", "generator": seeded(5)},
]


@pytest.mark.parametrize("shape", [(12, 12), (7, 15), (15, 7)])
def test_a_linear_map_has_the_singular_values_it_was_given(shape: tuple[int, int]) -> None:
    values = torch.linspace(3, 0.5, min(shape), dtype=FLOAT64)
    W = (orthogonal(shape[0])[:, : len(values)] * values) @ orthogonal(shape[1], 1)[:, : len(values)].T
    found = flow.jacobian_spectrum(lambda x: W @ x, normal(shape[1]))
    assert found.shape == shape
    torch.testing.assert_close(found.values, values, rtol=0, atol=1e-13)
    assert found["m1"] == pytest.approx(float(values.square().sum()) / shape[1], abs=1e-13)
    assert found["m2"] == pytest.approx(float(values.pow(4).sum()) / shape[1], abs=1e-12)
    assert found["condition"] == pytest.approx(6.0, abs=1e-11)
    assert found.moments["m1"].probes == 0


@pytest.mark.parametrize("options", METHODS, ids=lambda options: options["method"])
def test_an_orthogonal_network_has_ones_only(options: dict[str, Any]) -> None:
    layers = [orthogonal(20, seed) for seed in range(4)]

    def fn(x: Tensor) -> Tensor:
        for W in layers:
            x = W @ x
        return x

    found = flow.jacobian_spectrum(fn, normal(20, seed=9), **options)
    torch.testing.assert_close(found.values, torch.ones_like(found.values), rtol=0, atol=1e-13)
    assert found.converged.all()
    for name in ("m1", "m2", "m2/m1²"):
        assert found[name] == pytest.approx(1.0, abs=1e-12)


NETWORKS = {
    "residual": (nets.residual_mlp(24, 40, 5), (24,)),
    "tanh, narrower": (pure.Sequential(pure.Linear(30, 50), pure.Activation("tanh"), pure.Linear(50, 18)), (30,)),
    "tanh, wider": (pure.Sequential(pure.Linear(18, 50), pure.Activation("tanh"), pure.Linear(50, 30)), (18,)),
    "convolutions": (
        pure.Sequential(pure.Conv2d(2, 4, 3, padding=1), pure.Activation("gelu"), pure.Conv2d(4, 3, 3, stride=2)),
        (2, 6, 6),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_three_methods_agree(name: str) -> None:
    block, shape = NETWORKS[name]
    fn, x = of_block(block), normal(*shape, seed=1)
    J = torch.func.jacrev(fn)(x).reshape(-1, x.numel())
    full = flow.jacobian_spectrum(fn, x)
    torch.testing.assert_close(full.values, torch.linalg.svdvals(J), rtol=0, atol=1e-12)
    top = flow.jacobian_spectrum(fn, x, k=8, method="golub-kahan")
    assert top.converged.all()
    torch.testing.assert_close(top.values, full.values[:8], rtol=0, atol=1e-10)
    density = flow.jacobian_spectrum(fn, x, method="lanczos", probes=64, generator=seeded(7))
    squares = J.T @ J
    for moment, exact in (("m1", squares.trace()), ("m2", (squares @ squares).trace())):
        found = density.moments[moment]
        assert abs(found.value - float(exact) / x.numel()) < LIMIT * found.standard_error
    grid = torch.linspace(0, float(full.values[0]) ** 2, 7, dtype=FLOAT64)
    width = float(grid[1])
    smeared, exact = density.density(grid, width=width), full.density(grid, width=width)
    assert ((smeared.value - exact.value).abs() <= 1.8 * (smeared.high - smeared.value)).all()
    assert (exact.low == exact.high).all()


def test_a_rank_deficient_jacobian_is_singular() -> None:
    W = normal(20, 3) @ normal(3, 16, seed=1)
    full = flow.jacobian_spectrum(lambda x: W @ x, normal(16, seed=2))
    assert full.condition == math.inf
    assert (full.values[3:] < 1e-12).all()
    top = flow.jacobian_spectrum(lambda x: W @ x, normal(16, seed=2), k=5, method="golub-kahan")
    torch.testing.assert_close(top.values, full.values[:5], rtol=0, atol=1e-12)
    assert top.converged.all()


def test_a_constant_has_a_jacobian_of_zeros() -> None:
    for options in METHODS:
        found = flow.jacobian_spectrum(lambda x: 0 * x, normal(8), **options)
        assert found["m1"] == 0
        assert (found.values == 0).all()


def test_a_batch_is_each_sample_by_itself() -> None:
    fn, xs = of_block(nets.residual_mlp(10, 16, 3)), normal(4, 10, seed=1)
    alone = [flow.jacobian_spectrum(fn, x) for x in xs]
    for options in ({}, {"method": "golub-kahan", "k": 10}):
        together = flow.jacobian_spectrum(fn, xs, batched=True, **options)
        assert together.values.shape == (4, 10)
        torch.testing.assert_close(together.values, torch.stack([one.values for one in alone]), rtol=0, atol=1e-10)
    exact = flow.jacobian_spectrum(fn, xs, batched=True)
    assert exact["m1"] == pytest.approx(sum(one["m1"] for one in alone) / 4, rel=1e-13)
    assert exact.moments["m1"].probes == 4
    torch.testing.assert_close(exact.condition, torch.stack([one.condition for one in alone]), rtol=1e-9, atol=0)
    sampled = flow.jacobian_spectrum(fn, xs, batched=True, method="lanczos", generator=seeded(3), probes=200)
    assert sampled["m1"] == pytest.approx(exact["m1"], rel=0.1)
    assert sampled.moments["m1"].probes == 4, "the probes of one sample are not independent samples"
    grid = torch.linspace(0, 3, 40, dtype=FLOAT64)
    share = (exact.values.square()[:, :, None] <= grid).double().mean((0, 1))
    _, low, high = sampled.rule.cumulative(grid)
    assert ((low <= share + 1e-12) & (share <= high + 1e-12)).all()


def test_trees_in_and_out() -> None:
    A, B = normal(4, 3), normal(2, 5, seed=1)
    x = {"a": normal(3, seed=2), "b": (normal(5, seed=3),)}
    found = flow.jacobian_spectrum(lambda x: [A @ x["a"], {"y": B @ x["b"][0]}], x)
    expected = torch.cat([torch.linalg.svdvals(A), torch.linalg.svdvals(B)]).sort(descending=True).values
    assert found.shape == (6, 8)
    torch.testing.assert_close(found.values[:5], expected, rtol=0, atol=1e-13)
    together = flow.jacobian_spectrum(
        lambda x: [A @ x["a"], {"y": B @ x["b"][0]}], {"a": x["a"][None], "b": (x["b"][0][None],)}, batched=True
    )
    torch.testing.assert_close(together.values[0], found.values, rtol=0, atol=1e-13)


def test_float32_stays_within_its_rounding() -> None:
    block = nets.residual_mlp(32, 32, 4)
    params, _ = block.init(seeded(), FLOAT64)
    x, small = normal(32, seed=1), pure.cast(params, torch.float32)
    exact = flow.jacobian_spectrum(lambda x: block(params, x[None])[0], x)
    for options in ({}, {"method": "golub-kahan", "k": 5}):
        found = flow.jacobian_spectrum(lambda x: block(small, x[None])[0], x.float(), **options)
        assert found.values.dtype == FLOAT64
        torch.testing.assert_close(found.values, exact.values[: len(found.values)], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", METHODS, ids=lambda options: options["method"])
def test_singular_values_whose_squares_leave_float32(options: dict[str, Any]) -> None:
    found = flow.jacobian_spectrum(lambda x: x * 1e30, torch.ones(12), **options)
    assert found["m1"] == pytest.approx(1e60, rel=1e-5)
    assert found["m2"] == pytest.approx(1e120, rel=1e-5)


def test_attention_that_fused_kernels_cannot_differentiate_forwards() -> None:
    def fn(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)

    x = normal(1, 1, 6, 4)
    full = flow.jacobian_spectrum(fn, x)
    top = flow.jacobian_spectrum(fn, x, k=4, method="golub-kahan")
    torch.testing.assert_close(top.values, full.values[:4], rtol=0, atol=1e-10)


class Cube(torch.autograd.Function):
    """An operation without a forward derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * 3 * ctx.saved_tensors[0] ** 2


def test_an_operation_without_a_forward_derivative() -> None:
    x = normal(6)
    for options in ({}, {"method": "golub-kahan", "k": 6}):
        found = flow.jacobian_spectrum(lambda x: Cube.apply(x), x, **options)
        expected = (3 * x**2).sort(descending=True).values
        torch.testing.assert_close(found.values, expected, rtol=1e-12, atol=1e-12)


def test_a_wide_map_chooses_its_method() -> None:
    def fn(x: Tensor) -> Tensor:
        return torch.cumsum(x, 0) / 600

    x = torch.ones(600, dtype=FLOAT64)
    exact = 1 / (2 * torch.sin(torch.arange(1, 4, dtype=FLOAT64).mul(2).sub(1) * math.pi / (4 * 600 + 2))) / 600
    found = flow.jacobian_spectrum(fn, x, k=3)
    assert found.method == "golub-kahan"
    torch.testing.assert_close(found.values, exact, rtol=0, atol=1e-12)
    assert flow.jacobian_spectrum(fn, x, generator=seeded(), probes=2, steps=4).method == "lanczos"
    with pytest.raises(ArgumentError, match=r"600 × 600 needs random probes: give generator"):
        flow.jacobian_spectrum(fn, x)


# --- laws at initialisation ---------------------------------------------------------------------------------------


def measured_ratio(block: pure.Block, width: int, draws: int) -> tuple[float, float]:
    """m₂/m₁² over draws of the weights, with its standard error by the jackknife."""
    first, second = [], []
    for draw in range(draws):
        found = flow.jacobian_spectrum(of_block(block, 100 + draw), normal(width, seed=draw))
        first.append(found["m1"])
        second.append(found["m2"])
    found_ratio = ratio(torch.tensor(second), torch.tensor(first))
    return found_ratio.value, found_ratio.standard_error


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_gaussian_linear_networks_spread_by_depth_plus_one(depth: int) -> None:
    value, error = measured_ratio(ensembles.linear(96, depth), 96, 12)
    assert abs(value - (depth + 1)) < LIMIT * error + depth**2 / 96
    assert abs(value - (depth + 2)) > LIMIT * error


def test_orthogonal_relu_networks_spread_as_gaussian_linear_ones_do() -> None:
    depth, width = 4, 128
    value, error = measured_ratio(ensembles.plain([width] * (depth + 1), orthogonal=True), width, 12)
    assert abs(value - theory.plain_spectrum_ratio(depth, "orthogonal relu")) < LIMIT * error + 0.25
    gaussian, _ = measured_ratio(ensembles.plain([width] * (depth + 1)), width, 12)
    assert gaussian > 1.4 * value, "Gaussian ReLU layers add twice as much"


def test_the_top_edge_of_a_product_of_gaussian_matrices() -> None:
    width, depth = 400, 2
    fn = of_block(ensembles.linear(width, depth), 3)
    top = flow.jacobian_spectrum(fn, normal(width), k=1, method="golub-kahan")["largest σ"] ** 2
    assert top == pytest.approx(theory.gaussian_product_edge(depth), rel=0.06)


@pytest.mark.parametrize(("depth", "square"), [(4, 1 / 4), (10, 1 / 10)])
def test_residual_networks_have_the_moments_of_the_law_at_finite_depth(depth: int, square: float) -> None:
    width, draws = 96, 12
    block = ensembles.residual(width, width, [math.sqrt(square)] * depth)
    first = []
    for draw in range(draws):
        first.append(flow.jacobian_spectrum(of_block(block, 500 + draw), normal(width, seed=draw))["m1"])
    mean = estimate(torch.tensor(first))
    assert abs(mean.value - (1 + square) ** depth) < LIMIT * mean.standard_error
    value, error = measured_ratio(block, width, draws)
    assert abs(value - theory.residual_spectrum_ratio([square] * depth)) < LIMIT * error + 0.06
    assert abs(value - theory.residual_spectrum_ratio([square] * (depth - 1))) > LIMIT * error, "told from L − 1"


# --- results and errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", METHODS, ids=lambda options: options["method"])
def test_the_result_reads_as_numbers_a_table_and_json(options: dict[str, Any]) -> None:
    found = flow.jacobian_spectrum(of_block(nets.residual_mlp(8, 8, 2)), normal(8, seed=1), **options)
    numbers = dict(found)
    assert set(numbers) >= {"m1", "m2", "m2/m1²"}
    assert all(name in found.table() for name in numbers)
    assert json.loads(json.dumps(found.to_dict()))["shape"] == [8, 8]
    assert f"by {found.method}" in repr(found)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("options", METHODS, ids=lambda options: options["method"])
def test_every_result_has_its_picture(options: dict[str, Any], batched: bool) -> None:
    pytest.importorskip("matplotlib")
    block = ensembles.linear(30, 2)
    x = normal(3, 30, seed=1) if batched else normal(30, seed=1)
    found = flow.jacobian_spectrum(of_block(block), x, batched=batched, **options)
    figure = found.plot(theory=theory.gaussian_product_density(2), edges=(0.0, theory.gaussian_product_edge(2)))
    check_layout(figure)
    labels = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    if found.method != "golub-kahan":
        assert {"measured", "theory", "theory's edges"} <= labels


def test_the_drawn_histogram_holds_the_whole_spectrum() -> None:
    pytest.importorskip("matplotlib")
    W = normal(20, 12) @ normal(12, 20, seed=1)
    found = flow.jacobian_spectrum(lambda x: W @ x, normal(20, seed=2))
    axes = found.plot(bins=10).axes[0]
    area = sum(bar.get_height() * bar.get_width() for bar in axes.patches)
    assert area == pytest.approx(12 / 20, rel=1e-12)
    assert "(40% are 0," in axes.get_title(loc="left")


def test_a_result_that_has_not_converged_says_so() -> None:
    W = normal(200, 200)
    found = flow.jacobian_spectrum(lambda x: W @ x, normal(200, seed=1), k=3, method="golub-kahan", max_products=6)
    assert not found.converged.all()
    assert "not converged" in repr(found)
    assert (found.residuals > 1e-3).any()


def test_what_the_largest_values_alone_do_not_tell() -> None:
    found = flow.jacobian_spectrum(lambda x: 2 * x, normal(20), k=3, method="golub-kahan")
    with pytest.raises(ArgumentError, match="use 'lanczos'"):
        found.density(torch.ones(1))
    with pytest.raises(ArgumentError, match="method='full'"):
        _ = found.condition


def noisy(x: Tensor) -> Tensor:
    return x * torch.rand(())


def in_place(x: Tensor) -> Tensor:
    return x.mul_(2)


BAD: dict[str, tuple[Any, Any, dict[str, Any], type[Exception], str]] = {
    "no function": (3, torch.ones(3), {}, ArgumentError, "fn is int: expected a function"),
    "NaN in x": (torch.sin, torch.tensor([1.0, math.nan]), {}, UnsupportedError, "x holds NaN"),
    "NaN in fn(x)": (torch.log, -torch.ones(2), {}, UnsupportedError, r"fn\(x\) holds NaN"),
    "an infinite derivative": (torch.sqrt, torch.zeros(2), {}, UnsupportedError, "product .* holds NaN or infinity"),
    "random numbers": (noisy, torch.ones(3), {}, UnsupportedError, "draws random numbers"),
    "in place": (in_place, torch.ones(3), {}, UnsupportedError, "changes x in place"),
    "a number out": (lambda x: 3.0, torch.ones(3), {}, ArgumentError, r"fn\(x\) is float"),
    "nothing out": (lambda x: None, torch.ones(3), {}, ArgumentError, "NoneType without tensors"),
    "integers out": (lambda x: x.argsort(), torch.ones(3), {}, DtypeError, "int64, which has no derivative"),
    "integers in": (torch.neg, torch.arange(3), {}, DtypeError, "x is torch.int64"),
    "k too large": (torch.sin, torch.ones(3), {"k": 4}, ArgumentError, "k=4 .* 3 × 3: expected 1 to 3"),
    "k of 0": (torch.sin, torch.ones(3), {"k": 0}, ArgumentError, "expected 1 to 3"),
    "no k": (torch.sin, torch.ones(3), {"method": "golub-kahan"}, ArgumentError, "without k"),
    "no generator": (torch.sin, torch.ones(3), {"method": "lanczos"}, ArgumentError, "give generator"),
    "k of a density": (torch.sin, torch.ones(3), {"method": "lanczos", "k": 1}, ArgumentError, "finds a density"),
    "a method": (torch.sin, torch.ones(3), {"method": "svd"}, ArgumentError, "method='svd'"),
    "a chunk of 0": (torch.sin, torch.ones(3), {"chunk_size": 0}, ArgumentError, "chunk_size=0"),
    "no samples": (torch.sin, torch.ones(0, 3), {"batched": True}, ArgumentError, "0 samples"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(case: str) -> None:
    fn, x, options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        flow.jacobian_spectrum(fn, x, **options)


def test_the_callers_tensor_is_left_as_it_was() -> None:
    x = torch.ones(3)
    with pytest.raises(UnsupportedError):
        flow.jacobian_spectrum(in_place, x)
    assert x.tolist() == [1.0, 1.0, 1.0]


def test_inside_a_transform() -> None:
    with pytest.raises(UnsupportedError, match=r"inside a torch\.func transform"):
        torch.func.grad(lambda x: flow.jacobian_spectrum(torch.sin, x).values.sum())(torch.ones(3))
