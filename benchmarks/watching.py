"""What `flow.watch` adds to a training step: norms of weights and updates by block, at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pure
from benchmarks.harness import QUICK, Budget, Comparison, Contender, Measurement, measure
from pure import flow, nets

__all__ = ["NAME", "NETWORKS", "measurements", "training"]

NAME = "watch"

NETWORKS: dict[str, tuple[Callable[[], pure.Block], tuple[int, ...]]] = {
    "ResNet-18, 16×3×64×64": (lambda: nets.create("resnet18", num_classes=10), (16, 3, 64, 64)),
    "residual MLP 16×512, batch 128": (
        lambda: nets.residual_mlp(features=512, hidden_features=512, depth=16),
        (128, 512),
    ),
    "vision transformer, 16×3×64×64": (
        lambda: nets.create("vit_tiny_patch16_224", image_size=64, num_classes=10),
        (16, 3, 64, 64),
    ),
}
"""Networks with the shape of a batch."""


def measurements(quick: bool = False) -> Iterator[Measurement]:
    """For each network a step of AdamW with clipping, and the same step watched."""
    for name in list(NETWORKS)[1:2] if quick else NETWORKS:
        step, arguments = training(name)
        watched = flow.watch(step)
        contenders = (
            Contender("the step", lambda step=step, arguments=arguments: step(*arguments)),
            Contender("flow.watch", lambda watched=watched, arguments=arguments: watched(0, *arguments)[0]),
        )
        yield measure(
            Comparison(name, contenders, agree),
            QUICK if quick else Budget(rounds=15, sample_seconds=0.2, warm_up_seconds=0.2),
        )


def training(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a step of a network and its arguments."""
    make, shape = NETWORKS[name]
    block = make()
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    like = block(params, x, state)
    target = torch.arange(len(x)) % like.shape[1]
    optimizer = pure.optim.chain(pure.optim.clip_by_global_norm(1.0), pure.optim.adamw(1e-3))

    def objective(params: Any, x: Tensor) -> Tensor:
        return F.cross_entropy(block.apply(params, x, state, {}, True)[0], target)

    slope = pure.grad(objective)

    def step(params: Any, opt_state: Any, x: Tensor) -> tuple[Any, Any]:
        return optimizer.step(slope(params, x), opt_state, params)

    return step, (params, optimizer.init(params), x)


def agree(expected: Any, given: Any) -> None:
    """Raise where the watched step returns other parameters."""
    for one, other in zip(pure.tree.leaves(expected), pure.tree.leaves(given), strict=True):
        torch.testing.assert_close(one, other)
