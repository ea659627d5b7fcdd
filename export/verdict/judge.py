"""Which inputs, sizes and branches a file is judged on, and what comes of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from export.errors import ExportError
from export.files.pytree_structure import describe
from export.graph.onnx_types import dtype_name
from export.runtime.loaded_file import Loaded
from export.trace.arguments import is_tensor, resized
from export.trace.symbolic_sizes import sizes_of
from export.verdict import branch_forcing
from export.verdict.error_ratio import Errors, finite, largest_ratio, misfit, numeric_row
from export.verdict.paired_runs import REFUSALS, PairedRuns
from export.verdict.pooled_errors import Pool, fails, fails_narrowly
from export.verdict.reference_runs import Outcome, Results
from export.verdict.verdict_result import Predicate, Row, Status

__all__ = ["Judge"]

MIN_POOLED_VALUES = 64
"""A leaf of fewer elements is pooled over more varied inputs, until this many numbers are compared."""

MIN_SAMPLES, MAX_SAMPLES = 4, 32
"""On how many varied inputs each case is run, at least and at most."""

MAX_SAMPLING_SECONDS = 10.0
"""Seconds after which a slow function gets no more than the least number of inputs, unless it would fail on those."""

SAMPLES_ON_NARROW_FAILURE = 64
"""On how many inputs a narrow failure is looked at.

What rounding does to one run it does to all elements of a leaf together (a mean's error is one number), so that it is
the number of runs that says how well a ratio is known: from 13 runs to a factor of 1.75, from 64 to 1.3 (95 %).
"""

MAX_AMBIGUOUS_MARGIN_ROUNDINGS = 8.0
"""Margin of a predicate, in units of its rounding, up to which either branch may be right."""

DYNAMIC_SIZES = (1, 2, 3, 7)
"""Dynamic sizes that are always tried, beside the example's and a larger one."""


class Judge:
    """Compares a file with the eager function, case by case.

    Args:
        runs: the file and the function.
        limit: the largest ratio that passes, None for the usual.

    Attributes:
        samples: the most inputs that a case was run on.
        lifted: source lines of casts that were lifted to float64 for the reference.
        predicates: what was found of each outermost `If`.
        failed_leaves: inputs of the first case that failed, None if none did.
    """

    def __init__(self, runs: PairedRuns, limit: float | None) -> None:
        self.runs, self.limit = runs, limit
        self.example = sizes_of(runs.arguments.axes, runs.arguments.leaves)
        self.samples = MIN_SAMPLES
        self.lifted: dict[str, None] = {}
        self.predicates: list[Predicate] = []
        self.failed_leaves: list[torch.Tensor] | None = None

    def rows(self) -> list[Row]:
        """Judge the example, every other size and every branch."""
        runs = self.runs
        label = _sizes_text(self.example) or "example"
        rows = self.case(label, list(runs.arguments.leaves), runs.loaded, first=True)
        for sizes in self.other_sizes():
            rows += self.case(_sizes_text(sizes), resized(runs.arguments, sizes), runs.loaded)
        depth = branch_forcing.depth_of(runs.model.graph)
        for choices in branch_forcing.combinations(depth) if depth else ():
            loaded = runs.variant(branch_forcing.forced(runs.model, choices))
            label = "forced " + ", ".join(str(choice).lower() for choice in choices)
            rows += self.case(label, list(runs.arguments.leaves), loaded, forced=choices)
        return rows

    def other_sizes(self) -> Iterator[dict[str, int]]:
        """Yield sizes to try: each dynamic size on its own."""
        for name, size in self.example.items():
            for other in (*DYNAMIC_SIZES, 2 * size + 1):
                if other != size:
                    yield {**self.example, name: other}

    def case(
        self,
        label: str,
        leaves: list[torch.Tensor],
        loaded: Loaded,
        *,
        forced: Sequence[bool] = (),
        first: bool = False,
    ) -> list[Row]:
        """Judge every leaf at one set of sizes; the first case, the example itself, must run eagerly."""
        try:
            started = time.perf_counter()
            eager, reference = self.runs.outcomes(leaves, forced)
            seconds = time.perf_counter() - started
        except REFUSALS as error:
            if first:
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return [self.row("(all)", label, "skipped", f"eager itself refuses: {reason}")]
        self.lifted.update(dict.fromkeys(reference.lifted))
        try:
            structure, found, names = self.runs.file_result(loaded, leaves)
        except ExportError as error:
            return [self.row("(all)", label, "fail", f"the file refuses: {error}")]
        if structure != eager.structure:
            return [self.row("(all)", label, "fail", f"structure {names}, eager's is {list(eager.names)}")]
        if first and eager.decisions:
            self.judge_predicates(eager, reference, leaves)
            found_statuses = {predicate.status for predicate in self.predicates}
            if found_statuses != {"pass"}:
                status: Status = "fail" if "fail" in found_statuses else "ambiguous"
                return [self.row("(all)", label, status, "a predicate flips; the branches are judged by themselves")]
        rows = self.leaves(label, leaves, loaded, forced, Results(eager, reference, found), seconds)
        if self.failed_leaves is None and not forced and any(row.status == "fail" for row in rows):
            self.failed_leaves = leaves
        return rows

    def leaves(
        self,
        label: str,
        leaves: list[torch.Tensor],
        loaded: Loaded,
        forced: Sequence[bool],
        base: Results,
        seconds: float,
    ) -> list[Row]:
        """Compare the results on the inputs themselves, then on varied ones."""
        names = base.eager.names
        rows: dict[int, Row] = {}
        leaf_triples = zip(base.file, base.eager.leaves, base.reference.leaves, strict=True)
        for i, (own, eager, exact) in enumerate(leaf_triples):
            problem = misfit(own, eager)
            if problem and not own.is_floating_point() and own.shape == eager.shape and not forced:
                settled = self.runs.settled(leaves, base.reference)
                problem = misfit(own, settled.reference[i]) if settled is not None else problem
            if not problem and own.is_floating_point() and not finite(exact):
                problem = "eager in float64 gives NaN or inf here"
            if problem or not own.is_floating_point():
                status: Status = "fail" if problem else "pass"
                rows[i] = self.row(names[i], label, status, problem, eager.dtype)
        numeric = [i for i in range(len(base.file)) if i not in rows]
        rows.update(self.numbers(label, numeric, leaves, loaded, forced, base, seconds))
        return [rows[i] for i in sorted(rows)] or [self.row("(no tensors)", label, "pass")]

    def numbers(
        self,
        label: str,
        numeric: list[int],
        leaves: list[torch.Tensor],
        loaded: Loaded,
        forced: Sequence[bool],
        base: Results,
        seconds: float,
    ) -> dict[int, Row]:
        """Compare the float leaves by ratio, pooled over as many varied inputs as it takes."""
        wanted = max((math.ceil(MIN_POOLED_VALUES / max(base.file[i].numel(), 1)) for i in numeric), default=1)
        full = max(MIN_SAMPLES, min(wanted, MAX_SAMPLES)) if numeric else 1
        count = max(MIN_SAMPLES, min(full, int(MAX_SAMPLING_SECONDS / max(seconds, 1e-3)))) if numeric else 1
        pool = Pool(self.runs, self.limit, label, numeric, leaves, loaded, forced, base)
        rows = pool.judged(count)
        if fails(rows) and count < full:  # a small leaf of a slow function: few numbers say little
            rows = pool.judged(full)
        if fails_narrowly(rows):
            rows = pool.judged(SAMPLES_ON_NARROW_FAILURE)
        self.samples = max(self.samples, len(pool.measured))
        return rows

    def judge_predicates(self, eager: Outcome, reference: Outcome, leaves: Sequence[torch.Tensor]) -> None:
        """Compare which branches eager, the reference and the file take."""
        names = branch_forcing.predicates(self.runs.model.graph)
        pairs = zip(eager.decisions, reference.decisions, strict=False)
        outer = [(own, exact) for own, exact in pairs if own.depth == 0]
        seen: list[bool] | None = None
        if len(names) == len(outer):
            seen = [bool(value.reshape(-1)[0]) for value in self.runs.inner_values(names, leaves)]
        for i, (own, exact) in enumerate(outer):
            file = seen[i] if seen is not None else own.taken
            rounding = None
            if exact.margin is not None and own.margin is not None:
                rounding = max(abs(own.margin - exact.margin), torch.finfo(torch.float32).eps * exact.scale)
            status: Status = "pass"
            if not own.taken == exact.taken == file:
                inside = (
                    exact.margin is not None
                    and rounding is not None
                    and abs(exact.margin) <= MAX_AMBIGUOUS_MARGIN_ROUNDINGS * rounding
                )
                status = "ambiguous" if inside else "fail"
            self.predicates.append(Predicate(own.taken, exact.margin, rounding, own.source, status))

    def against(self, other: Callable[..., Any], args: Sequence[Any]) -> list[Row]:
        """Judge another eager version by the same ratio."""
        given = list(args)
        if isinstance(other, torch.nn.Module):
            given = [arg for arg in args[1:] if not _empty(arg)]
        eager, reference = self.runs.outcomes(self.runs.arguments.leaves, ())
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            _, found, _ = describe(other(*given), is_tensor, "out")
        if len(found) != len(eager.leaves):
            reason = f"gives {len(found)} tensors, the function {len(eager.leaves)}"
            return [self.row("(all)", "against", "fail", reason)]
        rows = []
        for own, plain, exact, name in zip(found, eager.leaves, reference.leaves, eager.names, strict=True):
            own = own.detach()
            problem = misfit(own, plain)
            if problem or not plain.is_floating_point():
                rows.append(self.row(name, "against", "fail" if problem else "pass", problem, plain.dtype))
                continue
            errors = Errors()
            errors.add(own, exact, plain.double() - exact.double())
            rows.append(numeric_row(name, "against", plain.dtype, errors, self.limit))
        return rows

    def row(self, leaf: str, case: str, status: Status, reason: str = "", dtype: torch.dtype | None = None) -> Row:
        """Return a row without numbers."""
        most = largest_ratio(dtype or torch.float32, self.limit)
        return Row(leaf, case, dtype_name(dtype) if dtype else "", None, None, None, most, status, reason)


def _empty(arg: Any) -> bool:
    return arg is None or (isinstance(arg, (Mapping, tuple, list)) and not arg)


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
