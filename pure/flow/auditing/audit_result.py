"""The result of an audit: blocks, path lengths, deletions, partial Jacobians, advice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pure.block import Block
from pure.errors import ArgumentError
from pure.flow.activations.channel_moments import Moments
from pure.flow.activations.gate_activity import GateShares
from pure.flow.auditing.forward_sweep import Stop
from pure.flow.auditing.growth_fit import Growth
from pure.flow.auditing.remedies import Change, edited
from pure.flow.shared.result import PlainData, Readings
from pure.flow.shared.text_table import table

__all__ = ["Advice", "Audit", "BlockDeletion", "BlockFlow", "PairNorm", "PathShares"]


@dataclass(frozen=True)
class BlockFlow:
    """One block of the chain. What is log10 may be far outside the range of a float: 1e-3000 stands as −3000.

    Attributes:
        name: dotted path, such as "layers.3".
        kind: the type of the block, such as "Residual", with its children's where it is a chain; of a network that ran
            whole "stream" for what ends in a tagged one, else "module".
        depth: its position, from 0.
        log10_gradient: of ‖∂loss/∂y‖₂, y the block's output, over the whole batch; NaN behind a stop.
        log10_gradient_p10: of the 10% quantile of the samples' parts of it.
        log10_gradient_median: of their median.
        log10_gradient_p90: of their 90% quantile.
        log10_parameter_gradient: of ‖∂loss/∂θ‖₂, all its parameters together; −inf without parameters.
        stream: the moments of its output.
        branch: the moments of what its branch adds; None without a tagged branch.
        branch_to_skip: root mean square of the branch over that of the block's input; NaN without a branch.
        gates: what its gates do; None without gates.
    """

    name: str
    kind: str
    depth: int
    log10_gradient: float
    log10_gradient_p10: float
    log10_gradient_median: float
    log10_gradient_p90: float
    log10_parameter_gradient: float
    stream: Moments
    branch: Moments | None
    branch_to_skip: float
    gates: GateShares | None


@dataclass(frozen=True)
class PathShares:
    """The input gradient by the number of branches that it passed.

    Attributes:
        log10_norms: of the part through exactly 0, 1, … branches.
        shares: the squares of those over the square of the whole; in expectation they add to 1 over all lengths.
        blocks: how many blocks have a branch.
    """

    log10_norms: tuple[float, ...]
    shares: tuple[float, ...]
    blocks: int


@dataclass(frozen=True)
class BlockDeletion:
    """One block whose branch adds nothing.

    Attributes:
        name: the block.
        depth: its position.
        loss_change: the loss without it minus the loss with it; NaN where no loss was given.
        relative_change: ‖change of the output‖ / ‖output‖.
    """

    name: str
    depth: int
    loss_change: float
    relative_change: float


@dataclass(frozen=True)
class PairNorm:
    """The averaged squared partial Jacobian norm ‖∂x_target/∂x_source‖²_F / (values of x_target).

    Attributes:
        source: position l: the input of block l.
        target: position m > l.
        log10_value: from one random unit vector a sample, pulled back.
        log10_low: lower end of the 95% interval over the samples; −inf where it reaches 0, or for one sample.
        log10_high: upper end.
    """

    source: int
    target: int
    log10_value: float
    log10_low: float
    log10_high: float


@dataclass(frozen=True, eq=False)
class Advice(PlainData):
    """One finding.

    Attributes:
        rule: its short name, such as "stream growth".
        text: the whole in plain sentences, with the numbers.
        numbers: the same numbers by name.
        evidence: the measurement of the audit that it stands on, such as "stream_growth".
        fix: what to change.
    """

    rule: str
    text: str
    numbers: dict[str, float]
    evidence: str
    fix: str
    names: tuple[str, ...] = field(repr=False)
    change: Change | None = field(repr=False)

    @property
    def appliable(self) -> bool:
        """Whether `apply` can make the change by itself."""
        return self.change is not None

    def apply(self, block: Block) -> Block:
        """Return the network with the change made. Where the change is one of initial values, draw new parameters.

        Raises:
            ArgumentError: the change cannot be made by itself, or `block` is not built as the audited one.
        """
        if self.change is None:
            raise ArgumentError(f"advice {self.rule!r} is to be followed by hand: {self.fix}")
        return edited(block, self.names, self.change)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON."""
        return {name: getattr(self, name) for name in ("rule", "text", "numbers", "evidence", "fix")}


@dataclass(frozen=True, eq=False)
class Audit(Readings[str, BlockFlow]):
    """What one audit measured. As a mapping: {name of a block: what flows through it}, in the order of depth.

    Attributes:
        loss: the loss; NaN where none was given or the numbers ended before it.
        method: "chain" where the network was walked block by block, "whole" where it is one block, whose tagged streams
            and submodules stand for the depths.
        blocks: what was measured, by name.
        family: names of the longest run of blocks of one kind, which the growth is fitted over.
        log10_input_gradient: of ‖∂loss/∂x‖₂, x the network's input.
        input: the moments of the network's input.
        stream_growth: of the stream's second moment over the family; None where it is too short.
        gradient_growth: of ‖∂loss/∂x‖² over the family TOWARDS THE INPUT: above 1 it explodes, below 1 it vanishes.
        paths: the input gradient by path length; None without skips.
        deletions: single blocks deleted.
        pairs: partial Jacobian norms between a few depths.
        stop: where the numbers ended, None if they did not.
        advice: what to do about it, the most urgent first.
        held: the largest number of streams held at once.
    """

    loss: float
    method: Literal["chain", "whole"]
    blocks: dict[str, BlockFlow]
    family: tuple[str, ...]
    log10_input_gradient: float
    input: Moments
    stream_growth: Growth | None
    gradient_growth: Growth | None
    paths: PathShares | None
    deletions: tuple[BlockDeletion, ...]
    pairs: tuple[PairNorm, ...]
    stop: Stop | None
    advice: tuple[Advice, ...]
    held: int

    @property
    def _readings(self) -> Mapping[str, BlockFlow]:
        return self.blocks

    def __repr__(self) -> str:
        worst = self.advice[0].rule if self.advice else "no advice"
        return f"Audit({len(self.blocks)} blocks, {self.method}, {len(self.advice)} advice: {worst})"

    def table(self, of: Literal["blocks", "advice", "deletions", "pairs", "paths"] = "blocks") -> str:
        """Return a plain text table.

        Args:
            of: "blocks", "advice", "deletions", "pairs" or "paths".

        Raises:
            ArgumentError: another `of`.
        """
        if of == "blocks":
            header = [
                "block",
                "kind",
                "log10 gradient",
                "log10 param. gradient",
                "log10 mean x²",
                "branch/skip",
                "gate",
            ]
            return table(header, [_row(block) for block in self.blocks.values()])
        if of == "advice":
            return "\n".join(advice.text for advice in self.advice) or NOTHING_TO_CHANGE
        if of == "deletions":
            rows: list[list[Any]] = [[d.name, d.depth, d.loss_change, d.relative_change] for d in self.deletions]
            return table(["deleted block", "depth", "loss change", "relative output change"], rows)
        if of == "pairs":
            rows = [[f"{p.source} to {p.target}", p.log10_value, p.log10_low, p.log10_high] for p in self.pairs]
            return table(["depths", "log10 APJN", "low", "high"], rows)
        if of == "paths":
            shares = self.paths or PathShares((), (), 0)
            rows = [[k, *row] for k, row in enumerate(zip(shares.log10_norms, shares.shares, strict=True))]
            return table(["branches", "log10 gradient", "share"], rows)
        raise ArgumentError(f"table of {of!r}: expected 'blocks', 'advice', 'deletions', 'pairs' or 'paths'")


NOTHING_TO_CHANGE = (
    "Nothing to change: the stream, its gradient, the branches and the gates are within bounds at every depth."
)


def _row(block: BlockFlow) -> list[str | int | float]:
    ratio: str | float = "-" if math.isnan(block.branch_to_skip) else block.branch_to_skip
    gate: str | float = "-" if block.gates is None else block.gates.mean
    gradient = [block.log10_gradient, block.log10_parameter_gradient]
    return [block.name, block.kind, *gradient, block.stream.log10_second_moment, ratio, gate]
