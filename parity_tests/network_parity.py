"""A whole network against a library's: checkpoint in and out, size, output, gradients and new state in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import pure
from parity_tests.oracles.masks import replay
from parity_tests.oracles.oracle import gradient, relative
from pure import tree
from pure.block import Block, specification
from pure.interop.checkpoints import from_state_dict, to_state_dict
from pure.interop.scheme import Source

TOLERANCE = 1e-10
Call = Callable[[nn.Module, Any, Any, Any], Any]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module in float64 with random gains, biases and statistics; the weights are random already."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    for name, leaf in module.state_dict().items():
        if not leaf.is_floating_point():
            leaf.add_(3)
        elif leaf.ndim == 0 or bool((leaf == leaf.flatten()[0]).all()):
            leaf.add_(0.2 * torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype))
            leaf.mul_(0.7 if name.endswith("weight") else 1.0)  # so that the values of a deep network stay moderate
    return module


def differences(
    block: Block, module: nn.Module, source: Source | None, x: Tensor, *, training: bool, call: Call = replay
) -> dict[str, float]:
    """Return the relative differences of output, gradients and new state, under the library's names."""
    loaded = {name: leaf.clone() for name, leaf in module.state_dict().items()}
    params, state = from_state_dict(block, loaded, source)
    leaves, spec = tree.tree_flatten(params)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    noise = None
    if training:
        noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(1), dtype=x.dtype)
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, new_state = block.apply(tree.tree_unflatten(leaves, spec), ours_x, state, {}, training, noise)
    module.train(training).zero_grad()
    # `call` may put layers that take masks in place of the module's own: the names are those of before
    own = dict(module.named_parameters())
    expected = call(module, theirs_x, {}, noise)
    assert bool(torch.isfinite(expected).all())
    found = {"output": relative({"y": y.detach()}, {"y": expected.detach()})["y"]}
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    grads = tree.tree_unflatten([gradient(leaf) for leaf in leaves], spec)
    new_state = tree.tree_map(lambda leaf: leaf.detach(), new_state)
    ours = to_state_dict(block, grads, new_state, source)
    buffers = {name: leaf for name, leaf in module.state_dict().items() if name not in own}
    for theirs in ({name: gradient(leaf) for name, leaf in own.items()}, buffers):
        found |= relative({name: leaf for name, leaf in ours.items() if name in theirs}, theirs)
    return found | {"input": relative({"x": gradient(ours_x)}, {"x": gradient(theirs_x)})["x"]}


def assert_equal(
    block: Block, module: nn.Module, source: Source | None, x: Tensor, *, training: bool, call: Call = replay
) -> None:
    """Fail unless the block, loaded from the module's checkpoint, has its size and computes what it does.

    Args:
        block: the network.
        module: the library's, as `randomised` gives it.
        source: whose names its checkpoint has; None finds out.
        x: the input.
        training: of both.
        call: runs the module with the masks that the block drew.
    """
    assert count(block) == sum(leaf.numel() for leaf in module.parameters())
    found = differences(block, module, source, x, training=training, call=call)
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    assert not wrong, wrong


def assert_round_trip(block: Block, state_dict: dict[str, Tensor], source: Source | None) -> None:
    """Fail unless a checkpoint comes back with the same names and bits."""
    again = to_state_dict(block, *from_state_dict(block, state_dict, source), source=source)
    assert again.keys() == state_dict.keys()
    assert all(again[name].dtype == leaf.dtype and torch.equal(again[name], leaf) for name, leaf in state_dict.items())


def assert_same(
    block: Block, module: nn.Module, source: Source | None, x: Tensor, *, training: bool, call: Call = replay
) -> None:
    """`assert_equal` and `assert_round_trip` of a module with random gains, biases and statistics."""
    module = randomised(module)
    assert_round_trip(block, module.state_dict(), source)
    assert_equal(block, module, source, x, training=training, call=call)


def count(block: Block) -> int:
    """Return the number of parameters, without making any."""
    return pure.count(specification(block)[0])


def picture(*shape: int) -> Tensor:
    """Return a random input."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
