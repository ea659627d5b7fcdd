"""Gates that open or close a branch for each sample: ConvNet-AIG's and SkipNet's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params, Shape
from pure.compose.chain import Sequential
from pure.composite import Run
from pure.errors import ArgumentError, NoiseError, ShapeError
from pure.initializers import Device, Initializer, Normal, check_generator
from pure.layers.activation import Activation, ActivationLike, activation
from pure.layers.alignment import align, widen
from pure.layers.linear import Linear
from pure.layers.norm import BatchNorm
from pure.layers.pool import GlobalAvgPool
from pure.leaf import Leaf, describe
from pure.skips.additive.shortcut import Identity, mismatch
from pure.skips.dynamic.branching import Branching
from pure.tags import tag

__all__ = ["AdaptiveResidual", "HardGate", "LogOdds", "SkipLayer", "gate_head"]


@dataclass(frozen=True)
class LogOdds:
    """Bias of two logits whose softmax is (1 − rate, rate).

    >>> LogOdds(0.85)((2,), torch.Generator()).softmax(0)
    tensor([0.1500, 0.8500])
    """

    rate: float

    def __call__(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> Tensor:
        """Return (0, log(rate / (1 − rate)))."""
        return torch.tensor([0.0, math.log(self.rate / (1 - self.rate))], dtype=dtype, device=device)


@dataclass(frozen=True, repr=False)
class HardGate(Leaf):
    """g = 1 if the second of two logits is the larger, else 0; in training differentiated like the softmax.

    In evaluation g = 1[a₁ > a₀]. In training the forward value is 1[a₁ + G₁ > a₀ + G₀] with Gumbel noise G, and the
    derivative that of softmax((a + G) / temperature)₁: the straight-through Gumbel estimator. Without `gumbel` there
    is no noise.

    Noise: `gumbel` (batch, 2).

    Args:
        temperature: of the softmax.
        gumbel: whether training adds Gumbel noise.

    Raises:
        ArgumentError: a temperature that is not positive.
        ShapeError: the input is not (batch, 2).
        NoiseError: training without the noise, or with noise for another batch.

    Source: Veit and Belongie 2017 (1711.11503), section 3; without noise, Wang et al. 2017 (1711.09485), section 3.

    Example:
        >>> HardGate()({}, torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        tensor([1., 0.])
    """

    temperature: float = 1.0
    gumbel: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ArgumentError(f"HardGate temperature={self.temperature!r}: expected a positive number")

    @property
    def stochastic(self) -> bool:
        """Whether training adds noise."""
        return self.gumbel

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw standard Gumbel values, one a logit."""
        if not self.gumbel:
            return {}
        drawn = torch.empty(tuple(x_shape), device=check_generator(generator).device)
        return {"gumbel": -drawn.exponential_(generator=generator).log().to(device=device, dtype=dtype)}

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the decision by the logits alone."""
        if x.ndim != 2 or x.shape[1] != 2:
            raise ShapeError(f"HardGate: input {describe(x)}, expected two logits a sample: (batch, 2)")
        return (x[:, 1] > x[:, 0]).to(x.dtype)

    def forward_training(self, params: Params, x: Any, noise: Any) -> Tensor:
        """Return the decision with noise and the softmax's derivative."""
        self.forward(params, x)
        logits = widen(x)
        if self.gumbel:
            if noise["gumbel"].shape != x.shape:
                raise NoiseError(f"{self}: noise {tuple(noise['gumbel'].shape)} for logits {tuple(x.shape)}")
            logits = logits + noise["gumbel"].to(logits.dtype)
        p = torch.softmax(logits / self.temperature, 1)[:, 1]
        hard = (logits[:, 1] > logits[:, 0]).to(p.dtype)
        return (hard + (p - p.detach())).to(x.dtype)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch,)."""
        return tuple(x_shape[:1])


def gate_head(
    channels: int,
    hidden: int = 16,
    *,
    open_rate: float = 0.85,
    pool: bool = True,
    norm: bool = False,
    gumbel: bool = True,
    temperature: float = 1.0,
    weight_init: Initializer = Normal(std=0.001),
) -> Sequential:
    """Return ConvNet-AIG's gate: pooling, a relu layer, two logits, one decision per sample.

    Args:
        channels: of the input.
        hidden: units of the first layer.
        open_rate: how often the gate is open in training at first.
        pool: whether to average over space first; False for (batch, channels).
        norm: whether BatchNorm follows the first layer, as in the authors' code.
        gumbel: whether training samples; False for SkipNet's gate.
        temperature: of the softmax that gives the derivative.
        weight_init: rule for the weight before the logits; small, so that the bias alone decides at first.

    Raises:
        ArgumentError: an open rate that is not strictly between 0 and 1.

    Source: Veit and Belongie 2017 (1711.11503), section 3; the norm and the last layer's initial
    weights, the authors' code.

    Example:
        >>> gate = gate_head(3)
        >>> params, state = gate.init(torch.Generator().manual_seed(0))
        >>> gate(params, torch.ones(2, 3, 4, 4))
        tensor([1., 1.])
    """
    if not 0 < open_rate < 1:
        raise ArgumentError(f"gate_head open_rate={open_rate!r}: expected a probability in (0, 1)")
    parts: dict[str, Block] = {"pool": GlobalAvgPool()} if pool else {}
    parts["fc1"] = Linear(channels, hidden)
    if norm:
        parts["norm"] = BatchNorm(hidden)
    parts["act"] = Activation("relu")
    parts["fc2"] = Linear(hidden, 2, weight_init=weight_init, bias_init=LogOdds(open_rate))
    return Sequential(**parts, decide=HardGate(temperature, gumbel))


def _gate(block: Block, run: Run, x: Any) -> Tensor:
    g: Tensor = run("gate", x)
    if g.ndim != 1 or g.shape[0] != x.shape[0]:
        raise ShapeError(
            f"{type(block).__name__}: gate {describe(g)} for input {describe(x)}, expected one value a sample: (batch,)"
        )
    return tag(g, "gate", kind="gate")


@dataclass(frozen=True, repr=False)
class AdaptiveResidual(Branching):
    """y = activation(S(x) + g(x) · f(x)) with one g of 0 or 1 a sample: the layer of ConvNet-AIG.

    Tags: "gate" (g), "branch" (g · f(x)), "stream" (y). The paper's loss for a target rate t is
    `(gate.mean() - t) ** 2` of the captured gate.

    Args:
        branch: f; "branch" mode runs it only if a sample's gate is open.
        gate: g, a block that gives (batch,); see `gate_head`.
        shortcut: S; it must give the branch's output shape.
        activation: name of the function after the sum.
        mode: "select" or "branch", see `Branching`.

    Raises:
        ShapeError: S(x) and f(x) differ in shape, or the gate is not (batch,).

    Source: Veit and Belongie 2017 (1711.11503), section 3.

    Example:
        >>> block = AdaptiveResidual(Linear(4, 4), gate_head(4, pool=False))
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    branch: Block
    gate: Block
    shortcut: Block = Identity()
    activation: ActivationLike = "identity"

    def __post_init__(self) -> None:
        activation(self.activation)
        super().__post_init__()

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return y."""
        g = _gate(self, run, x)
        s = run("shortcut", x)

        def add(x: Tensor, s: Tensor) -> Tensor:
            f = run("branch", x)
            if s.shape != f.shape:
                raise ShapeError(mismatch(self.shortcut, s.shape, f.shape))
            return s + tag(align(g, f) * f, "branch", kind="branch")

        total = self.when(g > 0, add, lambda x, s: s, (x, s))
        return tag(activation(self.activation)(total), "stream")


@dataclass(frozen=True, repr=False)
class SkipLayer(Branching):
    """y = g(x) · F(x) + (1 − g(x)) · x with one g of 0 or 1 a sample: a whole layer taken or skipped, as in SkipNet.

    F is the layer with its own skip, such as a `Residual`: unlike ConvNet-AIG's, a closed gate leaves out the function
    after the sum too.

    Tags: "gate" (g), "branch" (g · F(x)), "stream" (y).

    Args:
        layer: F, a block that keeps the input's shape; "branch" mode runs it only if a sample's gate is open.
        gate: g, a block that gives (batch,), such as `gate_head(channels, gumbel=False)`.
        mode: "select" or "branch", see `Branching`.

    Raises:
        ShapeError: F(x) differs from x in shape, or the gate is not (batch,).

    Source: Wang et al. 2017 (1711.09485), equation 1.

    Example:
        >>> block = SkipLayer(Linear(4, 4), gate_head(4, pool=False, gumbel=False))
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    layer: Block
    gate: Block

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return y."""
        g = _gate(self, run, x)

        def mix(x: Tensor) -> Tensor:
            f = run("layer", x)
            if f.shape != x.shape:
                raise ShapeError(
                    f"SkipLayer: layer {tuple(f.shape)} for input {tuple(x.shape)}: a skipped layer keeps the shape"
                )
            opened = align(g, x)
            return tag(opened * f, "branch", kind="branch") + (1 - opened) * x

        return tag(self.when(g > 0, mix, lambda x: x, (x,)), "stream")
