"""`flow.signal` gives the signal-propagation plot's numbers, follows the pre-norm law, and names what overflows."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pure
from parity_tests.test_flow_plots import check_layout
from pure import flow, nets
from pure.catalogue import CASES, Case
from pure.errors import ArgumentError, CaptureError, UnsupportedError
from pure.flow import plot

FLOAT64 = torch.float64


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def test_images_by_the_papers_definition() -> None:
    block = nets.tutorial_resnet((3, 4, 6))
    params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
    x = normal(1, 5, 3, 6, 7)
    found = flow.signal(block, params, x)
    _, seen = pure.capture(block, ("stream", "branch"))(params, x)
    assert list(found) == list(seen) == ["block1.branch", "block1.stream", "block2.branch", "block2.stream"]
    for path, value in seen.items():
        array = value.numpy()
        assert found[path].squared_mean == pytest.approx(np.mean(np.mean(array, axis=(0, 2, 3)) ** 2), rel=1e-12)
        assert found[path].variance == pytest.approx(np.mean(np.var(array, axis=(0, 2, 3))), rel=1e-12)
    second_input = torch.relu(seen["block1.stream"]).numpy()
    ratio = found["block2.branch"].variance / np.mean(np.var(second_input, axis=(0, 2, 3)))
    assert found["block2.branch"].ratio == pytest.approx(ratio, rel=1e-12), "the input stands behind the relu"
    assert found.input_variance == pytest.approx(np.mean(np.var(x.numpy(), axis=(0, 2, 3))), rel=1e-12)


def test_tokens_have_their_channels_last() -> None:
    block = pure.Residual(pure.Linear(4, 4))
    params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
    x = normal(1, 5, 7, 4)
    found = flow.signal(block, params, x)
    assert found.input_variance == pytest.approx(x.flatten(0, 1).var(0, correction=0).mean().item(), rel=1e-12)
    by_position = flow.signal(block, params, x, channel_axis=1)
    assert by_position.input_variance == pytest.approx(
        x.movedim(1, 2).flatten(0, 1).var(0, correction=0).mean().item(), rel=1e-12
    )


def test_a_repeat_is_the_unrolled_network() -> None:
    cell = nets.residual_mlp_block(5, 7)
    params, _ = nets.residual_mlp(5, 7, 3).init(torch.Generator().manual_seed(0), FLOAT64)
    x = normal(1, 6, 5)
    whole = flow.signal(nets.residual_mlp(5, 7, 3), params, x)
    stacked = flow.signal(pure.Repeat(cell, 3), pure.stack(list(params.values())), x)
    assert stacked.to_dict() == whole.to_dict()


def test_the_pre_norm_stream_grows_by_one_a_layer() -> None:
    """q_l = 1 + l for x + W norm(x) with W ~ N(0, 1/n): mean² + variance is the stream's second moment."""
    width, depth, draws = 24, 8, 300
    cell = pure.Residual(pure.Sequential(norm=pure.RMSNorm(width, eps=0.0), f=pure.Linear(width, width, bias=False)))
    block = pure.Repeat(cell, depth)
    generator = torch.Generator().manual_seed(0)
    moments = torch.empty(draws, depth, dtype=FLOAT64)
    for draw in range(draws):
        weight = torch.randn(depth, width, width, generator=generator, dtype=FLOAT64) / math.sqrt(width)
        params = {"branch": {"norm": {"weight": torch.ones(depth, width, dtype=FLOAT64)}, "f": {"weight": weight}}}
        x = torch.randn(4, width, generator=generator, dtype=FLOAT64)
        x = x / x.square().mean(1, keepdim=True).sqrt()
        found = flow.signal(block, params, x)
        moments[draw] = torch.tensor([v.squared_mean + v.variance for v in found.streams], dtype=FLOAT64)
    errors = (moments.mean(0) - torch.arange(2, depth + 2)) / (moments.std(0) / math.sqrt(draws))
    assert float(errors.abs().max()) < 3
    compounded = (moments.mean(0)[-1] - 2**depth) / (moments.std(0)[-1] / math.sqrt(draws))
    assert abs(float(compounded)) > 3, "growth by a factor of 2 a layer, as without a norm, is rejected"


def test_a_large_mean_does_not_swallow_a_small_variance() -> None:
    x = torch.tensor([[4096.0, 1.0], [4096.0 + 2**-10, 1.0]])
    found = flow.signal(pure.Tag(), {}, x)["stream"]
    assert found.variance == pytest.approx(2**-22 / 2, rel=1e-12)
    huge = flow.signal(pure.Tag(), {}, torch.tensor([[3e38], [-3e38]]))["stream"]
    assert huge.variance == pytest.approx(9e76, rel=1e-6)


def test_what_overflows_is_reported_by_name() -> None:
    block = nets.residual_mlp(4, 4, 4)
    params, _ = block.init(torch.Generator().manual_seed(0))
    params["2"]["branch"]["fc2"]["bias"] = torch.full((4,), 3e38)
    params["3"]["branch"]["fc2"]["bias"] = torch.full((4,), 3e38)
    found = flow.signal(block, params, torch.ones(3, 4))
    assert found.not_finite == ("3.stream",)
    assert found["2.stream"].finite_fraction == 1.0
    assert found["3.stream"].finite_fraction == 0.0
    assert "3.stream" in repr(found)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["channels"]["3.stream"]["variance"] is None
    check_layout(found.plot())


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_block_of_the_catalogue(row: Case) -> None:
    block, params, state, x, extras = row.example()
    _, seen = pure.tags.observe(block)(params, x, state, extras)
    expected = [tagged.path for tagged in seen if tagged.kind == "stream"]
    if not expected:
        with pytest.raises(UnsupportedError, match=r"signal of a function that tags no stream.*put a pure.Tag\(\)"):
            flow.signal(block, params, x, state, extras)
        return
    found = flow.signal(block, params, x, state, extras)
    assert [value.path for value in found.streams] == expected
    assert not found.not_finite
    for tagged in seen:
        if tagged.kind == "stream":
            value = found[tagged.path]
            second_moment = float(tagged.value.double().square().mean())
            assert value.squared_mean + value.variance == pytest.approx(second_moment, rel=1e-9)
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.table().count("\n") == len(found) + 1


def test_training_uses_batch_statistics() -> None:
    block = nets.create("resnet18", num_classes=3)
    params, state = block.init(torch.Generator().manual_seed(0))
    x = normal(1, 4, 3, 16, 16).float()
    found = flow.signal(block, params, x, state, training=True)
    assert found["layer1.0.branch"].variance == pytest.approx(1.0, rel=1e-3), "it ends in a batch norm"
    assert flow.signal(block, params, x, state)["layer1.0.branch"].variance != pytest.approx(1.0, rel=1e-1)


def draws_random(x: Tensor) -> Tensor:
    return pure.tag(x + torch.rand(2), "stream")


def in_place(x: Tensor) -> Tensor:
    return pure.tag(x.add_(1), "stream")


@pytest.mark.parametrize(
    ("block", "x", "error", "message"),
    [
        (pure.Tag(), torch.tensor([[torch.nan, 1.0]]), ArgumentError, "x holds NaN or infinity in 1 of 2 values"),
        (pure.Linear(2, 2), torch.ones(1, 2), UnsupportedError, r"tags no stream \(found: no tags at all\)"),
        (pure.Function(draws_random), torch.ones(1, 2), UnsupportedError, "draws random numbers"),
        (pure.Function(in_place), torch.ones(1, 2), UnsupportedError, "changes x in place"),
        (draws_random, torch.ones(1, 2), ArgumentError, "signal of function: expected a Block"),
        (pure.Function(lambda x: pure.tag((x, x), "pair")), torch.ones(1, 2), UnsupportedError, "is tuple"),
        (pure.Function(lambda x: pure.tag(x, "h", kind="hidden")), torch.ones(1, 2), CaptureError, "hidden"),  # type: ignore[arg-type]
    ],
    ids=["NaN", "no tags", "random", "in place", "no block", "a pair", "unknown kind"],
)
def test_errors(block: Any, x: Tensor, error: type[Exception], message: str) -> None:
    params = {"weight": torch.eye(2), "bias": torch.zeros(2)} if isinstance(block, pure.Linear) else {}
    with pytest.raises(error, match=message):
        flow.signal(block, params, x)


def test_more_errors() -> None:
    with pytest.raises(ArgumentError, match="params 'weight' holds NaN"):
        flow.signal(pure.Linear(1, 1), {"weight": torch.tensor([[torch.nan]])}, torch.ones(1, 1))
    with pytest.raises(ArgumentError, match="channel_axis=3 of a value of shape"):
        flow.signal(pure.Tag(), {}, torch.ones(2, 2), channel_axis=3)
    mapped = pure.Function(lambda x: torch.func.vmap(lambda row: pure.tag(row, "stream"))(x))
    with pytest.raises(UnsupportedError, match=r"inside an inner torch\.func transform"):
        flow.signal(mapped, {}, torch.ones(2, 2))
    with pytest.raises(UnsupportedError, match=r"inside a torch\.func transform"):
        torch.func.vmap(lambda x: flow.signal(pure.Tag(), {}, x).input_variance)(torch.ones(2, 2, 2))


def test_pictures() -> None:
    block = nets.residual_mlp(4, 4, 30)
    params, _ = block.init(torch.Generator().manual_seed(0))
    found = flow.signal(block, params, normal(1, 8, 4).float())
    check_layout(plot.propagation({"first": found, "second": found}, guides={"law": [1.0] * 30}))
    with pytest.raises(ArgumentError, match="expected a Signal"):
        plot.propagation({})
