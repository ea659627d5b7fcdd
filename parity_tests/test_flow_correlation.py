"""`flow.correlation` gives the cosines of per-sample gradients, follows the shattering laws; its intervals cover."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import pure
from parity_tests.test_flow_plots import check_layout
from pure import flow, nets
from pure.errors import ArgumentError, ShapeError, UnsupportedError
from pure.flow import plot
from pure.flow.jacobian.autocorrelation import brownian

FLOAT64 = torch.float64
LIMIT = 3.0


def normal(generator: torch.Generator, variance: float, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32) * math.sqrt(variance)


def orthogonal(generator: torch.Generator, count: int, width: int) -> Tensor:
    """Inputs with right angles between them and one norm, √width."""
    return torch.linalg.qr(normal(generator, 1.0, width, count))[0].T.contiguous() * math.sqrt(width)


def kappa_0(angle: float) -> float:
    return 1 - angle / math.pi


def kappa_1(angle: float) -> float:
    return (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.pi


def law(depth: int, alpha: float | None) -> list[float]:
    """Correlation of the gradients by layer l's input at right angles; alpha None is the plain network."""
    factors, angle = [], math.pi / 2
    for _ in range(depth):
        if alpha is None:
            factors.append(kappa_0(angle))
            angle = math.acos(kappa_1(angle))
        else:
            factors.append((1 + alpha**2 * kappa_0(angle)) / (1 + alpha**2))
            angle = math.acos((math.cos(angle) + alpha**2 * kappa_1(angle)) / (1 + alpha**2))
    return [math.prod(factors[layer:]) for layer in range(depth)]


def plain_draws(generator: torch.Generator, width: int, depth: int, draws: int) -> Iterator[Any]:
    for _ in range(draws):
        layers = {str(i): {"linear": {"weight": normal(generator, 2 / width, width, width)}} for i in range(depth)}
        yield {"net": layers, "u": normal(generator, 1.0, width)}


def residual_draws(generator: torch.Generator, width: int, depth: int, draws: int) -> Iterator[Any]:
    zero = torch.zeros(width)
    for _ in range(draws):
        layers = {
            str(i): {
                "branch": {
                    "fc1": {"weight": normal(generator, 2 / width, width, width), "bias": zero},
                    "fc2": {"weight": normal(generator, 1 / width, width, width), "bias": zero},
                }
            }
            for i in range(depth)
        }
        yield {"net": layers, "u": normal(generator, 1.0, width)}


def measured(net: pure.Block, x: Tensor, draws: Iterator[Any]) -> flow.Correlation:
    return flow.correlation(lambda p, x: net(p["net"], x) @ p["u"], x, draws=draws)


def z_scores(found: flow.Correlation, expected: list[float]) -> list[float]:
    points = list(found.values())[: len(expected)]
    return [(p.mean.value - e) / p.mean.standard_error for p, e in zip(points, expected, strict=True)]


def test_the_plain_network_shatters_by_the_arc_cosine_law() -> None:
    """Π(1 − θ_l/π) with θ by the arc-cosine map, and not 2^−L, in which the angle would never close."""
    width, depth, draws = 512, 6, 24
    layer = pure.Sequential(linear=pure.Linear(width, width, bias=False), act=pure.Activation("relu"), out=pure.Tag())
    net, generator = pure.Sequential(*[layer] * depth), torch.Generator().manual_seed(0)
    found = measured(net, orthogonal(generator, 8, width), plain_draws(generator, width, depth, draws))
    assert [point.depth for point in found.values()] == list(range(depth + 1))
    assert max(map(abs, z_scores(found, law(depth, None)))) < LIMIT
    halves = [2.0 ** -(depth - layer) for layer in range(depth)]
    assert z_scores(found, halves)[0] > LIMIT
    assert found["(input)"].mean.low > found["(input)"].chance, "the gradients are not white"


def test_the_residual_network_keeps_its_gradients_alike() -> None:
    width, depth, draws, alpha = 400, 10, 16, 0.6
    net, generator = nets.residual_mlp(width, width, depth, scale=alpha), torch.Generator().manual_seed(1)
    found = measured(net, orthogonal(generator, 6, width), residual_draws(generator, width, depth, draws))
    assert max(map(abs, z_scores(found, law(depth, alpha)))) < LIMIT
    assert z_scores(found, law(depth, None))[0] > LIMIT, "the plain network's law is rejected"


def test_cosines_are_those_of_per_sample_gradients() -> None:
    net = nets.residual_mlp(5, 7, 3)
    params, _ = net.init(torch.Generator().manual_seed(0), FLOAT64)
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=FLOAT64)
    u = torch.randn(2, 5, generator=torch.Generator().manual_seed(2), dtype=FLOAT64)
    found = flow.correlation(lambda x: net(params, x), x, directions=u)
    assert list(found) == ["(input)", "0.stream", "1.stream", "2.stream"]
    layers = list(net.children().values())
    h = x
    for start, point in enumerate(found.values()):
        matrix, squares = torch.zeros(6, 6, dtype=FLOAT64), 0.0
        for direction in u:

            def rest(row: Tensor, start: int = start, direction: Tensor = direction) -> Tensor:
                for index in range(start, 3):
                    row = layers[index](params[str(index)], row[None])[0]
                return row @ direction

            rows = vmap(grad(rest))(h)
            rows = rows / rows.norm(dim=1, keepdim=True)
            matrix += rows @ rows.T / 2
            off = (rows @ rows.T)[~torch.eye(6, dtype=torch.bool)]
            squares += float(off.square().mean()) / 2
        torch.testing.assert_close(point.matrix, matrix, rtol=1e-12, atol=1e-13)
        assert point.mean.value == pytest.approx(float(matrix.sum() - 6) / 30, rel=1e-12)
        assert point.width == 5
        assert point.excess == pytest.approx(5 * squares, rel=1e-12)
        h = h if start == 3 else layers[start](params[str(start)], h)


def test_parallel_and_perpendicular_gradients() -> None:
    x = torch.eye(4, dtype=FLOAT64)
    same = flow.correlation(lambda x: x.sum(1), x)["(input)"]
    assert same.mean.value == pytest.approx(1.0)
    assert same.excess == pytest.approx(4.0), "as much as the width"
    none = flow.correlation(lambda x: x.square().sum(1), x)["(input)"]
    assert none.mean.value == 0.0
    assert 0.0 in none.mean


def white(x: Tensor, generator: torch.Generator, draws: int) -> Iterator[Tensor]:
    """Parameters that are the gradients themselves."""
    for _ in range(draws):
        yield torch.randn(x.shape, generator=generator, dtype=FLOAT64)


def linear(p: Tensor, x: Tensor) -> Tensor:
    return (p * x).sum(1)


@pytest.mark.parametrize("width", [8, 64])
def test_unrelated_gradients_lie_in_the_chance_band_and_have_excess_one(width: int) -> None:
    x, generator, trials = torch.zeros(5, width, dtype=FLOAT64), torch.Generator().manual_seed(0), 1500
    found = [flow.correlation(linear, x, draws=white(x, generator, 1))["(input)"] for _ in range(trials)]
    inside = sum(abs(point.mean.value) < point.chance for point in found) / trials
    assert 0.93 < inside < 0.97
    assert sum(point.excess for point in found) / trials == pytest.approx(1.0, abs=0.05)


def test_the_interval_over_draws_covers() -> None:
    x, generator, trials = torch.zeros(3, 6, dtype=FLOAT64), torch.Generator().manual_seed(0), 1000
    found = [flow.correlation(linear, x, draws=white(x, generator, 4))["(input)"] for _ in range(trials)]
    assert 0.93 < sum(0.0 in point.mean for point in found) / trials < 0.97
    assert found[0].mean.probes == 4


@pytest.mark.parametrize("truth", [0.0, 0.7])
def test_the_interval_of_one_draw_covers_the_cosine_of_normal_vectors(truth: float) -> None:
    width, trials = 40, 1500
    x, generator = torch.zeros(2, width, dtype=FLOAT64), torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(trials):
        first, other = torch.randn(2, width, generator=generator, dtype=FLOAT64)
        rows = torch.stack([first, truth * first + math.sqrt(1 - truth**2) * other])
        covered += truth in flow.correlation(linear, x, draws=[rows])["(input)"].mean
    assert 0.93 < covered / trials < 0.97


def test_a_gradient_of_zero_has_no_cosine() -> None:
    x = torch.tensor([[1.0, 2.0], [-1.0, -1.0], [2.0, 2.0]], dtype=FLOAT64)
    found = flow.correlation(lambda x: x.relu().square().sum(1), x)["(input)"]
    assert found.matrix[1].isnan().all()
    assert found.mean.value == pytest.approx(6 / math.sqrt(40))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["matrix"][0][1] is None


def test_autocorrelation_by_hand_and_by_the_frequency_of_a_wave() -> None:
    x = torch.linspace(0, 1, 400, dtype=FLOAT64)[:, None]
    found = flow.correlation(lambda x: torch.sin(8 * math.pi * x)[:, 0], x, lags=100)
    line = found.autocorrelation
    assert line is not None
    gradients = (8 * math.pi * torch.cos(8 * math.pi * x))[:, 0]
    centred = gradients - gradients.mean()
    for lag in (0, 1, 7, 100):
        expected = float((centred[: 400 - lag] * centred[lag:]).sum() / centred.square().sum())
        assert float(line.mean[lag]) == pytest.approx(expected, rel=1e-12)
    assert float(line.mean[50]) == pytest.approx(-0.875, abs=0.01), "half a period, over 7/8 of the line"
    assert line.half_width.isnan().all()


def test_brownian_motion_and_white_noise() -> None:
    count, lags, draws = 60, 10, 400
    x, generator = torch.zeros(count, 1, dtype=FLOAT64), torch.Generator().manual_seed(0)
    noise = torch.randn(draws, count, 1, generator=generator, dtype=FLOAT64)
    flat = flow.correlation(linear, x, draws=list(noise), lags=lags).autocorrelation
    assert flat is not None
    single = [flow.correlation(linear, x, draws=[rows], lags=lags).autocorrelation for rows in noise[:100]]
    inside = torch.stack([line.mean[1:].abs() < line.white for line in single if line is not None])
    assert 0.93 < float(inside.double().mean()) < 0.98, "a little narrower than the band, by (count − lag) / count"
    walks = noise.cumsum(1)
    centred = walks - walks.mean(1, keepdim=True)
    products = torch.stack([(centred[:, : count - k] * centred[:, k:]).sum((1, 2)) for k in range(lags + 1)], 1)
    torch.testing.assert_close(brownian(count, lags), products.mean(0) / products[:, 0].mean(), rtol=0, atol=0.03)


def test_depth_takes_the_gradients_memory_along_a_line() -> None:
    """The shattering figure: a deep plain network's gradient decorrelates at lag 1, a shallow one's does not."""
    x = torch.linspace(-2, 2, 128)[:, None]
    generator = torch.Generator().manual_seed(0)

    def draws(depth: int) -> Iterator[Any]:
        for _ in range(8):
            stem = {"weight": normal(generator, 1.0, 64, 1), "bias": normal(generator, 1.0, 64)}
            layers = {f"{i}": {"weight": normal(generator, 2 / 64, 64, 64)} for i in range(depth)}
            yield {"stem": stem, "layers": layers, "u": normal(generator, 1.0, 64)}

    def run(p: Any, x: Tensor) -> Tensor:
        h = torch.relu(x @ p["stem"]["weight"].T + p["stem"]["bias"])
        for layer in p["layers"].values():
            h = torch.relu(h @ layer["weight"].T)
        return h @ p["u"]

    shallow = flow.correlation(run, x, draws=draws(1), lags=5).autocorrelation
    deep = flow.correlation(run, x, draws=draws(30), lags=5).autocorrelation
    assert shallow is not None
    assert deep is not None
    assert float(deep.mean[1] + deep.half_width[1]) < float(shallow.mean[1] - shallow.half_width[1])


def test_tokens_have_no_gradient_but_their_streams_have() -> None:
    block, params, state, tokens, _ = pure.catalogue.case("gpt2_tiny").example()
    u = torch.randn(block(params, tokens, state).shape[1:], generator=torch.Generator().manual_seed(0))
    found = flow.correlation(lambda x: block(params, x, state), tokens, directions=u)
    assert "(input)" not in found
    assert [point.depth for point in found.values()] == list(range(1, len(found) + 1))
    assert found.table().count("\n") == len(found) + 1


X = torch.eye(3)


@pytest.mark.parametrize(
    ("fn", "x", "options", "error", "message"),
    [
        (lambda x: x, X, {}, ShapeError, r"3 output values an input, \(3,\): give directions"),
        (lambda x: x.sum(), X, {}, ShapeError, r"returned \(\) for 3 inputs"),
        (lambda x: (x, x), X, {}, ShapeError, "returned tuple for 3 inputs"),
        (lambda x: x, X, {"directions": torch.ones(2)}, ShapeError, r"directions \(2,\): expected \(3,\)"),
        (lambda x: x.sum(1) * torch.nan, X, {}, UnsupportedError, "the outputs hold NaN"),
        (lambda x: torch.ones(3), X, {}, UnsupportedError, "depend on neither the input nor a tagged stream"),
        (lambda x: x.sum(1) * torch.rand(3), X, {}, UnsupportedError, "draws random numbers"),
        (lambda x: x.mul_(2).sum(1), X, {}, UnsupportedError, "works in place"),
        (lambda x: x.sum(1), X[:1], {}, ArgumentError, "expected a tensor of at least two"),
        (lambda x: x.sum(1), [1.0], {}, ArgumentError, "correlation of inputs list"),
        (lambda x: x.sum(1), X / 0, {}, ArgumentError, "x holds NaN"),
        (lambda x: x.sum(1), X, {"lags": 3}, ArgumentError, "lags=3 of 3 inputs: expected 1 to 2"),
        (lambda p, x: x.sum(1), X, {"draws": []}, ArgumentError, "no draws"),
        (lambda p, x: x.sum(1), X, {"draws": [{"w": X / 0}]}, ArgumentError, "params '0.w' holds NaN"),
    ],
    ids=["vector", "scalar", "tuple", "directions", "NaN", "constant", "random", "in place", "one input", "list",
         "NaN given", "lags", "no draws", "NaN in params"],
)  # fmt: skip
def test_errors(fn: Any, x: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        flow.correlation(fn, x, **options)


def test_inside_a_transform() -> None:
    with pytest.raises(UnsupportedError, match=r"inside a torch\.func transform"):
        grad(lambda w: flow.correlation(lambda x: x.sum(1) * w, X)["(input)"].matrix.sum())(torch.ones(()))


def test_pictures() -> None:
    net, generator = nets.residual_mlp(16, 16, 6), torch.Generator().manual_seed(0)
    x = orthogonal(generator, 4, 16)
    found = measured(net, x, residual_draws(generator, 16, 6, 4))
    check_layout(found.plot())
    check_layout(plot.correlation_by_depth({"one": found, "two": found}, guides={"law": law(6, 1.0)}))
    check_layout(plot.gradient_cosines(found, path="2.stream"))
    check_layout(flow.correlation(linear, torch.zeros(5, 3), draws=[torch.ones(5, 3)]).plot())
    line = flow.correlation(lambda x: x.sin().sum(1), torch.linspace(0, 1, 30)[:, None], lags=8)
    check_layout(line.plot())
    with pytest.raises(ArgumentError, match="measure it with lags"):
        plot.shattering(found)
    with pytest.raises(ArgumentError, match=r"'nothing': expected one of \(input\), 0.stream"):
        plot.gradient_cosines(found, path="nothing")
