"""Loss scaling: small gradients in float16 kept from vanishing, by a factor that follows what overflows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError
from pure.layers.alignment import widen
from pure.optim.transformation import GradientTransformation, Pair, Tree, as_transformation, first_step

__all__ = ["dynamic_loss_scale"]


def dynamic_loss_scale(
    inner: Pair,
    initial: float = 2.0**16,
    *,
    growth: float = 2.0,
    backoff: float = 0.5,
    interval: int = 2000,
) -> GradientTransformation:
    """Return an optimiser of scaled gradients, which grows and shrinks the scale as `torch.amp.GradScaler` does.

    The loss is multiplied by `state["scale"]` before its gradient is taken; `update` divides by it, so that what
    `inner` clips and counts are the gradients themselves. If one of them is not finite, the step is left out (updates
    of 0, the inner state kept) and the scale shrinks; after `interval` finite steps in a row it grows.

    Args:
        inner: what is done to finite gradients.
        initial: the scale at first.
        growth: factor after `interval` finite steps in a row.
        backoff: factor after gradients that are not finite.
        interval: how many finite steps that is.

    Returns:
        A `GradientTransformation` with state {"scale": float32, "finite_steps": int64 (since the scale changed),
        "inner": …}.

    Raises:
        ArgumentError: a scale or an interval that is not positive, `growth` not above 1, `backoff` not within (0, 1).

    Source: Micikevicius et al. 2017 (1710.03740), section 3.2.

    Example:
        >>> from pure import optim
        >>> optimizer = dynamic_loss_scale(optim.sgd(0.5), 1024.0)
        >>> params = {"w": torch.ones(1)}
        >>> state = optimizer.init(params)
        >>> slope = torch.func.grad(lambda p: (3 * p["w"]).sum() * state["scale"])(params)
        >>> optimizer.step(slope, state, params)[0], optimizer.step({"w": slope["w"] / 0}, state, params)[1]["scale"]
        ({'w': tensor([-0.5000])}, tensor(512.))
    """
    if not (initial > 0 and interval > 0 and growth > 1 and 0 < backoff < 1):
        raise ArgumentError(
            f"dynamic_loss_scale initial={initial}, growth={growth}, backoff={backoff}, interval={interval}: expected "
            "a positive scale and interval, growth above 1, backoff between 0 and 1"
        )
    link = as_transformation(inner)

    def init(params: Tree) -> dict[str, Any]:
        step = first_step(params)
        scale = torch.full((), initial, dtype=torch.float32, device=step.device)
        return {"scale": scale, "finite_steps": step, "inner": link.init(params)}

    def update(updates: Tree, state: dict[str, Any], params: Tree) -> tuple[Tree, dict[str, Any]]:
        scale = state["scale"]
        own = tree.tree_map(lambda leaf: widen(leaf) / scale, updates)
        finite = torch.stack([leaf.isfinite().all() for leaf in tree.leaves(own)]).all()
        found, after = link.update(own, state["inner"], params)

        def kept(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(finite, new, old)

        steps = torch.where(finite, state["finite_steps"] + 1, 0)
        grown = steps >= interval
        return tree.tree_map(lambda leaf: torch.where(finite, leaf, torch.zeros_like(leaf)), found), {
            "scale": torch.where(finite, torch.where(grown, scale * growth, scale), scale * backoff),
            "finite_steps": torch.where(grown, 0, steps),
            "inner": tree.tree_map(kept, after, state["inner"]),
        }

    return GradientTransformation(init, update)
