"""The runs of one verdict: which inputs, sizes and branches a file is compared on."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from export.errors import ArgumentError, ExportError
from export.files import protobuf_wire
from export.files.pytree_structure import describe
from export.graph.builder import dtype_name
from export.graph.function_inlining import inline
from export.graph.onnx_export import baked_positions
from export.runtime import loading
from export.trace.arguments import Arguments, is_tensor, resized, take_apart
from export.trace.symbolic_sizes import sizes_of
from export.verdict import branch_forcing
from export.verdict.elementary_errors import Kernels, coarser
from export.verdict.error_ratio import Errors, Settled, bound, finite, misfit, numeric_row
from export.verdict.kinks import Kinks, decides
from export.verdict.pooled_errors import Pool, fails, fails_narrowly
from export.verdict.reference_runs import Outcome, run, same_sides
from export.verdict.verdict_result import Kink, Predicate, Row, Status

ENOUGH = 64
"""A leaf of fewer elements is pooled over more varied inputs, until this many numbers are compared."""

SAMPLES, MOST_SAMPLES = 4, 32
"""On how many varied inputs each case is run, at least and at most."""

AFFORDABLE = 10.0
"""Seconds after which a slow function gets no more than the least number of inputs, unless it would fail on those."""

SAMPLES_IN_DOUBT = 64
"""On how many inputs a narrow failure is looked at.

What rounding does to one run it does to all elements of a leaf together (a mean's error is one number), so that it is
the number of runs that says how well a ratio is known: from 13 runs to a factor of 1.75, from 64 to 1.3 (95 %).
"""

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
        tf32: Whether the file may round products to TF32 on a GPU.

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
        tf32: bool = False,
    ) -> None:
        self.fn, self.file, self.device, self.limit, self.tf32 = fn, file, device, limit, tf32
        self.arguments: Arguments = take_apart(fn, args, dynamic)
        self.example = sizes_of(self.arguments.axes, self.arguments.leaves)
        self.loaded = loading.open_file(file, device, spinning=False, tf32=tf32)
        call = protobuf_wire.read_call(protobuf_wire.read_header(file), file)
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
        self.model = inline(onnx.load(file, load_external_data=False))
        self.jumps, self.coarser = decides(self.model), coarser(self.model)
        self.failed_leaves: list[torch.Tensor] | None = None

    @functools.cached_property
    def kinks(self) -> Kinks | None:
        """What tells the sides that the file takes; None if the function cannot be recorded again."""
        try:
            return Kinks(self.fn, self.arguments, self.model, self.file, self.baked, self.device, self.tf32)
        except ExportError:
            return None

    def rows(self) -> list[Row]:
        """Judge the example, every other size and every branch."""
        label = _sizes_text(self.example) or "example"
        rows = self.case(label, list(self.arguments.leaves), self.loaded, first=True)
        for sizes in self.other_sizes():
            rows += self.case(_sizes_text(sizes), resized(self.arguments, sizes), self.loaded)
        depth = branch_forcing.depth_of(self.model.graph)
        for choices in branch_forcing.combinations(depth) if depth else ():
            loaded = self.variant(branch_forcing.forced(self.model, choices))
            label = "forced " + ", ".join(str(choice).lower() for choice in choices)
            rows += self.case(label, list(self.arguments.leaves), loaded, forced=choices)
        return rows

    def other_sizes(self) -> Iterator[dict[str, int]]:
        """Yield sizes to try: each dynamic size on its own."""
        for name, size in self.example.items():
            for other in (*SIZES, 2 * size + 1):
                if other != size:
                    yield {**self.example, name: other}

    def variant(self, model: onnx.ModelProto) -> loading.Loaded:
        """Load a changed copy of the model."""
        content = model.SerializeToString()
        return loading.open_file(self.file, self.device, spinning=False, variant=content, tf32=self.tf32)

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
        loaded: loading.Loaded,
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
        loaded: loading.Loaded,
        forced: Sequence[bool],
        base: tuple[Outcome, Outcome, list[torch.Tensor]],
        seconds: float,
    ) -> list[Row]:
        """Compare the results on the inputs themselves, then on varied ones."""
        eager, truth, found = base
        rows: dict[int, Row] = {}
        for i, (own, reference, exact) in enumerate(zip(found, eager.leaves, truth.leaves, strict=True)):
            problem = misfit(own, reference)
            if problem and not own.is_floating_point() and own.shape == reference.shape and not forced:
                settled = self.settled(leaves, truth)
                problem = misfit(own, settled.truth[i]) if settled is not None else problem
            if not problem and own.is_floating_point() and not finite(exact):
                problem = "eager in float64 gives NaN or inf here"
            if problem or not own.is_floating_point():
                status: Status = "fail" if problem else "pass"
                rows[i] = self.row(eager.names[i], label, status, problem, reference.dtype)
        numeric = [i for i in range(len(found)) if i not in rows]
        rows.update(self.numbers(label, numeric, leaves, loaded, forced, base, seconds))
        return [rows[i] for i in sorted(rows)] or [self.row("(no tensors)", label, "pass")]

    def numbers(
        self,
        label: str,
        numeric: list[int],
        leaves: list[torch.Tensor],
        loaded: loading.Loaded,
        forced: Sequence[bool],
        base: tuple[Outcome, Outcome, list[torch.Tensor]],
        seconds: float,
    ) -> dict[int, Row]:
        """Compare the float leaves by ratio, pooled over as many varied inputs as it takes."""
        wanted = max((math.ceil(ENOUGH / max(base[2][i].numel(), 1)) for i in numeric), default=1)
        full = max(SAMPLES, min(wanted, MOST_SAMPLES)) if numeric else 1
        count = max(SAMPLES, min(full, int(AFFORDABLE / max(seconds, 1e-3)))) if numeric else 1
        pool = Pool(self, label, numeric, leaves, loaded, forced, base)
        rows = pool.judged(count)
        if fails(rows) and count < full:  # a small leaf of a slow function: few numbers say little
            rows = pool.judged(full)
        if fails_narrowly(rows):
            rows = pool.judged(SAMPLES_IN_DOUBT)
        self.samples = max(self.samples, len(pool.measured))
        return rows

    def again(
        self, leaves: Sequence[torch.Tensor], loaded: loading.Loaded, forced: Sequence[bool]
    ) -> tuple[Outcome, Outcome, list[torch.Tensor]] | None:
        """Run everything on varied inputs; None where they leave the function's domain or straddle a threshold."""
        try:
            eager, truth = self.outcomes(leaves, forced, margins=self.jumps)
        except REFUSALS:
            return None
        if [decision.taken for decision in eager.decisions] != [decision.taken for decision in truth.decisions]:
            return None
        with torch.no_grad():
            _, found, _ = describe(loaded(*self.given(leaves)), is_tensor, "out")
        return eager, truth, found

    def settled(
        self, leaves: Sequence[torch.Tensor], truth: Outcome, found: Sequence[torch.Tensor] | None = None
    ) -> Settled | None:
        """Return the truth on the file's side of decisions within rounding, None where it cannot be had."""
        return self.kinks.settle(leaves, truth.leaves, found) if self.jumps and self.kinks is not None else None

    def kernel_rounding(
        self, leaves: Sequence[torch.Tensor], forced: Sequence[bool], truth: Outcome
    ) -> dict[int, torch.Tensor]:
        """Return the error of eager with ONNX Runtime's elementary functions; nothing if it takes another side."""
        outcome = run(self.fn, self.arguments, leaves, forced=forced, margins=self.jumps, under=Kernels(self.device))
        if not same_sides(outcome, truth):
            return {}
        pairs = enumerate(zip(outcome.leaves, truth.leaves, strict=True))
        return {i: own.double() - exact.double() for i, (own, exact) in pairs if finite(own)}

    def found_kinks(self) -> tuple[Kink, ...]:
        """Return where the file left the float64 side, without recording the function for the question's sake."""
        kinks = self.__dict__.get("kinks")
        return kinks.found() if kinks is not None else ()

    def coarse(self, leaves: Sequence[torch.Tensor], forced: Sequence[bool]) -> Outcome | None:
        """Run the function in float32, to see how much rounding its operations make of a rounding."""
        try:
            return run(self.fn, self.arguments, leaves, to=torch.float32, forced=forced)
        except REFUSALS:
            return None

    def judge_predicates(self, eager: Outcome, truth: Outcome, leaves: Sequence[torch.Tensor]) -> None:
        """Compare which branches eager, the truth and the file take."""
        names = branch_forcing.predicates(self.model.graph)
        pairs = zip(eager.decisions, truth.decisions, strict=False)
        outer = [(own, exact) for own, exact in pairs if own.depth == 0]
        seen: list[bool] | None = None
        if len(names) == len(outer):
            loaded = self.variant(branch_forcing.with_outputs(self.model, names))
            with torch.no_grad():
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


def _empty(arg: Any) -> bool:
    return arg is None or (isinstance(arg, (Mapping, tuple, list)) and not arg)


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
