"""Partial Jacobian norms between depths: equal to brute force, the same by every method, and the pre-norm law."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pure
from parity_tests import theory_ensembles as ensembles
from parity_tests.test_flow_plots import check_layout
from pure import flow, nets
from pure.errors import ArgumentError, UnsupportedError
from pure.flow import theory

FLOAT64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=FLOAT64)


def brute_force(steps: list[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Jacobians of every stretch of the chain, one sample at a time, by jacrev."""
    depths = len(steps) + 1
    out = torch.full((depths, depths, len(x)), math.nan, dtype=FLOAT64)
    for b in range(len(x)):
        h = x[b]
        for s in range(depths):
            out[s, s, b] = 1.0
            for t in range(s + 1, depths):

                def stretch(h: Tensor, s: int = s, t: int = t) -> Tensor:
                    for step in steps[s:t]:
                        h = step(h[None])[0]
                    return h

                J = torch.func.jacrev(stretch)(h)
                out[s, t, b] = J.square().sum() / stretch(h).numel()
            if s < len(steps):
                h = steps[s](h[None])[0]
    return out


def parts_of(block: pure.Block, params: Any) -> list[Callable[[Tensor], Tensor]]:
    return [lambda x, n=name, b=child: b(params[n], x) for name, child in block.children().items()]


@pytest.mark.parametrize("method", ["auto", "product", "sweep"])
def test_residual_networks_equal_brute_force(method: Any) -> None:
    block = nets.residual_mlp(6, 9, 4)
    params, _ = block.init(seeded(), FLOAT64)
    x = normal(3, 6, seed=1)
    found = flow.partial_jacobians(block, params, x, method=method, chunk_size=4)
    torch.testing.assert_close(
        found.per_sample, brute_force(parts_of(block, params), x), rtol=1e-12, atol=0, equal_nan=True
    )
    torch.testing.assert_close(found.norms, found.per_sample.mean(2), rtol=0, atol=0, equal_nan=True)
    assert found.paths == ["input", "0.stream", "1.stream", "2.stream", "3.stream"]
    assert found.method == ("product" if method == "auto" else method)


def test_convolutions_that_change_their_size() -> None:
    def layer(n_in: int, n_out: int, stride: int) -> pure.Block:
        conv = pure.Conv2d(n_in, n_out, 3, stride=stride, padding=1)
        return pure.Sequential(conv=conv, act=pure.Activation("gelu"), out=pure.Tag())

    block = pure.Sequential(layer(2, 3, 1), layer(3, 4, 2), layer(4, 2, 1))
    params, _ = block.init(seeded(), FLOAT64)
    x = normal(2, 2, 4, 4, seed=1)
    found = flow.partial_jacobians(block, params, x)
    assert found.widths == [32, 48, 16, 8]
    expected = brute_force(parts_of(block, params), x)
    torch.testing.assert_close(found.per_sample, expected, rtol=1e-12, atol=0, equal_nan=True)


def test_a_repeated_block_is_the_chain_of_its_depths() -> None:
    inner = pure.Residual(pure.Sequential(pure.Linear(5, 5), pure.Activation("tanh")))
    repeated = pure.Repeat(inner, 5)
    params, _ = repeated.init(seeded(), FLOAT64)
    x = normal(2, 5, seed=1)
    chain = pure.Sequential(*[inner] * 5)
    unrolled = {str(depth): part for depth, part in enumerate(pure.unstack(params))}
    stacked, apart = flow.partial_jacobians(repeated, params, x), flow.partial_jacobians(chain, unrolled, x)
    torch.testing.assert_close(stacked.norms, apart.norms, rtol=1e-13, atol=0, equal_nan=True)
    assert stacked.paths == apart.paths


def test_orthogonal_layers_keep_one_between_all_depths() -> None:
    layer = pure.Sequential(linear=pure.Linear(8, 8, bias=False), out=pure.Tag())
    block = pure.Sequential(*[layer] * 6)
    params = {str(i): {"linear": {"weight": torch.linalg.qr(normal(8, 8, seed=i)).Q}} for i in range(6)}
    found = flow.partial_jacobians(block, params, normal(2, 8, seed=9))
    upper = torch.ones(7, 7, dtype=torch.bool).triu()
    torch.testing.assert_close(found.norms[upper], torch.ones(28, dtype=FLOAT64), rtol=1e-13, atol=0)
    sampled = flow.partial_jacobians(block, params, normal(2, 8, seed=9), method="hutchinson", generator=seeded(1))
    torch.testing.assert_close(sampled.norms[upper], torch.ones(28, dtype=FLOAT64), rtol=1e-13, atol=0)


def long_skips(params: Any, x: Tensor, state: Any, extras: Any) -> Tensor:
    """A stream that reads the input again at every depth: no chain."""
    h = x
    for depth, W in enumerate(params["W"]):
        h = pure.tag(torch.tanh(h @ W) + 0.5 * x, str(depth))
    return h


def test_streams_that_are_no_chain_are_swept() -> None:
    params, x = {"W": normal(3, 4, 4)}, normal(2, 4, seed=1)
    found = flow.partial_jacobians(long_skips, params, x)
    assert found.method == "sweep"
    J = torch.stack([torch.func.jacrev(lambda x: long_skips(params, x, {}, {}))(row) for row in x])
    torch.testing.assert_close(found.per_sample[0, -1], J.square().sum((1, 2)) / 4, rtol=1e-12, atol=0)
    with pytest.raises(UnsupportedError, match="depends on an earlier one other than through the one before"):
        flow.partial_jacobians(long_skips, params, x, method="product")


def test_hutchinsons_interval_covers() -> None:
    """Of 1,000 intervals 93% to 97% hold the exact norm: from the input to the last depth, and one block."""
    block = nets.residual_mlp(12, 12, 2)
    params, _ = block.init(seeded(), FLOAT64)
    x = normal(1, 12, seed=1)
    exact = flow.partial_jacobians(block, params, x)
    held = {(0, 2): 0, (1, 2): 0}
    runs = 1_000
    generator = seeded(3)
    for _ in range(runs):
        found = flow.partial_jacobians(block, params, x, method="hutchinson", probes=16, generator=generator)
        for pair in held:
            held[pair] += bool(found.low[pair] <= exact[pair] <= found.high[pair])
    for pair, count in held.items():
        assert 0.93 <= count / runs <= 0.97, f"{pair}: {count / runs}"


def test_wide_streams_are_sampled_and_exact_on_request() -> None:
    block = nets.residual_mlp(600, 8, 2)
    params, _ = block.init(seeded(), FLOAT64)
    x = normal(1, 600, seed=1)
    with pytest.raises(ArgumentError, match=r"width 600 need random directions: give generator"):
        flow.partial_jacobians(block, params, x)
    found = flow.partial_jacobians(block, params, x, generator=seeded(2))
    exact = flow.partial_jacobians(block, params, x, method="sweep", chunk_size=200)
    assert found.method == "hutchinson"
    half = (found.high - found.norms)[0, -1]
    assert half > 0
    assert abs(found[0, 2] - exact[0, 2]) < 2 * half


def test_pre_norm_networks_follow_the_ratio_of_variances() -> None:
    """E‖∂h_L/∂h_l‖²/n = q_L/q_l = (1 + L)/(1 + l), over draws of the weights."""
    depth, width, draws = 8, 96, 12
    block = ensembles.pre_normed(width, width, depth)
    curves = []
    for draw in range(draws):
        params, _ = block.init(seeded(100 + draw), FLOAT64)
        x = normal(1, width, seed=draw)
        x = x / x.square().mean().sqrt()
        curves.append(flow.partial_jacobians(block, params, x).to_last)
    curves_ = torch.stack(curves)
    law = torch.tensor(theory.partial_jacobian(depth), dtype=FLOAT64)
    error = curves_.std(0) / math.sqrt(draws)
    assert ((curves_.mean(0) - law).abs() <= 3.5 * error + 0.02 * law).all()
    assert abs(curves_.mean(0)[0] - 2**depth) > 100 * error[0], "not exponential, as without the norm"


def test_float32_and_no_overflow_over_many_blocks() -> None:
    layer = pure.Sequential(linear=pure.Linear(3, 3, bias=False), out=pure.Tag())
    block = pure.Sequential(*[layer] * 60)
    params = {str(i): {"linear": {"weight": 4.0 * torch.eye(3)}} for i in range(60)}
    x = torch.full((1, 3), 1e-30)
    found = flow.partial_jacobians(block, params, x, method="product")
    assert found[0, 60] == pytest.approx(16.0**60, rel=1e-6)
    assert found[0, 60] > torch.finfo(torch.float32).max


def test_the_result_reads_as_a_mapping_a_table_and_json() -> None:
    block = nets.residual_mlp(4, 4, 2)
    params, _ = block.init(seeded())
    found = flow.partial_jacobians(block, params, torch.ones(2, 4))
    assert len(found) == len(dict(found)) == 6
    assert found[1, 1] == 1.0
    with pytest.raises(KeyError):
        _ = found[2, 1]
    assert "0.stream" in found.table()
    assert json.loads(json.dumps(found.to_dict()))["norms"][2][1] is None
    assert repr(found) == "PartialJacobians(3 depths, 2 samples, by product)"


@pytest.mark.parametrize("method", ["product", "hutchinson"])
def test_the_picture(method: Any) -> None:
    pytest.importorskip("matplotlib")
    block = ensembles.pre_normed(16, 16, 6)
    params, _ = block.init(seeded(1), FLOAT64)
    found = flow.partial_jacobians(block, params, normal(2, 16), method=method, generator=seeded(2))
    figure = found.plot(law=theory.partial_jacobian(6))
    check_layout(figure)
    drawn = {line.get_label(): list(line.get_ydata()) for line in figure.axes[1].lines}
    assert drawn["measured"] == found.to_last.tolist()
    assert drawn["theory"] == theory.partial_jacobian(6)
    with pytest.raises(ArgumentError, match="law of 2 numbers for 7 depths"):
        found.plot(law=[1.0, 1.0])


def random_layer(x: Tensor) -> Tensor:
    return pure.tag(x * torch.rand(()), "h")


BAD: dict[str, tuple[Any, Any, dict[str, Any], type[Exception], str]] = {
    "no streams": (pure.Linear(4, 4, bias=False), torch.ones(1, 4), {}, UnsupportedError, "nothing of kind 'stream'"),
    "integers": (pure.Tag(), torch.ones(1, 4, dtype=torch.int64), {}, ArgumentError, "x is torch.int64 of shape"),
    "no batch": (pure.Tag(), torch.ones(4), {}, ArgumentError, "the batch on axis 0"),
    "NaN": (pure.Tag(), torch.full((1, 4), math.nan), {}, UnsupportedError, "x holds NaN"),
    "an infinite derivative": (
        pure.Sequential(pure.Function(torch.sqrt), pure.Tag()), torch.zeros(1, 4), {}, UnsupportedError, "not finite"
    ),
    "random numbers": (pure.Function(random_layer), torch.ones(1, 4), {}, UnsupportedError, "draws random numbers"),
    "a method": (pure.Tag(), torch.ones(1, 4), {"method": "svd"}, ArgumentError, "method='svd'"),
    "one probe": (pure.Tag(), torch.ones(1, 4), {"probes": 1}, ArgumentError, "probes=1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_errors(case: str) -> None:
    block, x, options, error, message = BAD[case]
    params = {"weight": torch.eye(4)} if isinstance(block, pure.Linear) else {}
    with pytest.raises(error, match=message):
        flow.partial_jacobians(block, params, x, **options)
