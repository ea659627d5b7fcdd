"""Norms of the partial Jacobians between the depths of a stream: the result of `partial_jacobians`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from pure.flow.shared.text_table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Method", "PartialJacobians"]

Method = Literal["product", "sweep", "hutchinson"]


@dataclass(frozen=True, eq=False)
class PartialJacobians(Mapping[tuple[int, int], float]):
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

    def __getitem__(self, pair: tuple[int, int]) -> float:
        source, target = pair
        if not 0 <= source <= target < len(self.paths):
            raise KeyError(pair)
        return float(self.norms[source, target])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((source, target) for target in range(len(self.paths)) for source in range(target + 1))

    def __len__(self) -> int:
        return len(self.paths) * (len(self.paths) + 1) // 2

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

    def plot(self, law: Sequence[float] | None = None) -> Figure:
        """Return the heat map over pairs of depths, and the curve from each depth to the last.

        Args:
            law: what theory gives for that curve, such as `theory.partial_jacobian(depth)`.

        Raises:
            PlotError: matplotlib is not installed.
        """
        from pure.flow import plot

        return plot.partial_norms(self, law)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON; pairs that go backwards are None."""

        def rows(matrix: Tensor) -> list[list[float | None]]:
            return [[None if math.isnan(entry) else entry for entry in row] for row in matrix.tolist()]

        return {
            "paths": list(self.paths),
            "widths": list(self.widths),
            "method": self.method,
            **{name: rows(getattr(self, name)) for name in ("norms", "low", "high")},
        }
