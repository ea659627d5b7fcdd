"""The dynamic loss scale is `torch.amp.GradScaler` as a pure function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import export
import pure
from pure import nets, optim, tree
from pure.errors import ArgumentError

OVERFLOWING = (3, 4, 11)
"""Steps of 20 whose gradients hold an infinity or NaN."""


def _problem(dtype: torch.dtype = torch.float32) -> tuple[pure.Block, Any, Tensor]:
    block = nets.simple_block(3, 4, 2)
    params, _ = block.init(torch.Generator().manual_seed(0), dtype)
    return block, params, torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_scale_and_parameters_follow_grad_scaler() -> None:
    block, params, x = _problem(torch.float64)
    optimizer = optim.dynamic_loss_scale(optim.adamw(0.01), 2.0**10, growth=4.0, backoff=0.25, interval=3)
    state = optimizer.init(params)
    flat, spec = tree.tree_flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in flat]
    theirs = torch.optim.AdamW(leaves, 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_factor=4.0, backoff_factor=0.25, growth_interval=3)
    scales = set()
    for step in range(20):
        spoilt = float("inf") if step in OVERFLOWING else 1.0

        def loss(p: Any, spoilt: float = spoilt) -> Tensor:
            return (block(p, x) - 1).square().mean() * spoilt

        gradient = pure.grad(lambda p, s=state["scale"]: loss(p) * s)(params)
        params, state = optimizer.step(gradient, state, params)
        theirs.zero_grad()
        scaler.scale(loss(tree.tree_unflatten(leaves, spec))).backward()
        scaler.step(theirs)
        scaler.update()
        assert float(state["scale"]) == scaler.get_scale()
        scales.add(scaler.get_scale())
        for a, b in zip(tree.leaves(params), leaves, strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=1e-12)
    assert len(scales) > 3


def test_small_gradients_survive_float16_and_are_clipped_unscaled() -> None:
    params = {"w": torch.full((1,), 1e-4)}

    def loss(p: Any, scale: Tensor) -> Tensor:
        return (p["w"].half() * 1e-3).float().sum() * 1e-5 * scale

    optimizer = optim.dynamic_loss_scale(optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(1.0)))
    state = optimizer.init(params)
    lost = pure.grad(lambda p: loss(p, torch.ones(())))(params)
    assert float(lost["w"]) == 0.0
    found, _ = optimizer.update(pure.grad(lambda p: loss(p, state["scale"]))(params), state, params)
    torch.testing.assert_close(found["w"], torch.full((1,), -1e-8), rtol=2e-3, atol=0.0)


def test_a_step_that_overflows_leaves_all_but_the_scale() -> None:
    _, params, _ = _problem()
    optimizer = optim.dynamic_loss_scale(optim.sgd(0.1, momentum=0.9))
    state = optimizer.init(params)
    _, state = optimizer.update(tree.tree_map(torch.ones_like, params), state, params)
    spoilt = tree.tree_map(lambda leaf: torch.full_like(leaf, float("nan")), params)
    updates, after = optimizer.update(spoilt, state, params)
    assert all(not leaf.any() for leaf in tree.leaves(updates))
    for a, b in zip(tree.leaves(after["inner"]), tree.leaves(state["inner"]), strict=True):
        assert torch.equal(a, b)
    assert float(after["scale"]) == float(state["scale"]) / 2
    assert (int(state["finite_steps"]), int(after["finite_steps"])) == (1, 0)


def test_a_step_under_autocast_with_its_scale_is_one_file() -> None:
    block, params, x = _problem()
    optimizer = optim.dynamic_loss_scale(optim.adamw(0.01), 2.0**8, interval=2)

    def train(params: Any, state: Any, x: Tensor) -> Any:
        def loss(p: Any) -> Tensor:
            with torch.autocast("cpu", torch.float16):
                return (block(p, x).float() - 1).square().mean() * state["scale"]

        return optimizer.step(pure.grad(loss)(params), state, params)

    verdict = export.verify(train, (params, optimizer.init(params), x), device="cpu")
    assert verdict, verdict.table()


@pytest.mark.parametrize("options", [{"initial": 0.0}, {"growth": 1.0}, {"backoff": 1.5}, {"interval": 0}])
def test_options_without_a_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"expected a positive scale and interval"):
        optim.dynamic_loss_scale(optim.sgd(0.1), **options)
