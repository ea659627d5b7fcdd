"""Learnt gates in place of the sum x + f(x): those of GTrXL, and the recurrent cell of GRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ArgumentError, ShapeError
from pure.initializers import Constant, Device
from pure.layers.linear import Linear
from pure.skips.streams.stream_axis import owned
from pure.tags import tag

__all__ = ["GRUCellSkip", "GatedSkip"]

Gate = Literal["gru", "input", "output", "highway", "sigtanh"]
PROJECTIONS: dict[str, tuple[str, ...]] = {
    "gru": ("w_r", "u_r", "w_z", "u_z", "w_g", "u_g"),
    "input": ("w_g",),
    "output": ("w_g",),
    "highway": ("w_g",),
    "sigtanh": ("w_g", "u_g"),
}


@dataclass(frozen=True, repr=False)
class _Gated(Composite):
    """A branch over (batch, …, features), and the check that it keeps the shape."""

    branch: Block
    features: int

    def _branch(self, run: Run, x: Any) -> Any:
        y = run("branch", x)
        if y.shape != x.shape or x.shape[-1] != self.features:
            raise ShapeError(
                f"{type(self).__name__}({self.features}): input {tuple(x.shape)}, branch {tuple(y.shape)}: expected "
                f"two tensors (batch, …, {self.features}): project one of them first"
            )
        return y


@dataclass(frozen=True, repr=False)
class GatedSkip(_Gated):
    """g(x, y) with y = f(x), the gates of the gated transformer-XL, over the last axis.

    - "gru": (1 − z) ⊙ x + z ⊙ tanh(W_g y + U_g (r ⊙ x)), r = σ(W_r y + U_r x), z = σ(W_z y + U_z x − b)
    - "input": σ(W_g x) ⊙ x + y
    - "output": x + σ(W_g x − b) ⊙ y
    - "highway": σ(W_g x + b) ⊙ x + (1 − σ(W_g x + b)) ⊙ y
    - "sigtanh": x + σ(W_g y − b) ⊙ tanh(U_g y)

    "gru" is not `torch.nn.GRUCell`: r acts in front of U_g, not behind it, and z is the share of the new value (there
    the old one's); see `GRUCellSkip`. A positive b carries the stream at first. The paper puts a relu behind each
    branch; make it a part of f.

    Leaves: `branch`; `w_r`, … without biases; `bias` (features,), but for "input".

    Tags: "gate" (the sigmoid: z, or σ(…)), "branch" (what is added to the gated or plain x), "stream".

    Args:
        branch: f, a block that keeps the input's shape.
        features: size of the last axis.
        kind: "gru", "input", "output", "highway" or "sigtanh".
        bias: every b at first.

    Raises:
        ArgumentError: an unknown kind.
        ShapeError: f(x) differs from x in shape.

    Source: Parisotto et al. 2019 (1910.06764), "Gating Layers".

    Example:
        >>> from pure.layers import Activation
        >>> block = GatedSkip(Activation("tanh"), 4)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    kind: Gate = "gru"
    bias: float = 2.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Gate):
            raise ArgumentError(f"GatedSkip kind={self.kind!r}: expected one of {', '.join(get_args(Gate))}")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the branch and the projections."""
        linear = Linear(self.features, self.features, bias=False)
        return {"branch": self.branch} | dict.fromkeys(PROJECTIONS[self.kind], linear)

    def own(self, generator: torch.Generator, dtype: torch.dtype, device: Device) -> Params:
        """Return b."""
        if self.kind == "input":
            return {}
        return {"bias": Constant(self.bias)((self.features,), generator, dtype, device)}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return g(x, f(x))."""
        y = self._branch(run, x)
        bias = 0.0 if self.kind == "input" else owned(self, params, "bias", (self.features,), x)
        if self.kind == "gru":
            r = torch.sigmoid(run("w_r", y) + run("u_r", x))
            share = tag(torch.sigmoid(run("w_z", y) + run("u_z", x) - bias), "gate", kind="gate")
            carried, new = (1 - share) * x, torch.tanh(run("w_g", y) + run("u_g", r * x))
        elif self.kind == "input":
            share = tag(torch.sigmoid(run("w_g", x)), "gate", kind="gate")
            return tag(share * x + tag(y, "branch", kind="branch"), "stream")
        elif self.kind == "highway":
            share = tag(1 - torch.sigmoid(run("w_g", x) + bias), "gate", kind="gate")
            carried, new = (1 - share) * x, y
        else:
            seen = x if self.kind == "output" else y
            share = tag(torch.sigmoid(run("w_g", seen) - bias), "gate", kind="gate")
            carried, new = x, y if self.kind == "output" else torch.tanh(run("u_g", y))
        return tag(carried + tag(share * new, "branch", kind="branch"), "stream")


@dataclass(frozen=True, repr=False)
class GRUCellSkip(_Gated):
    """GRUCell(input f(x), hidden state x): (1 − z) ⊙ n + z ⊙ x, over the last axis.

    r = σ(W_r y + b_r + U_r x + c_r), z = σ(W_z y + b_z + U_z x + c_z), n = tanh(W_n y + b_n + r ⊙ (U_n x + c_n)) with
    y = f(x), as in `torch.nn.GRUCell`. z is the share of the stream.

    Children: `branch`; `ih` (W and b) and `hh` (U and c), each of size 3 · features in the order r, z, n.

    Tags: "gate" (1 − z, the share of the new value), "branch" ((1 − z) ⊙ n), "stream".

    Args:
        branch: f, a block that keeps the input's shape.
        features: size of the last axis.

    Raises:
        ShapeError: f(x) differs from x in shape.

    Source: Cho et al. 2014 (1406.1078), with the reset gate where cuDNN has it.

    Example:
        >>> from pure.layers import Activation
        >>> block = GRUCellSkip(Activation("tanh"), 4)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> params["ih"]["weight"].shape, block(params, torch.ones(2, 4)).shape
        (torch.Size([12, 4]), torch.Size([2, 4]))
    """

    def parts(self) -> dict[str, Block]:
        """Return the branch and the two projections."""
        linear = Linear(self.features, 3 * self.features)
        return {"branch": self.branch, "ih": linear, "hh": linear}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the cell's new state."""
        y = self._branch(run, x)
        r_y, z_y, n_y = run("ih", y).chunk(3, -1)
        r_x, z_x, n_x = run("hh", x).chunk(3, -1)
        share = tag(1 - torch.sigmoid(z_y + z_x), "gate", kind="gate")
        n = torch.tanh(n_y + torch.sigmoid(r_y + r_x) * n_x)
        return tag(tag(share * n, "branch", kind="branch") + (1 - share) * x, "stream")
