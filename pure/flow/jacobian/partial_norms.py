"""Norms of the partial Jacobians between the depths of a stream: the result of `partial_jacobians`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from pure.flow.shared.result import Readings, finite_or_none
from pure.flow.shared.text_table import table

__all__ = ["Method", "PartialJacobians"]

Method = Literal["product", "sweep", "hutchinson"]


@dataclass(frozen=True, eq=False)
class PartialJacobians(Readings[tuple[int, int], float]):
    """‖∂h_t/∂h_s‖²_F / n_t for depths s ≤ t, averaged over the batch. As a mapping: {(s, t): value}.

    Attributes:
        paths: where each depth was tagged; depth 0 is "input", the block's own.
        norms: (depths, depths), float64: [s, t], 1 on the diagonal, NaN below it.
        low: the same, lower ends of the 95% interval over the probes; equal to `norms` where those are exact.
        high: upper ends.
        per_sample: (depths, depths, batch), each sample's own value.
        widths: n, the number of values a sample at each depth.
        method: "product" (of the blocks' Jacobians) and "sweep" (backward from each depth) are exact; "hutchinson".
    """

    paths: list[str]
    norms: Tensor
    low: Tensor
    high: Tensor
    per_sample: Tensor
    widths: list[int]
    method: Method

    @cached_property
    def _readings(self) -> Mapping[tuple[int, int], float]:
        rows = self.norms.tolist()
        return {(source, target): rows[source][target] for target in range(len(rows)) for source in range(target + 1)}

    def __repr__(self) -> str:
        return f"PartialJacobians({len(self.paths)} depths, {self.per_sample.shape[2]} samples, by {self.method})"

    @property
    def to_last(self) -> Tensor:
        """(depths,): from each depth to the last one."""
        return self.norms[:, -1]

    def table(self) -> str:
        """Return a plain text table of the norms from each depth to the last."""
        bounds = zip(self.norms[:, -1].tolist(), self.low[:, -1].tolist(), self.high[:, -1].tolist(), strict=True)
        rows = [
            [str(depth), path, width, *bound]
            for depth, (path, width, bound) in enumerate(zip(self.paths, self.widths, bounds, strict=True))
        ]
        return table(["depth", "stream", "width", "to the last", "95% low", "95% high"], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON, without the single samples; pairs that go backwards are None."""
        return {name: finite_or_none(value) for name, value in super().to_dict().items() if name != "per_sample"}
