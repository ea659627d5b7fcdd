"""The runs of one verdict: which inputs, sizes and branches a file is compared on."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from export import forcing, runtime, wire
from export.arguments import Arguments, is_tensor, resized, take_apart
from export.errors import ArgumentError, ExportError
from export.lowering.builder import dtype_name
from export.measure import COARSE, Errors, bound, finite, misfit, numeric_row
from export.onnx import baked_positions
from export.structure import describe
from export.symbols import sizes_of
from export.truth import Outcome, run
from export.verdict import Predicate, Row, Status

ENOUGH = 64
"""A leaf of fewer elements is pooled over more varied inputs, until this many numbers are compared."""

SAMPLES, MOST_SAMPLES = 4, 32
"""On how many varied inputs each case is run, at least and at most."""

AFFORDABLE = 10.0
"""Seconds after which a slow function gets no more than the least number of inputs."""

JITTER = 2.0**-8
"""How far inputs are varied, relative to each value."""

SIZES = (1, 2, 3, 7)
"""Dynamic sizes that are always tried, beside the example's and a larger one."""

REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a function raises for sizes that it does not take."""


class Judge:
    """Compares a file with the eager function, case by case.

    Args:
        fn: The function.
        args: Its example arguments.
        file: The file.
        dynamic: The dynamic axes, as for ``to_onnx``.
        bake: The baked positions; what the file itself says is added.
        device: Where the file runs.
        limit: The largest ratio that passes, None for the usual.

    Raises:
        ArgumentError: If the file was not written by ``to_onnx``, or takes another number of arguments.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        file: Path,
        dynamic: Sequence[Any] | None,
        bake: Sequence[int],
        device: str,
        limit: float | None,
    ) -> None:
        self.fn, self.file, self.device, self.limit = fn, file, device, limit
        self.arguments: Arguments = take_apart(fn, args, dynamic)
        self.example = sizes_of(self.arguments.axes, self.arguments.leaves)
        self.loaded = runtime.open_file(file, device, spinning=False)
        call = runtime.read_call(wire.read_header(file), file)
        count = len(self.arguments.names)
        if call is None:
            raise ArgumentError(
                f"{file} was not written by to_onnx, so its inputs cannot be matched with the function's; "
                "load it and call it by name"
            )
        if len(call["arguments"]) != count:
            raise ArgumentError(f"{file} was exported with {len(call['arguments'])} arguments, got {count}")
        inside = {i for i, argument in enumerate(call["arguments"]) if argument["baked"]}
        self.baked = baked_positions(bake, count) | inside
        self.generator = torch.Generator().manual_seed(0)
        self.samples = SAMPLES
        self.lifted: dict[str, None] = {}
        self.predicates: list[Predicate] = []
        self.model = onnx.load(file)
        self.failed_leaves: list[torch.Tensor] | None = None

    def rows(self) -> list[Row]:
        """Judge the example, every other size and every branch."""
        label = _sizes_text(self.example) or "example"
        rows = self.case(label, list(self.arguments.leaves), self.loaded, first=True)
        for sizes in self.other_sizes():
            rows += self.case(_sizes_text(sizes), resized(self.arguments, sizes), self.loaded)
        depth = forcing.depth_of(self.model.graph)
        for choices in forcing.combinations(depth) if depth else ():
            with self.variant(forcing.forced(self.model, choices)) as loaded:
                label = "forced " + ", ".join(str(choice).lower() for choice in choices)
                rows += self.case(label, list(self.arguments.leaves), loaded, forced=choices)
        return rows

    def other_sizes(self) -> Iterator[dict[str, int]]:
        """Yield sizes to try: each dynamic size on its own."""
        for name, size in self.example.items():
            for other in (*SIZES, 2 * size + 1):
                if other != size:
                    yield {**self.example, name: other}

    @contextlib.contextmanager
    def variant(self, model: onnx.ModelProto) -> Iterator[runtime.Loaded]:
        """Load a changed copy of the model."""
        with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
            onnx.save(model, f"{folder}/variant.onnx")
            yield runtime.open_file(f"{folder}/variant.onnx", self.device, spinning=False)

    def given(self, leaves: Sequence[torch.Tensor]) -> list[Any]:
        """Return the arguments that the file still takes."""
        return [arg for i, arg in enumerate(self.arguments.rebuild(leaves)) if i not in self.baked]

    def varied(self, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Multiply every float that is not baked by 1 ± up to ``JITTER``."""
        result = []
        for leaf, owner in zip(leaves, self.arguments.owner, strict=True):
            if leaf.is_floating_point() and owner not in self.baked:
                noise = torch.rand(leaf.shape, generator=self.generator, dtype=torch.float64).to(leaf.device)
                leaf = (leaf.double() * (1 + JITTER * (2 * noise - 1))).to(leaf.dtype)
            result.append(leaf)
        return result

    def outcomes(
        self, leaves: Sequence[torch.Tensor], forced: Sequence[bool], margins: bool = True
    ) -> tuple[Outcome, Outcome]:
        """Run eager as it stands, and in float64."""
        eager = run(self.fn, self.arguments, leaves, forced=forced, margins=margins)
        return eager, run(self.fn, self.arguments, leaves, to=torch.float64, forced=forced)

    def case(
        self,
        label: str,
        leaves: list[torch.Tensor],
        loaded: runtime.Loaded,
        *,
        forced: Sequence[bool] = (),
        first: bool = False,
    ) -> list[Row]:
        """Judge every leaf at one set of sizes; the first case, the example itself, must run eagerly."""
        try:
            started = time.perf_counter()
            eager, truth = self.outcomes(leaves, forced)
            seconds = time.perf_counter() - started
        except REFUSALS as error:
            if first:
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return [self.row("(all)", label, "skipped", f"eager itself refuses: {reason}")]
        self.lifted.update(dict.fromkeys(truth.lifted))
        try:
            with torch.no_grad():
                structure, found, names = describe(loaded(*self.given(leaves)), is_tensor, "out")
        except ExportError as error:
            return [self.row("(all)", label, "fail", f"the file refuses: {error}")]
        if structure != eager.structure:
            return [self.row("(all)", label, "fail", f"structure {names}, eager's is {list(eager.names)}")]
        if first and eager.decisions:
            self.judge_predicates(eager, truth, leaves)
            found_statuses = {predicate.status for predicate in self.predicates}
            if found_statuses != {"pass"}:
                status: Status = "fail" if "fail" in found_statuses else "ambiguous"
                return [self.row("(all)", label, status, "a predicate flips; the branches are judged by themselves")]
        rows = self.leaves(label, leaves, loaded, forced, (eager, truth, found), seconds)
        if self.failed_leaves is None and not forced and any(row.status == "fail" for row in rows):
            self.failed_leaves = leaves
        return rows

    def leaves(
        self,
        label: str,
        leaves: list[torch.Tensor],
        loaded: runtime.Loaded,
        forced: Sequence[bool],
        base: tuple[Outcome, Outcome, list[torch.Tensor]],
        seconds: float,
    ) -> list[Row]:
        """Compare the results on the inputs themselves, then on varied ones."""
        eager, truth, found = base
        rows: dict[int, Row] = {}
        for i, (own, reference, exact) in enumerate(zip(found, eager.leaves, truth.leaves, strict=True)):
            problem = misfit(own, reference)
            if not problem and own.is_floating_point() and not finite(exact):
                problem = "eager in float64 gives NaN or inf here"
            if problem or not own.is_floating_point():
                status: Status = "fail" if problem else "pass"
                rows[i] = self.row(eager.names[i], label, status, problem, reference.dtype)
        numeric = [i for i in range(len(found)) if i not in rows]
        errors = {i: Errors() for i in numeric}
        fine = any(found[i].dtype == torch.float64 for i in numeric)
        wanted = max((math.ceil(ENOUGH / max(found[i].numel(), 1)) for i in numeric), default=1)
        count = max(SAMPLES, min(wanted, MOST_SAMPLES, int(AFFORDABLE / max(seconds, 1e-3)))) if numeric else 1
        self.samples = max(self.samples, count)
        for sample in range(count):
            given = self.varied(leaves) if sample else leaves
            outcome = self.again(given, loaded, forced) if sample else base
            if outcome is None:
                continue
            coarse = self.coarse(given, forced) if fine else None
            _add(errors, outcome, coarse)
        for i in numeric:
            rows[i] = numeric_row(eager.names[i], label, eager.leaves[i].dtype, errors[i], self.limit)
        return [rows[i] for i in sorted(rows)] or [self.row("(no tensors)", label, "pass")]

    def again(
        self, leaves: Sequence[torch.Tensor], loaded: runtime.Loaded, forced: Sequence[bool]
    ) -> tuple[Outcome, Outcome, list[torch.Tensor]] | None:
        """Run everything on varied inputs; None where they leave the function's domain or straddle a threshold."""
        try:
            eager, truth = self.outcomes(leaves, forced, margins=False)
        except REFUSALS:
            return None
        if [decision.taken for decision in eager.decisions] != [decision.taken for decision in truth.decisions]:
            return None
        with torch.no_grad():
            _, found, _ = describe(loaded(*self.given(leaves)), is_tensor, "out")
        return eager, truth, found

    def coarse(self, leaves: Sequence[torch.Tensor], forced: Sequence[bool]) -> Outcome | None:
        """Run the function in float32, to see how much rounding its operations make of a rounding."""
        try:
            return run(self.fn, self.arguments, leaves, to=torch.float32, forced=forced)
        except REFUSALS:
            return None

    def judge_predicates(self, eager: Outcome, truth: Outcome, leaves: Sequence[torch.Tensor]) -> None:
        """Compare which branches eager, the truth and the file take."""
        names = forcing.predicates(self.model.graph)
        pairs = zip(eager.decisions, truth.decisions, strict=False)
        outer = [(own, exact) for own, exact in pairs if own.depth == 0]
        seen: list[bool] | None = None
        if len(names) == len(outer):
            with self.variant(forcing.with_outputs(self.model, names)) as loaded, torch.no_grad():
                seen = [bool(value.reshape(-1)[0]) for value in loaded.inner_values(names, *self.given(leaves))]
        for i, (own, exact) in enumerate(outer):
            file = seen[i] if seen is not None else own.taken
            rounding = None
            if exact.margin is not None and own.margin is not None:
                rounding = max(abs(own.margin - exact.margin), torch.finfo(torch.float32).eps * exact.scale)
            status: Status = "pass"
            if not own.taken == exact.taken == file:
                inside = exact.margin is not None and rounding is not None and abs(exact.margin) <= 8 * rounding
                status = "ambiguous" if inside else "fail"
            self.predicates.append(Predicate(own.taken, exact.margin, rounding, own.source, status))

    def against(self, other: Callable[..., Any], args: Sequence[Any]) -> list[Row]:
        """Judge another eager version by the same ratio."""
        given = list(args)
        if isinstance(other, torch.nn.Module):
            given = [arg for arg in args[1:] if not _empty(arg)]
        eager, truth = self.outcomes(self.arguments.leaves, ())
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            _, found, _ = describe(other(*given), is_tensor, "out")
        if len(found) != len(eager.leaves):
            reason = f"gives {len(found)} tensors, the function {len(eager.leaves)}"
            return [self.row("(all)", "against", "fail", reason)]
        rows = []
        for own, reference, exact, name in zip(found, eager.leaves, truth.leaves, eager.names, strict=True):
            own = own.detach()
            problem = misfit(own, reference)
            if problem or not reference.is_floating_point():
                rows.append(self.row(name, "against", "fail" if problem else "pass", problem, reference.dtype))
                continue
            errors = Errors()
            errors.add(own, exact, reference.double() - exact.double())
            rows.append(numeric_row(name, "against", reference.dtype, errors, self.limit))
        return rows

    def row(self, leaf: str, case: str, status: Status, reason: str = "", dtype: torch.dtype | None = None) -> Row:
        """Make a row without numbers."""
        most = bound(dtype or torch.float32, self.limit)
        return Row(leaf, case, dtype_name(dtype) if dtype else "", None, None, None, most, status, reason)


def _add(
    errors: Mapping[int, Errors], outcome: tuple[Outcome, Outcome, list[torch.Tensor]], coarse: Outcome | None
) -> None:
    """Add one run to the pooled errors; values that eager cannot compute on varied inputs are left out."""
    eager, truth, found = outcome
    for i, total in errors.items():
        own, exact = eager.leaves[i], truth.leaves[i]
        if found[i].shape != own.shape or not (finite(exact) and finite(own)):
            continue
        error = own.double() - exact.double()
        if own.dtype == torch.float64:
            error = (coarse.leaves[i].double() - exact) * COARSE if coarse is not None else torch.zeros_like(exact)
        total.add(found[i], exact, error)


def _empty(arg: Any) -> bool:
    return arg is None or (isinstance(arg, (Mapping, tuple, list)) and not arg)


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
