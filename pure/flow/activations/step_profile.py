"""Three measures of every residual step: norm preservation, branch-to-skip ratio, and iterative inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pure.block import EMPTY, Block, Params, State
from pure.flow.activations.residual_steps import Step, missing, steps_of
from pure.flow.shared.block_call import block_first, of_input
from pure.flow.shared.estimate import Estimate, estimate
from pure.flow.shared.input_checks import finite, finite_values, purely, scalar
from pure.flow.shared.quantiles import quantiles
from pure.flow.shared.result import PlainData, Readings, finite_or_none
from pure.flow.shared.text_table import table
from pure.flow.shared.tracked_leaves import tracked
from pure.tags import observe

__all__ = ["DepthProfile", "Spread", "StepProfile", "depth_profile"]

Measure = Literal["preservation", "branch_ratio", "inference", "consecutive"]
MEASURES: tuple[Measure, ...] = ("preservation", "branch_ratio", "inference", "consecutive")


@dataclass(frozen=True, eq=False)
class Spread(PlainData):
    """One number a sample, and how it spreads; samples where it would divide by 0 are left out.

    Attributes:
        samples: (batch,), float64; NaN or infinite where it is undefined.
        p10: 10% quantile over the samples.
        median: 50% quantile.
        p90: 90% quantile.
        mean: over the samples, with its 95% interval for independent samples.
    """

    samples: Tensor
    p10: float
    median: float
    p90: float
    mean: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON; None stands where a number does not exist."""
        interval = {"mean": self.mean.value, "mean_low": self.mean.low, "mean_high": self.mean.high}
        return dict(finite_or_none(super().to_dict() | interval))


@dataclass(frozen=True, eq=False)
class StepProfile(PlainData):
    """The measures of one step x → y of the stream, f its branch and g = ∂loss/∂x; None where one does not exist.

    Attributes:
        path: of the stream's tag, such as "layers.3.stream".
        depth: 0 for the first step.
        branches: the paths of the branches' tags.
        preservation: ‖∂loss/∂x‖₂ / ‖∂loss/∂y‖₂; 1 where the step keeps the gradient's norm.
        branch_ratio: ‖f‖₂ / ‖x‖₂; of several branches, their joint norm.
        inference: cos(f, −∂loss/∂x); positive where the step goes down the loss. One branch of x's shape only.
        consecutive: cos(f, next step's f); both of their inputs' shape, and neither step inside the other.
    """

    path: str
    depth: int
    branches: tuple[str, ...]
    preservation: Spread | None
    branch_ratio: Spread | None
    inference: Spread | None
    consecutive: Spread | None


@dataclass(frozen=True, eq=False)
class DepthProfile(Readings[str, StepProfile]):
    """The measures by depth. As a mapping: {path of the stream's tag: its step}.

    Attributes:
        loss: of the whole batch.
        steps: {path: measures}, in the order of depth.
    """

    loss: float
    steps: dict[str, StepProfile]

    @property
    def _readings(self) -> Mapping[str, StepProfile]:
        return self.steps

    def __repr__(self) -> str:
        return f"DepthProfile(loss={self.loss:.4g}, {len(self.steps)} steps)"

    def table(self) -> str:
        """Return a plain text table: medians over the samples, means of the cosines; "-" where there is none."""
        header = ["stream", "‖∂x‖/‖∂y‖", "‖f‖/‖x‖", "cos(f, −∂x)", "cos(f, next f)"]
        rows: list[list[str | int | float]] = [
            [
                step.path,
                *("-" if spread is None else spread.median for spread in (step.preservation, step.branch_ratio)),
                *("-" if spread is None else spread.mean.value for spread in (step.inference, step.consecutive)),
            ]
            for step in self.steps.values()
        ]
        return table(header, rows)


@block_first
def depth_profile(
    block: Block,
    params: Params,
    x: Any,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
    *,
    loss: Callable[..., Any],
    targets: Sequence[Any] = (),
    training: bool = False,
    noise: Any = None,
) -> DepthProfile:
    """Return norm preservation, branch-to-skip ratio and iterative-inference cosines: one forward and backward pass.

    A step goes from what the block that tags the stream was given, x, to the stream that it tags, y. Gradients are
    total derivatives of the loss as it is; the measures do not change with its scale. All norms and products are
    taken a sample at a time, in float64.

    Args:
        block: any block that tags its streams; those of `pure.skips` and `pure.nets` do.
        params: its parameters.
        x: the block's input, batch axis first.
        state: its state.
        extras: what the network may read.
        loss: `loss(y, *targets)` is the WHOLE batch's scalar loss of the block's output, such as `F.cross_entropy`.
        targets: what the loss takes after the output.
        training: use batch statistics. The samples then depend on each other, and the intervals are too narrow.
        noise: as `block.noise` draws it, if training needs it.

    Raises:
        UnsupportedError: no stream is tagged, the function is not pure, or the loss is NaN or infinite.
        ShapeError: the loss is not a scalar.
        ArgumentError: no block, or NaN in what was given.

    Source: Zaeemzadeh et al. 2018 (1805.07477), section 3, for preservation; Jastrzębski et al. 2018 (1710.04773),
        section 4, for the ratio and the cosine.

    Example:
        >>> from pure import Linear, Residual
        >>> net, params = Residual(Linear(2, 2, bias=False)), {"branch": {"weight": -0.5 * torch.eye(2)}}
        >>> half = lambda y: y.square().sum() / 2
        >>> step = depth_profile(net, params, torch.tensor([[3.0, 4.0]]), loss=half)["stream"]
        >>> step.preservation.median, step.branch_ratio.median, round(step.inference.median, 12)
        (0.5, 0.5, 1.0)
    """
    run = of_input("depth_profile", block, tracked(params), state, extras, training, noise)
    finite_values(x, "x")
    finite_values(targets, "targets")
    given = tracked(x)
    with torch.enable_grad(), purely("depth_profile", params=params, state=state, x=x, targets=targets):
        out, seen = observe(run, ("stream", "branch"), inputs=True)(given)
        value = scalar(loss(out, *targets), "the batch's")
    finite(value)
    steps = steps_of(given, seen)
    if not steps:
        raise missing("depth_profile", "stream", seen)
    gradients = _gradients(value, [tensor for step in steps for tensor in (step.x, step.y) if tensor is not None])
    profiles = [
        _profile(depth, step, following, gradients)
        for depth, (step, following) in enumerate(zip(steps, [*steps[1:], None], strict=True))
    ]
    return DepthProfile(value.item(), {profile.path: profile for profile in profiles})


def _gradients(value: Tensor, tensors: Sequence[Tensor]) -> dict[int, Tensor]:
    """Return {id of the tensor: ∂value/∂tensor}, without those that the value does not depend on."""
    unique = {id(tensor): tensor for tensor in tensors if tensor.requires_grad}
    if not unique or not value.requires_grad:
        return {}
    found = torch.autograd.grad(value, list(unique.values()), allow_unused=True)
    return {key: gradient for key, gradient in zip(unique, found, strict=True) if gradient is not None}


def _profile(depth: int, step: Step, following: Step | None, gradients: Mapping[int, Tensor]) -> StepProfile:
    branches = [branch.value.detach() for branch in step.branches]
    by_x, by_y = gradients.get(id(step.x)), gradients.get(id(step.y))
    f = _added(step)
    preservation = ratio = inference = consecutive = None
    if by_x is not None and by_y is not None and by_x.shape[0] == by_y.shape[0]:
        preservation = spread_of(norms(by_x) / norms(by_y))
    if step.x is not None and branches and all(len(branch) == len(step.x) for branch in branches):
        joint = torch.stack([norms(branch) for branch in branches]).square().sum(0).sqrt()
        ratio = spread_of(joint / norms(step.x.detach()))
    if f is not None and by_x is not None:
        inference = spread_of(cosines(f, -by_x))
    if f is not None and following is not None and not _nested(step.block, following.block):
        after = _added(following)
        if after is not None and after.shape == f.shape:
            consecutive = spread_of(cosines(f, after))
    names = tuple(branch.path for branch in step.branches)
    return StepProfile(step.path, depth, names, preservation, ratio, inference, consecutive)


def _added(step: Step) -> Tensor | None:
    """Return the one branch of a step that keeps its shape; None if the notion does not exist."""
    if len(step.branches) != 1 or step.x is None:
        return None
    f: Tensor = step.branches[0].value.detach()
    return f if f.shape == step.x.shape == step.y.shape else None


def _nested(first: str, second: str) -> bool:
    """Whether one of two blocks lies inside the other; the same block again does not."""
    shorter, longer = sorted((first, second), key=len)
    return first != second and (not shorter or longer.startswith(shorter + "."))


def norms(value: Tensor) -> Tensor:
    """Return each sample's Euclidean norm: (batch,), float64."""
    return torch.linalg.vector_norm(value.reshape(len(value), -1), dim=1, dtype=torch.float64)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return each sample's cosine: (batch,), float64; NaN where a norm is 0."""
    units = []
    for rows in (a.double().reshape(len(a), -1), b.double().reshape(len(b), -1)):
        units.append(rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True))
    return (units[0] * units[1]).sum(1)


def spread_of(samples: Tensor) -> Spread:
    """Return how one number a sample spreads."""
    known = samples[samples.isfinite()]
    if len(known) > 1:
        mean = estimate(known)
    else:
        mean = Estimate(float(known.mean()), -math.inf, math.inf, math.nan, len(known))
    p10, median, p90 = quantiles(known).tolist()
    return Spread(samples, p10, median, p90, mean)
