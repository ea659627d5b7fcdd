"""`flow.landscape` is the loss at the parameters plus filter-normalised steps, point by point."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pure
from pure import flow, nets
from pure.errors import ArgumentError, ShapeError, TreeError, UnsupportedError

FLOAT64 = torch.float64
NET = pure.Sequential(conv=pure.Conv2d(2, 3, 3), act=pure.Activation("tanh"), pool=pure.GlobalAvgPool(),
                      head=pure.Linear(3, 2))  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PARAMS = NET.init(seeded(), FLOAT64)[0]
X = torch.randn(4, 2, 5, 5, generator=seeded(1), dtype=FLOAT64)


def loss(params: Any, x: Tensor) -> Tensor:
    return NET(params, x).square().mean()


@pytest.mark.parametrize("directions", [1, 2])
def test_every_point_is_the_loss_there(directions: int) -> None:
    found = flow.landscape(loss, PARAMS, X, directions=directions, generator=seeded(), points=5, radius=0.5)
    assert found.losses.shape == (5,) * directions
    assert found.coordinates.tolist() == [-0.5, -0.25, 0, 0.25, 0.5]
    steps = [pure.flatten(direction) for direction in found.directions]
    for index in torch.cartesian_prod(*[torch.arange(5)] * directions).reshape(-1, directions).tolist():
        there = {
            name: leaf + sum(found.coordinates[i] * step[name] for i, step in zip(index, steps, strict=True))
            for name, leaf in pure.flatten(PARAMS).items()
        }
        expected = float(loss(pure.unflatten(there), X))
        assert float(found.losses[tuple(index)]) == pytest.approx(expected, rel=1e-12)
    assert float(found.losses[(2,) * directions]) == found.centre == float(loss(PARAMS, X))


def test_chunks_change_nothing() -> None:
    one, many = (
        flow.landscape(loss, PARAMS, X, generator=seeded(), points=5, chunk_size=size).losses for size in (1, 7)
    )
    torch.testing.assert_close(one, many, rtol=1e-12, atol=0)


def test_filters_have_the_norms_of_the_networks_own() -> None:
    (direction,) = flow.landscape(loss, PARAMS, X, directions=1, generator=seeded(), points=3).directions
    for name, step in pure.flatten(direction).items():
        own = pure.flatten(PARAMS)[name]
        if own.ndim < 2:
            assert not step.any()
        else:
            torch.testing.assert_close(step.flatten(1).norm(dim=1), own.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
            assert not torch.allclose(step, own)


def test_stacked_leaves_are_normalised_depth_by_depth() -> None:
    block = pure.Repeat(nets.residual_mlp_block(3, 4), 3)
    params = block.init(seeded(), FLOAT64)[0]
    x = torch.ones(2, 3, dtype=FLOAT64)
    (direction,) = flow.landscape(
        lambda p, x: block(p, x).square().sum(), params, x, directions=1, generator=seeded(), points=3
    ).directions
    for layer in ("fc1", "fc2"):
        step, own = direction["branch"][layer]["weight"], params["branch"][layer]["weight"]
        torch.testing.assert_close(step.norm(dim=2), own.norm(dim=2), rtol=1e-12, atol=0)
        assert not direction["branch"][layer]["bias"].any()  # two axes, but of one layer each


def test_the_plot_does_not_depend_on_the_scale_of_a_layer() -> None:
    """Li et al. 2018, section 3: a relu network with one layer scaled up and the next scaled down is the same one."""
    net = pure.Sequential(a=pure.Linear(3, 5, bias=False), act=pure.Activation("relu"), b=pure.Linear(5, 2, bias=False))
    params = net.init(seeded(), FLOAT64)[0]
    x = torch.randn(6, 3, generator=seeded(2), dtype=FLOAT64)
    scaled = {"a": {"weight": 16 * params["a"]["weight"]}, "b": {"weight": params["b"]["weight"] / 16}}
    losses = [
        flow.landscape(lambda p, x: net(p, x).square().mean(), p, x, generator=seeded(), points=5).losses
        for p in (params, scaled)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)


def test_given_directions_are_taken_as_they_are() -> None:
    other = NET.init(seeded(5), FLOAT64)[0]
    way = pure.tree.tree_map(torch.sub, other, PARAMS)
    found = flow.landscape(loss, PARAMS, X, directions=[way], points=3)
    assert float(found.losses[2]) == pytest.approx(float(loss(other, X)), rel=1e-12)
    normal = flow.filter_normalised(way, PARAMS)
    torch.testing.assert_close(
        normal["head"]["weight"].norm(dim=1), PARAMS["head"]["weight"].norm(dim=1), rtol=1e-12, atol=0
    )
    reordered = {"head": way["head"], "conv": way["conv"]}
    assert torch.equal(flow.landscape(loss, PARAMS, X, directions=[reordered], points=3).losses, found.losses)


def test_what_it_reads_as() -> None:
    found = flow.landscape(loss, PARAMS, X, generator=seeded(), points=5)
    assert json.loads(json.dumps(dict(found))) == found.to_dict()
    assert "direction 1" in found.table()
    assert "5 × 5 points" in repr(found)
    assert len(found.plot().axes) == 2
    line = flow.landscape(loss, PARAMS, X, directions=1, generator=seeded(), points=5)
    assert len(line.plot().axes) == 1
    again = flow.landscape(loss, PARAMS, X, generator=seeded(), points=5)
    assert torch.equal(again.losses, found.losses)


def test_an_infinite_loss_away_from_the_parameters_is_kept_and_drawn() -> None:
    found = flow.landscape(
        lambda p: (p["w"].sum() + 1).log(), {"w": torch.ones(1, 1)}, directions=[{"w": torch.ones(1, 1)}], radius=4.0
    )
    assert found.losses.isnan().any()
    assert found.plot().axes


def bad_cases() -> dict[str, tuple[Callable[[], Any], type[Exception], str]]:
    def run(loss: Any = loss, params: Any = PARAMS, **options: Any) -> Callable[[], Any]:
        return lambda: flow.landscape(loss, params, X, **{"generator": seeded(), "points": 3, **options})

    return {
        "three directions": (run(directions=3), ArgumentError, "expected 1 or 2"),
        "no generator": (run(generator=None), ArgumentError, "without a generator"),
        "an even number": (run(points=4), ArgumentError, "an odd number"),
        "no radius": (run(radius=0.0), ArgumentError, "above 0"),
        "another tree": (run(directions=[{"w": X}]), TreeError, "direction: "),
        "a vector": (run(lambda p, x: NET(p, x)), ShapeError, "scalar"),
        "random": (run(lambda p, x: loss(p, x) * torch.rand(())), UnsupportedError, "random"),
        "NaN": (run(params=pure.tree.tree_map(lambda leaf: leaf * torch.nan, PARAMS)), ArgumentError, "NaN"),
    }


@pytest.mark.parametrize("case", bad_cases())
def test_what_has_no_landscape(case: str) -> None:
    call, error, message = bad_cases()[case]
    with pytest.raises(error, match=message):
        call()
