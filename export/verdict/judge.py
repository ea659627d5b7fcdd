"""Which inputs, sizes and branches a file is judged on, and what comes of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from export.errors import ExportError
from export.files.pytree_structure import describe
from export.graph.onnx_types import dtype_name
from export.runtime.loaded_file import Loaded
from export.trace import isolation
from export.trace.arguments import is_tensor, resized
from export.trace.symbolic_sizes import sizes_of
from export.verdict import branch_forcing
from export.verdict.comparison import LIMIT, Comparison, compare
from export.verdict.decisions import REACH, Decision
from export.verdict.following import followed
from export.verdict.influence.unused import equal_branches, unused_leaves
from export.verdict.judged_file import JudgedFile
from export.verdict.monte_carlo import FEW_RUNS, RUNS
from export.verdict.noise_model import UNITS
from export.verdict.reference_runs import Outcome, replayed, run
from export.verdict.sampled import Scales
from export.verdict.verdict_result import OpenDecision, OutputSample, Predicate, Row, Status

__all__ = ["Judge"]

DYNAMIC_SIZES = (1, 2, 3, 7)
"""Dynamic sizes that are always tried, beside the example's and a larger one.

Not 0: ONNX Runtime 1.31 does not return from some convolutions of empty tensors, and PyTorch 2.15 itself gives other
shapes there (`pixel_unshuffle`) or refuses the operators that it recorded (batch normalisation). A sample may be empty.
"""

REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a function raises for inputs that it does not take."""

EAGER_LIMIT = 4.0
"""Ratio of eager to its own recorded graph, in units of the limit, that says that the two are different functions."""

ANOTHER = "eager differs from its own recorded graph"
"""How the reason of a row begins whose file is right, while the function is not the one that was recorded."""

CERTAIN = 16.0
"""How many limits a ratio that few runs give must exceed to be a failure that more runs cannot turn."""


class Judge:
    """Compares a file with the function, case by case.

    Args:
        file: the file and the function.
        limit: the largest ratio that passes.
        samples: further inputs.

    Attributes:
        predicates: what was found of each outermost `If`.
        decisions: the decisions that rounding leaves open on the example.
        lifted: source lines of casts that the reference does not make.
        outputs: some elements of the example's outputs.
        latest: the inputs that are judged at the moment.
        failed: inputs and forced branches of the first case that failed, None if none did.
        unused: inputs, weights and branches that no output depends on.
    """

    def __init__(self, file: JudgedFile, limit: float | None, samples: Sequence[Sequence[torch.Tensor]] = ()) -> None:
        self.file, self.limit, self.samples = file, LIMIT if limit is None else limit, samples
        self.example = sizes_of(file.arguments.axes, file.arguments.leaves)
        self.conditions = file.conditions()
        self.predicates: list[Predicate] = []
        self.decisions: list[OpenDecision] = []
        self.lifted: dict[str, None] = {}
        self.outputs: list[OutputSample] = []
        self.unused: list[str] = []
        self.latest: list[torch.Tensor] = list(file.arguments.leaves)
        self.failed: tuple[list[torch.Tensor], dict[str, bool]] | None = None

    def rows(self) -> list[Row]:
        """Judge the interface, the example, every other size, and every branch."""
        file = self.file
        rows = [self.row(name, "interface", "fail", problem) for name, problem in file.interface_problems()]
        if any(row.leaf == "(all)" for row in rows):  # it cannot be called as the function is
            return rows
        rows += [self.row(name, "stored", "fail", problem) for name, problem in file.weight_problems()]
        leaves = list(file.arguments.leaves)
        rows += self.case(_sizes_text(self.example) or "example", leaves, file.loaded, first=True)
        for number, sample in enumerate(self.samples, 1):
            rows += self.case(f"sample {number}", list(sample), file.loaded, given=True)
        for sizes in self.other_sizes():
            rows += self.case(_sizes_text(sizes), resized(file.arguments, sizes), file.loaded)
        for condition in self.conditions:
            name = f"{condition.key} " if len(self.conditions) > 1 else ""
            for choices in condition.choices():
                loaded = file.variant(branch_forcing.forced(file.model, choices))
                label = f"forced {name}{str(choices[condition.key]).lower()}"
                rows += self.case(label, leaves, loaded, forced=choices)
        return rows + self.influence(leaves)

    def influence(self, leaves: list[torch.Tensor]) -> list[Row]:
        """Find what no output depends on; return a row for each tensor that the file should take and does not."""
        names, graph = self.file.arguments.leaf_names, self.file.graph(leaves)
        if graph is None:
            return []
        with isolation.restored(), torch.random.fork_rng(devices=[]):
            left: Sequence[int] = self.file.telling()
            for choices in ({}, *(choices for condition in self.conditions for choices in condition.choices())):
                left = unused_leaves(graph, leaves, choices, left)
            self.unused = [names[i] for i in left]
            for condition in self.conditions:
                if equal_branches(graph, leaves, condition.key, condition.within):
                    self.unused.append(f"the choice of {condition.key}")
        missing = [name for name in self.file.untaken() if name not in self.unused]
        problem = "the outputs depend on it, and the file does not take it"
        return [self.row(name, "interface", "fail", problem) for name in missing]

    def other_sizes(self) -> Iterator[dict[str, int]]:
        """Yield sizes to try: each dynamic size by itself, then all of them at once."""
        for name, size in self.example.items():
            for other in (*DYNAMIC_SIZES, 2 * size + 1):
                if other != size:
                    yield {**self.example, name: other}
        if len(self.example) > 1:
            together = {}
            for i, (name, size) in enumerate(self.example.items()):
                others = [other for other in DYNAMIC_SIZES[1:] if other != size]
                together[name] = others[i % len(others)]
            yield together

    def case(
        self,
        label: str,
        leaves: list[torch.Tensor],
        loaded: Loaded,
        *,
        forced: Mapping[str, bool] | None = None,
        first: bool = False,
        given: bool = False,
    ) -> list[Row]:
        """Judge every leaf at one set of inputs; the first case (the example) and those given must run eagerly."""
        self.latest = leaves
        try:
            eager = run(self.file.fn, self.file.arguments, leaves)
        except REFUSALS as error:
            if first or given:
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return [self.row("(all)", label, "skipped", f"eager itself refuses: {reason}")]
        try:
            structure, found, names = self.file.results(loaded, leaves)
        except ExportError as error:
            return [self.row("(all)", label, "fail", f"the file refuses: {error}")]
        if structure != eager.structure:
            return [self.row("(all)", label, "fail", f"structure {names}, eager's is {list(eager.names)}")]
        scales = self.scales(leaves, forced, runs=FEW_RUNS, open_decisions=False)
        self.lifted.update(dict.fromkeys(scales.lifted))
        if first:
            self.decisions = [_open(decision) for decision in scales.decisions.values() if decision.open]
            flipped = self.judge_predicates(scales, leaves)
            if flipped is not None:
                if flipped == "fail":
                    self.failed = leaves, {}
                return [self.row("(all)", label, flipped, "a predicate flips; the branches are judged by themselves")]
        graph = self.file.graph(leaves)
        own = replayed(graph, leaves, forced) if forced and graph is not None else list(eager.leaves)
        rows = self.leaves(label, found, own, eager, scales, compares_eager=not forced)
        if any(row.status == "fail" for row in rows) and not _certain(rows, scales, self.limit):
            # Few runs may be too few, and none took an open decision.
            scales, beside = followed(self.file, scales, leaves, forced) or (self.scales(leaves, forced), None)
            rows = self.leaves(label, found, own, eager, scales, compares_eager=not forced, beside=beside)
            if beside is not None and any(row.status == "fail" for row in rows):  # eager may pick by another operator
                beside = self.scales(leaves, forced)
                rows = self.leaves(label, found, own, eager, scales, compares_eager=not forced, beside=beside)
        if any(row.reason.startswith(ANOTHER) for row in rows) and (unit := _coarse_unit(eager.leaves)):
            # Eager's kernels may round to the half type where the recorded operators compute in float32.
            beside = self.file.scales(leaves, forced, unit=unit)
            rows = self.leaves(label, found, own, eager, scales, compares_eager=not forced, beside=beside)
        if scales.followed_too_often and all(row.status == "pass" for row in rows):
            rows.append(self.row("(picks)", label, "fail", scales.followed_too_often))
        if first:
            leaves_found = zip(eager.names, found, scales.outputs, strict=True)
            self.outputs = [sampled.some(name, value) for name, value, sampled in leaves_found]
        if self.failed is None and any(row.status == "fail" for row in rows):
            self.failed = leaves, dict(forced or {})
        return rows

    def scales(
        self,
        leaves: Sequence[torch.Tensor],
        forced: Mapping[str, bool] | None,
        *,
        runs: int = RUNS,
        open_decisions: bool = True,
        wanted: Collection[str] = (),
    ) -> Scales:
        """Measure the reference and its rounding scales on these inputs."""
        return self.file.scales(leaves, forced, runs=runs, open_decisions=open_decisions, wanted=wanted)

    def leaves(
        self,
        label: str,
        found: Sequence[torch.Tensor],
        own: Sequence[torch.Tensor],
        eager: Outcome,
        scales: Scales,
        *,
        compares_eager: bool,
        beside: Scales | None = None,
    ) -> list[Row]:
        """Compare every leaf of a case; eager itself must agree with its recorded graph (`beside`) as well."""
        rows: list[Row] = []
        along = (scales if beside is None else beside).outputs
        for name, value, plain, sampled, other in zip(eager.names, found, own, scales.outputs, along, strict=True):
            result = compare(value, plain, sampled, self.limit, beside_eager=True)
            itself = compare(plain, plain, other, EAGER_LIMIT * self.limit) if compares_eager else Comparison()
            problem = result.problem
            if not problem and itself.problem and not self.is_replayed(plain, len(rows)):
                problem = f"{ANOTHER}: {itself.problem}"
            status: Status = "fail" if problem else "pass"
            rows.append(
                Row(
                    name,
                    label,
                    dtype_name(plain.dtype),
                    result.ratio,
                    result.error,
                    result.scale,
                    itself.ratio,
                    self.limit,
                    status,
                    problem,
                    result.zero_signs,
                )
            )
        return rows or [self.row("(no tensors)", label, "pass")]

    def is_replayed(self, plain: torch.Tensor, place: int) -> bool:
        """Tell whether an output of eager's on the latest inputs is what its recorded graph gives in that precision.

        Then the two are one function, however coarse: float16 overflows on the way to a small result.
        """
        graph = self.file.graph(self.latest)
        if graph is None:
            return False
        own = replayed(graph, self.latest, {})[place]
        return own.dtype == plain.dtype and torch.equal(own.nan_to_num(), plain.nan_to_num())

    def judge_predicates(self, scales: Scales, leaves: Sequence[torch.Tensor]) -> Status | None:
        """Compare which branches the reference and the file take; return the worst status, None if all agree."""
        outer = [condition for condition in self.conditions if not condition.within]
        outer = [condition for condition in outer if len(scales.branches.get(condition.key, ())) == 1]
        if not outer:
            return None
        seen = self.file.inner_values([condition.predicate for condition in outer], leaves)
        recorded = self.file.graph(leaves)
        graph = {} if recorded is None else {node.name: node for node in recorded.graph.nodes}
        for condition, value in zip(outer, seen, strict=True):
            taken = scales.branches[condition.key][0]
            node = graph.get(condition.key)
            decision = _deciding(node, scales.decisions) if node is not None else None
            margin = decision.margin if decision is not None else None
            rounding = decision.scale if decision is not None else None
            status: Status = "pass"
            if bool(value.reshape(-1)[0]) != taken:
                inside = margin is not None and rounding is not None and abs(margin) <= REACH * rounding
                status = "ambiguous" if inside else "fail"
            source = node.meta.get("source", "") if node is not None else ""
            self.predicates.append(Predicate(taken, margin, rounding, source, status))
        found = {predicate.status for predicate in self.predicates} - {"pass"}
        return None if not found else "fail" if "fail" in found else "ambiguous"

    def against(self, other: Callable[..., Any], args: Sequence[Any]) -> list[Row]:
        """Judge another eager version by the same scales; a module without autograd, a function as the caller has it.

        A function may train, and so call `backward`.
        """
        given = list(args)
        autograd = torch.is_grad_enabled() and not isinstance(other, torch.nn.Module)
        if isinstance(other, torch.nn.Module):
            buffers = {name for name, _ in other.named_buffers()}
            given = [arg for arg in args[1:] if not (_empty(arg) or _holds(arg, buffers))]
        leaves = self.file.arguments.leaves
        eager, scales = run(self.file.fn, self.file.arguments, leaves), self.scales(leaves, None)
        with torch.set_grad_enabled(autograd), torch.random.fork_rng(devices=[]):
            _, found, _ = describe(other(*given), is_tensor, "out")
        if len(found) != len(eager.leaves):
            reason = f"gives {len(found)} tensors, the function {len(eager.leaves)}"
            return [self.row("(all)", "against", "fail", reason)]
        found = [value.detach() for value in found]
        return self.leaves("against", found, eager.leaves, eager, scales, compares_eager=False)

    def row(self, leaf: str, case: str, status: Status, reason: str = "") -> Row:
        """Return a row without numbers."""
        return Row(leaf, case, "", None, None, None, None, self.limit, status, reason)


def _holds(arg: Any, buffers: Collection[str]) -> bool:
    """Tell whether an argument is a module's state, a tree with the names of its buffers, which it holds itself."""
    if not isinstance(arg, Mapping):
        return False
    return {name.removeprefix("state.") for name in describe(arg, is_tensor, "state")[2]} == set(buffers)


def _certain(rows: Sequence[Row], scales: Scales, limit: float) -> bool:
    """Tell whether more runs could not change what fails: it is far off, and rounding leaves no decision open."""
    if any(decision.open for decision in scales.decisions.values()):
        return False
    ratios = [row.ratio or 0.0 for row in rows if row.status == "fail"]
    return all(math.isfinite(ratio) and ratio > CERTAIN * limit for ratio in ratios)


def _deciding(node: torch.fx.Node, decisions: Mapping[str, Decision]) -> Decision | None:
    """Return the comparison that a condition's predicate comes from, None if it is none."""
    at = node.args[0]
    while isinstance(at, torch.fx.Node):
        if at.name in decisions:
            return decisions[at.name]
        inputs = [arg for arg in at.args if isinstance(arg, torch.fx.Node)]
        at = inputs[0] if len(inputs) == 1 else None
    return None


def _coarse_unit(leaves: Sequence[torch.Tensor]) -> float | None:
    """Return the rounding unit of the coarsest half type among these, None without one."""
    units = [UNITS[leaf.dtype] for leaf in leaves if leaf.dtype in (torch.float16, torch.bfloat16)]
    return max(units, default=None)


def _open(decision: Decision) -> OpenDecision:
    return OpenDecision(
        decision.op, decision.path, decision.source, decision.compared, decision.open, decision.margin, decision.scale
    )


def _empty(arg: Any) -> bool:
    return arg is None or (isinstance(arg, (Mapping, tuple, list)) and not arg)


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
