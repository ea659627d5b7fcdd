"""A whole network against a library's: checkpoint in and out, output, gradients and new state in float64."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from parity_tests.oracles.oracle import gradient, relative
from pure import count, tree
from pure.block import Block, specification
from pure.interop import from_state_dict, to_state_dict
from pure.interop.scheme import Source


def scrambled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 with random gains, biases and statistics, so that no default can hide a swap."""
    generator = torch.Generator().manual_seed(seed)
    leaves = {}
    for name, leaf in module.double().state_dict().items():
        per_channel = leaf.numel() == max(leaf.shape, default=1)
        if not leaf.is_floating_point():
            leaves[name] = leaf + 3
        elif per_channel:
            leaves[name] = leaf + 0.2 * torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype)
        else:
            leaves[name] = leaf
    module.load_state_dict(leaves)
    return module


def parameters(block: Block) -> int:
    """How many parameters a network has, counted without making them."""
    return count(specification(block)[0])


def images(channels: int = 3, size: int = 64, batch: int = 2) -> Tensor:
    shape = (batch, channels, size, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def plainly(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    return module(x)


def assert_same_network(
    block: Block,
    module: nn.Module,
    x: Tensor,
    training: bool,
    *,
    source: Source | None = None,
    call: Callable[[nn.Module, Any, Any, Any], Any] = plainly,
    tolerance: float = 1e-10,
) -> None:
    """Fail unless the block, loaded from the module's checkpoint, computes what the module does, and saves it back."""
    scrambled(module).train(training)
    given = {name: leaf.clone() for name, leaf in module.state_dict().items()}
    params, state = from_state_dict(block, given, source)
    saved = to_state_dict(block, params, state, source)
    assert sorted(saved) == sorted(given)
    assert all(torch.equal(saved[name], given[name]) for name in given)
    assert parameters(block) == sum(leaf.numel() for leaf in module.parameters())

    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(1), dtype=torch.float64) if training else None
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    params = tree.tree_map(lambda leaf: leaf.clone().requires_grad_(), params)
    y, new_state = block.apply(params, ours_x, state, {}, training, noise)
    names = dict(module.named_parameters())
    buffers = {name for name, _ in module.named_buffers()}
    expected = call(module, theirs_x, {}, noise)
    found = {"output": relative({"y": y.detach()}, {"y": expected.detach()})["y"]}
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    after = to_state_dict(block, tree.tree_map(gradient, params), tree.tree_map(Tensor.detach, new_state), source)
    theirs = {name: gradient(leaf) for name, leaf in names.items()}
    found |= relative({name: after[name] for name in theirs}, theirs)
    found |= relative({"x": gradient(ours_x)}, {"x": gradient(theirs_x)})
    found |= relative(
        {name: after[name] for name in buffers},
        {name: leaf for name, leaf in module.state_dict().items() if name in buffers},
    )
    wrong = {name: value for name, value in found.items() if not value <= tolerance}
    assert not wrong, wrong
