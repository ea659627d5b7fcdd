"""Scaled residuals: learnt or fixed factors on the branch, and their initial values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pure.block import Block, Extras, Params
from pure.compose.chain import Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError, ShapeError
from pure.layers.dropout import DropPath
from pure.layers.scale import Scale
from pure.skips.additive.residual import Residual
from pure.tags import tag

__all__ = ["Weighted", "layer_scale", "layer_scale_start", "rezero", "skip_init", "stochastic_depth"]


def rezero(branch: Block) -> Residual:
    """Return x + a · f(x), a learnt scalar that starts at 0: the identity at first, for any x.

    Leaves: the branch's under `branch.f`, and `branch.scale.weight` of shape ().

    Args:
        branch: f, which keeps the input's shape.

    Source: Bachlechner et al. 2020 (2003.04887), equation 1.

    Example:
        >>> import torch
        >>> from pure.layers import Linear
        >>> params, _ = rezero(Linear(2, 2)).init(torch.Generator().manual_seed(0))
        >>> rezero(Linear(2, 2))(params, torch.tensor([[1.0, -2.0]]))
        tensor([[ 1., -2.]])
    """
    return Residual(Sequential(f=branch, scale=Scale(value=0.0)))


def skip_init(branch: Block, value: float = 0.0) -> Residual:
    """Return x + a · f(x), a learnt scalar that starts at `value`: 0, or 1/√d for d blocks.

    The formula of `rezero`; here the branch is one without norms, with a bias in each convolution.

    Args:
        branch: f, which keeps the input's shape.
        value: a at first.

    Source: De and Smith 2020 (2002.10444), SkipInit.

    Example:
        >>> import torch
        >>> from pure.layers import Linear
        >>> params, _ = skip_init(Linear(2, 2), 0.5).init(torch.Generator().manual_seed(0))
        >>> params["branch"]["scale"]["weight"]
        tensor(0.5000)
    """
    return Residual(Sequential(f=branch, scale=Scale(value=value)))


def layer_scale(branch: Block, features: int, value: float = 1e-5, axis: int = -1) -> Residual:
    """Return x + λ ⊙ f(x), one learnt λ a feature, all `value` at first.

    Leaves: the branch's under `branch.f`, and `branch.scale.weight` (features,).

    Args:
        branch: f.
        features: size of the axis that λ runs along.
        value: see `layer_scale_start`.
        axis: −1 for (batch, …, features), 1 for (batch, channels, *space).

    Source: Touvron et al. 2021 (2103.17239), equation 4.

    Example:
        >>> import torch
        >>> from pure.layers import Linear
        >>> params, _ = layer_scale(Linear(2, 2), 2, 0.1).init(torch.Generator().manual_seed(0))
        >>> params["branch"]["scale"]["weight"]
        tensor([0.1000, 0.1000])
    """
    return Residual(Sequential(f=branch, scale=Scale(features, value, axis)))


def layer_scale_start(depth: int) -> float:
    """Return LayerScale's initial value for `depth`: 0.1 to 18, 1e-5 to 24, 1e-6 beyond.

    Args:
        depth: number of blocks.

    Source: Touvron et al. 2021 (2103.17239), section 2, "LayerScale".

    >>> [layer_scale_start(depth) for depth in (12, 24, 36)]
    [0.1, 1e-05, 1e-06]
    """
    return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6


def stochastic_depth(branch: Block, rate: float) -> Residual:
    """Return x + (b / p) · f(x) in training, b ~ Bernoulli(p) a sample, p = 1 − rate; x + f(x) in evaluation.

    In a stack the rate rises with depth: `Repeat(stochastic_depth(f, 0.0), n, vary={"branch.drop.rate":
    DropPath.linear(rate, n)})`.

    Args:
        branch: f, which keeps the input's shape.
        rate: 1 − p, in [0, 1).

    Raises:
        ArgumentError: a rate outside [0, 1).

    Source: Huang et al. 2016 (1603.09382), equation 2; the linear rule, section 3.

    Example:
        >>> from pure.layers import Linear
        >>> list(stochastic_depth(Linear(2, 2), 0.1).branch.children())
        ['f', 'drop']
    """
    return Residual(Sequential(f=branch, drop=DropPath(rate)))


@dataclass(frozen=True, repr=False)
class Weighted(Composite):
    """y = carry · x + scale · f(inner · x), all three constants.

    Tags: "branch" (scale · f), "stream" (y).

    Args:
        branch: f, a block that keeps the input's shape.
        carry: in front of the stream.
        scale: in front of the branch.
        inner: in front of the branch's input.

    Raises:
        ShapeError: a branch that changes the shape.
        ArgumentError: a branch that is no block.

    Source: `norm_free`: Brock et al. 2021 (2101.08692), section 4; `by_depth`: keeps the variance of the stream at 1 if
        every branch keeps its own.

    Example:
        >>> import torch
        >>> from pure.layers import Activation
        >>> Weighted(Activation("identity"), carry=0.5, scale=2.0, inner=3.0)({}, torch.ones(1, 1))
        tensor([[6.5000]])
    """

    branch: Block
    carry: float = 1.0
    scale: float = 1.0
    inner: float = 1.0

    @staticmethod
    def norm_free(depth: int, alpha: float = 0.2, variance: float = 1.0) -> tuple[float, ...]:
        """Return β of `depth` blocks x + α · f(β x): βₗ = 1/√Varₗ, Varₗ₊₁ = Varₗ + α²; for `inner` in a Repeat.

        >>> [round(beta, 3) for beta in Weighted.norm_free(3, alpha=1.0)]
        [1.0, 0.707, 0.577]
        """
        return tuple(1 / math.sqrt(variance + index * alpha**2) for index in range(depth))

    @staticmethod
    def by_depth(depth: int) -> dict[str, tuple[float, ...]]:
        """Return carry √((i − 1)/i) and scale √(1/i) of blocks i = 2 … depth + 1, for `vary` of a Repeat.

        >>> {name: [round(v, 3) for v in values] for name, values in Weighted.by_depth(2).items()}
        {'carry': [0.707, 0.816], 'scale': [0.707, 0.577]}
        """
        if depth < 1:
            raise ArgumentError(f"by_depth({depth}): expected at least 1")
        blocks = range(2, depth + 2)
        return {"carry": tuple(math.sqrt((i - 1) / i) for i in blocks), "scale": tuple(i**-0.5 for i in blocks)}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return y."""
        f = run("branch", x if self.inner == 1.0 else self.inner * x)
        if f.shape != x.shape:
            raise ShapeError(
                f"Weighted: branch {tuple(f.shape)} for input {tuple(x.shape)}: expected one shape: "
                "use Residual with a shortcut where it changes"
            )
        f = tag(f if self.scale == 1.0 else self.scale * f, "branch", kind="branch")
        return tag((x if self.carry == 1.0 else self.carry * x) + f, "stream")
