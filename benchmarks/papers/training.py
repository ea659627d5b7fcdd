"""Digits, and the training of several networks of one kind at once, one a seed, by `torch.func.vmap`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad_and_value, vmap

import pure
from export.app.report import digits
from export.app.report.settings import Settings
from pure import tree
from pure.optim import GradientTransformation

SOURCE = "scikit-learn's 1,797 handwritten digits of 8 × 8 pixels, a quarter held out"
ROWS, PIXELS = 8, 8

Params = Any


class Batches(NamedTuple):
    """What every network is trained and judged on; the order of the digits is each network's own."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def load(rows: bool = False, dtype: torch.dtype = torch.float32) -> Batches:
    """The standardised digits; with `rows`, as 8 tokens of 8 pixels."""
    data = digits.load(Settings())
    shape = (-1, ROWS, PIXELS) if rows else (-1, ROWS * PIXELS)
    x, test_x = (part.to(dtype).reshape(shape) for part in (data.train_x, data.test_x))
    return Batches(x, data.train_y, test_x, data.test_y)


def initial(block: pure.Block, seeds: int, dtype: torch.dtype = torch.float32) -> Params:
    """The stacked parameters of one network a seed."""
    return tree.stack([block.init(torch.Generator().manual_seed(seed), dtype)[0] for seed in range(seeds)])


def order(samples: int, seeds: int, steps: int, batch: int) -> Tensor:
    """(steps, seeds, batch) positions of digits, each seed in its own order, without repeats within a pass."""
    generator = torch.Generator().manual_seed(10_000)
    passes = -(-steps // (samples // batch))
    kept = samples // batch * batch
    drawn = [
        torch.cat([torch.randperm(samples, generator=generator)[:kept] for _ in range(passes)]) for _ in range(seeds)
    ]
    return torch.stack(drawn).unflatten(1, (-1, batch)).transpose(0, 1)[:steps]


def cross_entropy(block: pure.Block) -> Callable[[Params, Tensor, Tensor], Tensor]:
    """The mean loss of a batch as a function of one network's parameters."""
    return lambda params, x, y: F.cross_entropy(block(params, x), y)


class Trained(NamedTuple):
    """Networks at the end, and on the way.

    Attributes:
        params: Stacked, one network a seed.
        losses: (steps, seeds), each batch's loss before its step.
        watched: What `watch` returned, at each step that it was asked for.
    """

    params: Params
    losses: Tensor
    watched: dict[int, Any]


def train(
    block: pure.Block,
    params: Params,
    optimizer: Callable[[Tensor], GradientTransformation] | GradientTransformation,
    batches: Batches,
    steps: int,
    batch: int,
    rates: Tensor | None = None,
    watch: Callable[[Params], Any] | None = None,
    watch_at: tuple[int, ...] = (),
) -> Trained:
    """Train every network of the stack.

    Args:
        block: The network.
        params: Stacked.
        optimizer: One for all, or, with `rates`, a function that makes it from each network's own rate.
        batches: The digits.
        steps: How many.
        batch: Digits a step.
        rates: (networks,), learning rates.
        watch: Called with the stacked parameters before the steps in `watch_at`; `steps` stands for the end.
        watch_at: When.
    """
    networks = len(tree.leaves(params)[0])
    each = torch.zeros(networks) if rates is None else rates
    make = optimizer if callable(optimizer) else lambda rate: optimizer
    slope = grad_and_value(cross_entropy(block))

    def step(params: Params, state: Any, x: Tensor, y: Tensor, rate: Tensor) -> tuple[Params, Any, Tensor]:
        gradient, value = slope(params, x, y)
        return *make(rate).step(gradient, state, params), value

    state = vmap(lambda params, rate: make(rate).init(params))(params, each)
    one_step, losses, watched = vmap(step), [], {}
    for index, chosen in enumerate(order(len(batches.x), networks, steps, batch)):
        if watch is not None and index in watch_at:
            watched[index] = watch(params)
        params, state, value = one_step(params, state, batches.x[chosen], batches.y[chosen], each)
        losses.append(value)
    if watch is not None and steps in watch_at:
        watched[steps] = watch(params)
    return Trained(params, torch.stack(losses), watched)


def losses_of(block: pure.Block, params: Params, x: Tensor, y: Tensor) -> Tensor:
    """(networks,) mean loss of each network over all of these digits."""
    with torch.no_grad():
        return vmap(cross_entropy(block), in_dims=(0, None, None))(params, x, y)


def accuracies(block: pure.Block, params: Params, x: Tensor, y: Tensor) -> Tensor:
    """(networks,) the part of the digits that each network reads rightly."""
    with torch.no_grad():
        logits = vmap(block, in_dims=(0, None))(params, x)
    return (logits.argmax(-1) == y).double().mean(-1)
