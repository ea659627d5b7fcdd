"""`flow.gates` reports how open every tagged gate is, exactly, with the biases behind it."""

import json
import math

import pytest
import torch
from torch import Tensor

import pure
from parity_tests.test_flow_plots import check_layout
from pure import flow, nets
from pure.catalogue import CASES, Case
from pure.errors import ArgumentError, UnsupportedError
from pure.flow import plot
from pure.flow.shared.quantiles import quantiles
from pure.skips import GatedSkip, Highway


def test_a_gate_by_hand() -> None:
    gate = torch.tensor([[0.0, 0.05, 0.2], [0.95, 1.0, 0.5]])
    block = pure.Function(lambda x: x * pure.tag(gate, "gate", kind="gate"))
    found = flow.gates(block, {}, torch.ones(2, 3))["gate"]
    assert found.mean == pytest.approx(2.7 / 6, rel=1e-7)
    assert found.shut_fraction == pytest.approx(2 / 6)
    assert found.open_fraction == pytest.approx(2 / 6)
    assert (found.p10, found.median, found.p90) == pytest.approx((0.025, 0.35, 0.975), abs=1e-7)
    assert found.sample_mean.tolist() == pytest.approx([0.25 / 3, 2.45 / 3], rel=1e-6)
    assert found.bias is None


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
def test_a_highway_layer_without_input_is_its_bias(bias: float) -> None:
    block = Highway.dense(4, gate_bias=bias)
    params, _ = block.init(torch.Generator().manual_seed(0))
    found = flow.gates(block, params, torch.zeros(3, 4))["gate"]
    assert found.mean == pytest.approx(1 / (1 + math.exp(-bias)), rel=1e-6)
    assert found.bias is not None
    assert found.bias.tolist() == [bias] * 4


def test_depth_and_bias_of_stacked_and_unrolled_layers_are_the_same() -> None:
    cell, generator = Highway.dense(4), torch.Generator().manual_seed(0)
    chain, x = pure.Sequential(*[cell] * 3), torch.randn(5, 4, generator=generator)
    params, _ = chain.init(generator)
    for depth in range(3):
        params[str(depth)]["gate"]["bias"] = torch.full((4,), float(-depth))
    unrolled = flow.gates(chain, params, x)
    stacked = flow.gates(pure.Repeat(cell, 3), pure.stack(list(params.values())), x)
    assert list(unrolled) == ["0.gate", "1.gate", "2.gate"]
    assert [gate.depth for gate in unrolled.values()] == [0, 1, 2]
    assert [gate.bias.tolist() for gate in stacked.values() if gate.bias is not None] == [[-d] * 4 for d in range(3)]
    assert stacked.to_dict() == unrolled.to_dict()
    means = [gate.mean for gate in unrolled.values()]
    assert means == sorted(means, reverse=True)


def test_a_bias_that_belongs_to_the_block() -> None:
    block = GatedSkip(pure.Linear(4, 4), 4, bias=1.5)
    params, _ = block.init(torch.Generator().manual_seed(0))
    bias = flow.gates(block, params, torch.ones(2, 4))["gate"].bias
    assert bias is not None
    assert bias.tolist() == [1.5] * 4


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_block_of_the_catalogue(row: Case) -> None:
    block, params, state, x, extras = row.example()
    _, seen = pure.capture(block, "gate")(params, x, state, extras)
    if not seen:
        with pytest.raises(UnsupportedError, match="gates of a function that tags no gate"):
            flow.gates(block, params, x, state, extras)
        return
    found = flow.gates(block, params, x, state, extras)
    assert list(found) == list(seen)
    for path, value in seen.items():
        gate, values = found[path], value.double()
        assert gate.mean == pytest.approx(float(values.mean()), rel=1e-9)
        assert gate.p10 <= gate.median <= gate.p90
        assert gate.shut_fraction == float((values < 0.1).double().mean())
        assert gate.open_fraction == float((values > 0.9).double().mean())
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.table().count("\n") == len(found) + 1


def test_quantiles_of_more_than_16_million_values_and_of_none() -> None:
    count = 2**24 + 2
    ramp = torch.arange(count, dtype=torch.float32).flip(0) / count
    assert quantiles(ramp).tolist() == pytest.approx([0.1, 0.5, 0.9], abs=1e-6)
    assert quantiles(ramp[:0]).isnan().all()
    values = torch.tensor([3.0, 1.0, 2.0, 7.0], dtype=torch.float64)
    expected = values.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    torch.testing.assert_close(quantiles(values), expected, rtol=1e-15, atol=0)


def test_errors() -> None:
    def broken(x: Tensor) -> Tensor:
        return pure.tag(x.log(), "gate", kind="gate")

    with pytest.raises(UnsupportedError, match=r"tags no gate \(found: branch, stream\): tag the factor in 0…1"):
        flow.gates(nets.residual_mlp(2, 2, 1), nets.residual_mlp(2, 2, 1).init(torch.Generator())[0], torch.ones(1, 2))
    with pytest.raises(ArgumentError, match="'gate' holds NaN"):
        flow.gates(pure.Function(broken), {}, -torch.ones(1, 2))
    with pytest.raises(ArgumentError, match="x holds NaN"):
        flow.gates(pure.Function(broken), {}, torch.full((1, 2), torch.nan))
    noisy = pure.Function(lambda x: pure.tag(torch.rand(2), "gate", kind="gate"))
    with pytest.raises(UnsupportedError, match="gates of a function that draws random numbers"):
        flow.gates(noisy, {}, torch.ones(1, 2))


def test_pictures() -> None:
    block = nets.highway_mlp(4, 5, 3, 12)
    params, _ = block.init(torch.Generator().manual_seed(0))
    found = flow.gates(block, params, torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))
    check_layout(found.plot())
    check_layout(plot.gate_activity({"one": found, "two": found}))
    without = flow.gates(pure.Function(lambda x: pure.tag(x, "gate", kind="gate")), {}, torch.ones(2, 2))
    check_layout(without.plot())
