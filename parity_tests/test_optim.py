"""The optimisers equal torch.optim step by step, as pure functions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import vmap

import pure
from pure import nets, optim, tree
from pure.errors import ArgumentError

PAIRS: list[tuple[optim.Optimizer, Callable[[list[torch.Tensor]], torch.optim.Optimizer]]] = [
    (optim.sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    (optim.sgd(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    (
        optim.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    (optim.adamw(0.01), lambda p: torch.optim.AdamW(p, 0.01)),
    (
        optim.adamw(0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0),
        lambda p: torch.optim.Adam(p, 0.02, (0.8, 0.95), 1e-6),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_equals_torch_optim_over_many_steps(ours: optim.Optimizer, theirs: Callable[..., Any]) -> None:
    block = nets.simple_block(3, 4, 2)
    params, _ = block.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flat, spec = tree.tree_flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in flat]
    optimizer, state = theirs(leaves), ours.init(params)
    start = tree.tree_map(torch.clone, params)
    for _ in range(20):
        gradient = torch.func.grad(lambda p: (block(p, x) - 1).square().mean())(params)
        params, state = ours.update(gradient, state, params)
        optimizer.zero_grad()
        (block(tree.tree_unflatten(leaves, spec), x) - 1).square().mean().backward()
        optimizer.step()
        for a, b in zip(tree.leaves(params), leaves, strict=True):
            assert float((a - b.detach()).abs().max()) < 1e-12
    assert int(state["step"]) == 20
    assert all(not torch.equal(a, b) for a, b in zip(tree.leaves(start), tree.leaves(params), strict=True))


def test_a_step_maps_over_an_ensemble_and_compiles() -> None:
    block, optimizer = nets.simple_block(3, 4, 2), optim.adamw(0.01)
    members = [block.init(torch.Generator().manual_seed(seed))[0] for seed in range(3)]
    stacked, x = pure.stack(members), torch.ones(5, 3)

    def step(params: Any, state: Any) -> Any:
        return optimizer.update(torch.func.grad(lambda p: block(p, x).square().mean())(params), state, params)

    states = pure.stack([optimizer.init(member) for member in members])
    together, _ = vmap(step)(stacked, states)
    alone = pure.stack([step(member, optimizer.init(member))[0] for member in members])
    for a, b in zip(tree.leaves(together), tree.leaves(alone), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    compiled = torch.compile(step, fullgraph=True, backend="eager")(members[0], optimizer.init(members[0]))
    assert torch.equal(tree.leaves(compiled[0])[0], tree.leaves(step(members[0], optimizer.init(members[0]))[0])[0])


def test_the_rate_may_follow_the_step() -> None:
    optimizer = optim.sgd(lambda step: torch.where(step < 1, 1.0, 0.5))
    params, ones = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    state = optimizer.init(params)
    first, state = optimizer.update(ones, state, params)
    second, state = optimizer.update(ones, state, first)
    assert (float(first["w"]), float(second["w"])) == (-1.0, -1.5)


@pytest.mark.parametrize(
    "make",
    [lambda: optim.sgd(0.1, nesterov=True), lambda: optim.sgd(0.1, momentum=-1), lambda: optim.adamw(betas=(1.0, 0.9))],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ArgumentError):
        make()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adamw_corrects_its_bias_in_narrow_dtypes(dtype: torch.dtype) -> None:
    optimizer = optim.adamw(0.1, weight_decay=0.0)
    params = {"w": torch.ones(3, dtype=dtype), "s": torch.ones((), dtype=dtype)}
    grads = {"w": torch.tensor([1.0, 0.0, -1.0], dtype=dtype), "s": torch.ones((), dtype=dtype)}
    new, _ = optimizer.update(grads, optimizer.init(params), params)
    torch.testing.assert_close(new["w"].float(), torch.tensor([0.9, 1.0, 1.1]), rtol=0, atol=4e-3)
    assert {leaf.dtype for leaf in new.values()} == {dtype}
