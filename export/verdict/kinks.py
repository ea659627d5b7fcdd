"""Kinks: decisions that rounding leaves open, and the reference on the side that a file took.

The derivative of relu jumps at 0, that of max pooling where two values tie. Where the operand lies within rounding of
the jump, float32 takes either side, and both results are right. A float64 reference takes one of them, so that a
correct file may differ from it by a whole term of a sum.

The recorded function is therefore run in float64 once more, and made to take the file's side of such decisions, which
the file gives as additional outputs. A side is followed only where the operand's distance from the jump in that run is
within `MAX_OPEN_MARGIN_ROUNDINGS` times the rounding of the operand, which is what the recorded function itself loses
there in its own precision. Operands that are exact leave nothing open. At a clear distance the reference keeps its
side, and a file that takes another is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch

from export.ops.registry import LOWERINGS
from export.runtime.loaded_file import Loaded
from export.trace import isolation
from export.trace.arguments import Arguments
from export.trace.aten_graph import Traced, record
from export.verdict import branch_forcing, reference_runs
from export.verdict.deciding_operators import decision_values
from export.verdict.error_ratio import Errors, Settled
from export.verdict.followed_run import FollowedRun, Tally
from export.verdict.verdict_result import Kink

__all__ = ["Kinks"]

MAX_RECORDING_ERROR = 2.0**-36
"""Largest difference of the recorded function from eager, both in float64, relative to a leaf's root mean square."""

MAX_SIDES_TRIED = 12
"""How many open decisions are tried the other way, where what the file shows does not explain its output."""

MAX_EXPLAINED_ERROR_ROUNDINGS = 4.0
"""Error of a leaf, in units of its rounding on these inputs, that needs no other explanation."""


class Kinks:
    """The open decisions of a function, as eager and a file take them.

    Args:
        fn: the function.
        arguments: its example arguments.
        model: the file's content.
        baked: positions of the arguments that are inside the file.
        load: opens a changed copy of the model.

    Raises:
        ExportError: if the function cannot be recorded again.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        arguments: Arguments,
        model: onnx.ModelProto,
        baked: frozenset[int],
        load: Callable[[onnx.ModelProto], Loaded],
    ) -> None:
        self.traced: Traced = record(fn, arguments, LOWERINGS)
        self.arguments, self.baked = arguments, baked
        self.values = decision_values(model, self.traced.graph.graph)
        self.tallies: dict[str, Tally] = {}
        if self.values:
            self.loaded = load(branch_forcing.with_outputs(model, list(dict.fromkeys(self.values.values()))))

    def settle(
        self,
        leaves: Sequence[torch.Tensor],
        exact: Sequence[torch.Tensor],
        found: Sequence[torch.Tensor] | None = None,
    ) -> Settled | None:
        """Compute the reference on the file's side.

        Args:
            leaves: the inputs.
            exact: eager's output in float64.
            found: the file's output. Asked for its decisions, a file may be optimised otherwise and decide otherwise
                than by itself; what it shows of an open decision is then tried both ways, and what explains its
                output is kept.

        Returns:
            That reference, or None where it cannot be had: the file shows no decisions, or the recorded function is
            not eager's equal on these inputs.
        """
        if not self.values:
            return None
        plain = self._run(FollowedRun(self.traced.graph), leaves, torch.float64)
        if not all(_equal(mine, eager) for mine, eager in zip(plain, exact, strict=True)):
            return None
        native = FollowedRun(self.traced.graph)
        own = self._run(native, leaves, None)
        level = FollowedRun(self.traced.graph, native.sides, native.operands)
        beside = self._run(level, leaves, torch.float64)
        file = FollowedRun(self.traced.graph, self._read(leaves, level), native.operands, level.rounding)
        reference = self._run(file, leaves, torch.float64)
        rounding = tuple(mine.double() - target.double() for mine, target in zip(own, beside, strict=True))
        if found is not None:
            file, reference = self._explained(leaves, file, reference, found, rounding)
        for name, one in file.tallies.items():
            known = self.tallies.get(name, Tally())
            counts = (known.compared + one.compared, known.followed + one.followed, known.clear + one.clear)
            self.tallies[name] = Tally(*counts, max(known.margin, one.margin))
        return Settled(tuple(reference), rounding)

    def _explained(
        self,
        leaves: Sequence[torch.Tensor],
        file: FollowedRun,
        exact: list[torch.Tensor],
        found: Sequence[torch.Tensor],
        rounding: Sequence[torch.Tensor],
    ) -> tuple[FollowedRun, list[torch.Tensor]]:
        """Take the other side of open decisions, the closest first, where that explains the output far better."""
        error = _largest_error(found, exact, rounding)
        for name, index in file.open_comparisons()[:MAX_SIDES_TRIED]:
            if error <= MAX_EXPLAINED_ERROR_ROUNDINGS:
                break
            sides = {**file.sides, name: file.sides[name].clone()}
            sides[name].view(-1)[index] = ~sides[name].view(-1)[index]
            other = FollowedRun(self.traced.graph, sides, file.native, file.roundings)
            result = self._run(other, leaves, torch.float64)
            if (reached := _largest_error(found, result, rounding)) < error / 2:
                other.tallies = {key: _more(tally, file.tallies.get(key)) for key, tally in other.tallies.items()}
                file, exact, error = other, result, reached
        return file, exact

    def found(self) -> tuple[Kink, ...]:
        """Return the operations whose open decisions the file took otherwise than float64."""
        nodes = {node.name: node for node in self.traced.graph.graph.nodes}
        return tuple(
            Kink(
                op=str(nodes[name].target).removeprefix("aten.").split(".")[0],
                path=nodes[name].meta.get("path", ""),
                source=nodes[name].meta.get("source", ""),
                **tally._asdict(),
                status="fail" if tally.clear else "ambiguous",
            )
            for name, tally in self.tallies.items()
            if tally.followed or tally.clear
        )

    def _run(self, run: FollowedRun, leaves: Sequence[torch.Tensor], to: torch.dtype | None) -> list[torch.Tensor]:
        given = [leaf.to(to) if to is not None and leaf.is_floating_point() else leaf for leaf in leaves]
        with isolation.restored(), torch.no_grad(), reference_runs.precision(to):
            return list(run.run(*given))

    def _read(self, leaves: Sequence[torch.Tensor], level: FollowedRun) -> dict[str, torch.Tensor]:
        """Ask the file for its decisions; equal computations are one node there, and share its value."""
        names = list(dict.fromkeys(self.values.values()))
        args = [arg for i, arg in enumerate(self.arguments.rebuild(leaves)) if i not in self.baked]
        with torch.no_grad():
            found = dict(zip(names, self.loaded.inner_values(names, *args), strict=True))
        place = next((operand.device for operand in level.operands.values()), None)
        sides = {name: torch.from_numpy(found[value].copy()).to(place) for name, value in self.values.items()}
        for name, operand in level.operands.items():
            if name not in sides:
                for other, value in list(sides.items()):
                    same = level.targets.get(other) == level.targets[name]
                    if same and torch.equal(level.operands[other], operand):
                        sides[name] = value
                        break
        return sides


def _largest_error(
    found: Sequence[torch.Tensor], exact: Sequence[torch.Tensor], rounding: Sequence[torch.Tensor]
) -> float:
    """Return the largest error of a leaf in units of its rounding."""
    worst = 0.0
    for mine, target, lost in zip(found, exact, rounding, strict=True):
        if mine.is_floating_point() and mine.numel():
            errors = Errors()
            errors.add(mine, target, lost)
            _, unit, ratio = errors.measures(mine.dtype)
            worst = max(worst, ratio if unit else 0.0)
    return worst


def _more(tally: Tally, before: Tally | None) -> Tally:
    """Keep what was clear before a side was tried, for that is what the file showed."""
    if before is None:
        return tally
    followed, margin = max(tally.followed, before.followed), max(tally.margin, before.margin)
    return Tally(tally.compared, followed, before.clear, margin)


def _equal(mine: torch.Tensor, eager: torch.Tensor) -> bool:
    if mine.shape != eager.shape:
        return False
    if not eager.is_floating_point():
        return torch.equal(mine, eager)
    scale = float(eager.square().mean().sqrt()) if eager.numel() else 0.0
    return bool((mine - eager).abs().le(MAX_RECORDING_ERROR * scale).all())
