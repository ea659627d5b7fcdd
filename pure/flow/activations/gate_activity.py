"""Gate activity by depth: mean, quantiles, shut and open fractions, and the gates' biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import EMPTY, Block, Params, State
from pure.errors import ArgumentError
from pure.flow.activations.residual_steps import missing, plain
from pure.flow.shared.block_call import block_first, of_input
from pure.flow.shared.input_checks import finite_values, purely
from pure.flow.shared.quantiles import quantiles
from pure.flow.shared.result import PlainData, Readings
from pure.flow.shared.text_table import table
from pure.tags import observe

__all__ = ["GateActivity", "GateShares", "Gates", "gate_shares", "gates"]

SHUT, OPEN = 0.1, 0.9


@dataclass(frozen=True)
class GateShares:
    """How open gates are, over batch and features.

    Attributes:
        mean: mean gate, between 0 and 1.
        shut: the share of values below the lower bound, in an audit 0.01.
        open: the share of values above the upper bound, in an audit 0.99.
    """

    mean: float
    shut: float
    open: float

    @property
    def saturated(self) -> float:
        """The share of values at either end, in an audit where the sigmoid's slope is below 0.01."""
        return self.shut + self.open


def gate_shares(values: Sequence[Tensor], low: float, high: float) -> GateShares | None:
    """Return the shares of all values together, None if there are none.

    Args:
        values: tensors of any shapes.
        low: values below it are shut.
        high: values above it are open.

    >>> gate_shares([torch.tensor([0.0, 0.5]), torch.tensor(1.0)], 0.1, 0.9).mean
    0.5
    """
    flat = [value.detach().double().flatten() for value in values]
    if not flat or not sum(len(part) for part in flat):
        return None
    gates = torch.cat(flat)
    means = gates.mean(), (gates < low).double().mean(), (gates > high).double().mean()
    return GateShares(*torch.stack(means).tolist())


@dataclass(frozen=True, eq=False)
class GateActivity(PlainData):
    """One tagged gate over all its values: batch, positions and features.

    Attributes:
        path: where it was tagged, such as "layers.3.gate".
        depth: 0 for the first gate that the network computed, then 1, ….
        mean: mean activity.
        p10: 10% quantile.
        median: 50% quantile.
        p90: 90% quantile.
        shut_fraction: the part of the values below 0.1.
        open_fraction: the part above 0.9.
        sample_mean: (batch,), each sample's mean activity; float64.
        bias: the bias of the gate's last map, in float64, where one is stored under the gate's own name or its block's.
    """

    path: str
    depth: int
    mean: float
    p10: float
    median: float
    p90: float
    shut_fraction: float
    open_fraction: float
    sample_mean: Tensor
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class Gates(Readings[str, GateActivity]):
    """The gates by depth. As a mapping: {path of the tag: its activity}.

    Attributes:
        gates: {path: activity}.
    """

    gates: dict[str, GateActivity]

    @property
    def _readings(self) -> Mapping[str, GateActivity]:
        return self.gates

    def __repr__(self) -> str:
        mean = sum(gate.mean for gate in self.gates.values()) / len(self.gates)
        return f"Gates({len(self.gates)} gates, mean activity {mean:.4g})"

    def table(self) -> str:
        """Return a plain text table."""
        header = ["gate", "depth", "mean", "p10", "median", "p90", f"< {SHUT}", f"> {OPEN}", "mean bias"]
        rows: list[list[str | int | float]] = [
            [g.path, g.depth, g.mean, g.p10, g.median, g.p90, g.shut_fraction, g.open_fraction, _mean(g.bias)]
            for g in self.gates.values()
        ]
        return table(header, rows)


@block_first
def gates(
    block: Block,
    params: Params,
    x: Any,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
    *,
    training: bool = False,
    noise: Any = None,
) -> Gates:
    """Return the activity of every value tagged "gate", from one forward pass.

    Args:
        block: any block with gates: highway layers, gated skips, squeeze-and-excitation, routing, ….
        params: its parameters.
        x: the input.
        state: its state.
        extras: what the network may read.
        training: run in training.
        noise: as `block.noise` draws it, if training needs it.

    Raises:
        UnsupportedError: no gate is tagged, or the block is not pure.
        ArgumentError: no block, parameters or an input that hold NaN, or a gate that comes out as NaN.

    Source: Srivastava et al. 2015 (1507.06228), section 4.1, figure 2: biases and transform gate activity by depth.

    Example:
        >>> from pure.skips import Highway
        >>> block = Highway.dense(4, gate_bias=-2.0)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> found = gates(block, params, torch.zeros(3, 4))
        >>> round(found["gate"].mean, 4), found["gate"].bias.tolist()
        (0.1192, [-2.0, -2.0, -2.0, -2.0])
    """
    run = of_input("gates", block, params, state, extras, training, noise)
    finite_values(x, "x")
    with torch.no_grad(), purely("gates", params=params, state=state, x=x):
        _, seen = observe(run)(x)
    found: dict[str, GateActivity] = {}
    for tagged in (tagged for tagged in seen if tagged.kind == "gate"):
        value = plain(tagged).detach().double()
        shares = gate_shares([value], SHUT, OPEN)
        if shares is None or not torch.isfinite(value).all():
            what = "NaN or an infinity" if value.numel() else "no values"
            raise ArgumentError(f"gates: {tagged.path!r} holds {what}: flow.signal shows where it starts")
        rows = value.reshape(1, 1) if value.ndim == 0 else value.flatten(1) if value.ndim > 1 else value[:, None]
        p10, median, p90 = quantiles(value.flatten()).tolist()
        found[tagged.path] = GateActivity(
            tagged.path,
            len(found),
            shares.mean,
            p10,
            median,
            p90,
            shares.shut,
            shares.open,
            rows.mean(1),
            _bias(params, tagged.path),
        )
    if not found:
        raise missing("gates", "gate", seen)
    return Gates(found)


def _bias(params: Any, path: str) -> Tensor | None:
    """Return the leaf "bias" under the gate's own name, or the one of the block that tagged it."""
    path = path.partition("#")[0]
    for prefix in (path, path.rpartition(".")[0]):
        leaf = _leaf(params, [*filter(None, prefix.split(".")), "bias"])
        if leaf is not None:
            return leaf.detach().double()
    return None


def _leaf(params: Any, parts: list[str]) -> Tensor | None:
    """Return a leaf by its path; a number that is no name is a depth of stacked leaves."""
    node, depths = params, []
    for part in parts:
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif part.isdigit():
            depths.append(int(part))
        else:
            return None
    if not isinstance(node, Tensor) or node.ndim < len(depths):
        return None
    return node[tuple(depths)] if all(d < n for d, n in zip(depths, node.shape, strict=False)) else None


def _mean(bias: Tensor | None) -> float | str:
    return "-" if bias is None else float(bias.mean())
