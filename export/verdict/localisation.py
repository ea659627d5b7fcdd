"""Where a file first differs from the function: the node, its block and source line, and a folder that reproduces it.

The recorded function is interpreted operator by operator with its rounding scales, and the file is run with the values
of the same operators as additional outputs. The first of them that differs, in the file's order, names the node.
Whether the node itself is wrong is told by running it alone on the reference's values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx.inliner
import torch
from torch import Tensor

from export.errors import ExportError
from export.verdict import branch_forcing
from export.verdict.judge import Judge
from export.verdict.locating.compared_values import Compared, first_difference, largest_ratio
from export.verdict.locating.failures import FAILURES
from export.verdict.locating.node_alone import Alone, Result, run_outputs, stored_tensor
from export.verdict.locating.node_place import is_rewritten, place_of, written_here
from export.verdict.locating.opened_graph import Opened, Site, display_name, opened
from export.verdict.locating.recorded_values import Probe, probes, recorded_nodes, step_inputs
from export.verdict.locating.reference_opinion import opinion
from export.verdict.locating.reproduction import PARTS, write_reproduction
from export.verdict.locating.value_matching import float_sites, matched, suspect
from export.verdict.locating.within_operator import written_today, wrong_node
from export.verdict.sampled import Sampled, Scales
from export.verdict.verdict_result import Divergence

__all__ = ["localise"]

SEARCH_RUNS = 4
"""How many noisy runs give the scales of inner values; with so few they may be a third of what many runs say."""

SEARCH_LIMIT = 2.0
"""How many of the verdict's limits an inner value is off to be named; one limit, where none is off by that much."""


def localise(judge: Judge, folder: Path) -> Divergence | None:
    """Find the first node of a file whose value differs from the function's, and write a reproduction.

    Args:
        judge: the file and the function, with the inputs on which they were seen to differ.
        folder: where the reproduction goes; made if needed.

    Returns:
        The first difference; None if nothing failed on given inputs. If the search itself fails, the text says so.
    """
    if judge.failed is None or judge.file.graph(judge.failed[0]) is None:
        return None
    for name in PARTS:  # of an earlier failure
        (folder / name).unlink(missing_ok=True)
    try:
        return _first_difference(judge, judge.failed, folder)
    except FAILURES as error:  # whatever a broken file does to the search, the verdict stands
        problem = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if not (folder / "reproduce.py").exists():
        try:
            scales = judge.scales(judge.failed[0], judge.failed[1] or None)
            expected = {name: scales.outputs[i] for name, i in judge.file.output_positions().items()}
            write_reproduction(folder, judge, judge.file.model, judge.failed[0], expected, "")
        except FAILURES as error:  # the same
            problem += f"; no reproduction: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    written = str(folder) if (folder / "reproduce.py").exists() else ""
    return Divergence("(unknown)", "?", "", "", math.nan, written, problem=problem)


def _first_difference(judge: Judge, failed: tuple[list[Tensor], dict[str, bool]], folder: Path) -> Divergence:
    leaves, forced = failed
    file = judge.file
    model = branch_forcing.forced(file.model, forced) if forced else file.model
    if model.functions:  # another writer's
        model = onnx.inliner.inline_local_functions(model)
    recorded = file.graph(leaves)
    assert recorded is not None
    nodes = recorded_nodes(recorded)
    wanted = [key for key, node in nodes.items() if node.op == "call_function" or "." in key]
    scales = judge.scales(leaves, forced or None, runs=SEARCH_RUNS, wanted=wanted)
    graph = opened(model, scales.branches)
    case = Case(judge, model, graph, leaves, file.feed(leaves), recorded, nodes, scales, folder)
    if any(written_here(site.node) for site in graph.sites):
        compared, found = _by_metadata(case)
    else:
        compared, found = _by_value(case)
    if found is None:
        write_reproduction(folder, judge, model, leaves, case.expected, "")
        return _outputs_only(case)
    plain = not found.probe.site.loops and not found.probe.site.within
    expected = case.expected
    if found.probe.key:
        expected[found.probe.site.output] = found.in_file()
    shown = branch_forcing.with_outputs(model if plain else graph.model, [found.probe.site.output])
    write_reproduction(folder, judge, shown, leaves, expected, found.probe.site.output)
    site = found.probe.site
    step = found.first_step(judge.limit) if site.loops else None
    within = site.within + (f", step {step + 1} of {len(found.sampled.reference)}" if step is not None else "")
    divergence = _named(Divergence("", "", "", "", found.ratio, str(folder), within=within), site.node)
    try:
        return _examined(case, divergence, found, compared, step)
    except FAILURES as error:  # whatever running it alone does, the node is known
        reason = next(iter(str(error).splitlines()), "")
        return dataclasses.replace(divergence, cause=f"it could not be run alone: {type(error).__name__}: {reason}")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is known of the case that failed.

    Attributes:
        judge: the file and the function.
        model: the file's content, with the branches of the case forced.
        graph: the same with its inner values visible.
        leaves: the function's tensors.
        feed: what the file takes.
        recorded: the function's recorded graph.
        nodes: its operators by key.
        scales: their references with rounding scales.
        folder: where the reproduction goes.
    """

    judge: Judge
    model: onnx.ModelProto
    graph: Opened
    leaves: list[Tensor]
    feed: dict[str, Tensor]
    recorded: torch.fx.GraphModule
    nodes: dict[str, torch.fx.Node]
    scales: Scales
    folder: Path

    @property
    def expected(self) -> dict[str, Sampled]:
        """What is expected of the file's outputs."""
        return {name: self.scales.outputs[i] for name, i in self.judge.file.output_positions().items()}

    def values(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Run the file; return inner values by name."""
        file, wanted = self.judge.file, list(dict.fromkeys(names))
        model = branch_forcing.with_outputs(self.graph.model, wanted)
        found = run_outputs(model, self.feed, wanted, file.file, file.device, tf32=file.tf32)
        return dict(zip(wanted, found, strict=True))


def _by_metadata(case: Case) -> tuple[list[Compared], Compared | None]:
    """Compare the values of a file whose nodes name the recorded operators; return them and the first wrong one."""
    scales, limit = case.scales, case.judge.limit
    known = [probe for probe in probes(case.graph, case.recorded, case.nodes) if probe.key in scales.values]
    values = case.values([probe.site.output for probe in known])
    compared = []
    for probe in known:
        sampled = scales.values[probe.key]
        if probe.site.loops:
            sampled = _steps(sampled, case.nodes[probe.key])
        compared.append(Compared.of(probe, values[probe.site.output], sampled))
    compared += _predicates(case)
    order = {site.output: position for position, site in enumerate(case.graph.sites)}
    compared.sort(key=lambda entry: order[entry.probe.site.output])
    for least in (SEARCH_LIMIT * limit, limit):
        found = first_difference([entry for entry in compared if entry.ratio > least], least)
        if found is not None:
            break
    return compared, found


def _predicates(case: Case) -> list[Compared]:
    """Compare what decides on branches, where the file was seen to take another than rounding leaves open."""
    if not any(predicate.status == "fail" for predicate in case.judge.predicates):
        return []
    made = {site.output: site for site in case.graph.sites}
    decided = {name: side for name, side in case.graph.predicates.items() if name in made}
    found = []
    for name, value in case.values(list(decided)).items():
        side = torch.full_like(value, decided[name])
        expected = Sampled(side, torch.zeros(value.shape, dtype=torch.float64))
        found.append(Compared.of(Probe(made[name], "predicate", torch.bool), value, expected))
    return found


def _by_value(case: Case) -> tuple[list[Compared], Compared | None]:
    """Compare the values of anyone's file; return those that are right and the first wrong one."""
    examples = {key: node.meta.get("val") for key, node in case.nodes.items()}
    recorded = {key: case.scales.values[key] for key in case.nodes if key in case.scales.values and "." not in key}
    dtypes = {key: value.dtype for key, value in examples.items() if key in recorded and isinstance(value, Tensor)}
    sites = float_sites(case.graph)
    values = case.values([site.output for site in sites])
    matches = matched(sites, values, recorded, dtypes, SEARCH_LIMIT * case.judge.limit)
    right = [
        Compared.of(Probe(match.site, match.key, dtypes[match.key]), values[match.site.output], recorded[match.key])
        for match in matches
    ]
    wrong = suspect(case.graph, sites, values, matches, recorded, lambda site: bool(_other_weights(case, site.node)))
    if wrong is None:
        return right, None
    value = values[wrong.site.output]
    dtype = dtypes.get(wrong.key, value.dtype)
    if wrong.key:
        return right, Compared.of(Probe(wrong.site, wrong.key, dtype), value, recorded[wrong.key])
    nothing = Sampled(torch.zeros_like(value), torch.zeros_like(value))
    return right, Compared(Probe(wrong.site, "", dtype), math.inf, value, nothing, value.shape)


def _steps(sampled: Sampled, node: torch.fx.Node) -> Sampled:
    """Return the value of an operator in a loop with its axis of steps where there was one step only."""
    if sampled.reference.dim() != node.meta["val"].dim():
        return sampled
    return Sampled(sampled.reference.unsqueeze(0), sampled.scale.unsqueeze(0))


def _known_values(case: Case, compared: Sequence[Compared]) -> dict[str, tuple[Tensor, int]]:
    """Return the reference's values by the names that they have in the file, rounded, with the loops they lie in."""
    found: dict[str, tuple[Tensor, int]] = {name: (value, 0) for name, value in case.feed.items()}
    for name, key in step_inputs(case.graph, case.nodes).items():
        if key in case.scales.values:
            node = case.nodes[key]
            found[name] = _steps(case.scales.values[key], node).reference.to(node.meta["val"].dtype), 1
    for entry in compared:
        site, reference = entry.probe.site, entry.sampled.reference.to(entry.probe.dtype)
        found[site.value] = (reference if site.loops else reference.reshape(entry.shape)), site.loops
    return found


def _outputs_only(case: Case) -> Divergence:
    """Describe a difference that no inner value shows: swapped outputs, or one that joined operators make."""
    judge, expected = case.judge, case.expected
    found = case.values(list(expected))
    wrong = any(largest_ratio(found[name], expected[name], found[name].dtype) > judge.limit for name in expected)
    cause = (
        "every inner value that both sides have agrees"
        if wrong
        else "gone where inner values are outputs too: ONNX Runtime makes it when it joins operators"
    )
    third = opinion(case.model, case.feed, found, expected, judge.limit, judge.file.file) if wrong else ""
    return Divergence("(outputs)", "output", "", "", math.inf, str(case.folder), cause=cause, opinion=third)


def _examined(
    case: Case, divergence: Divergence, found: Compared, compared: Sequence[Compared], step: int | None
) -> Divergence:
    """Run the node alone on the reference's inputs, and say what that shows."""
    judge, site, file = case.judge, found.probe.site, case.judge.file
    divergence = dataclasses.replace(divergence, weights=_other_weights(case, site.node))
    if not found.probe.key:
        return dataclasses.replace(divergence, cause="nothing that the function computes is near its value")
    alone = Alone(case.graph, _known_values(case, compared), file.file, file.device, file.tf32)
    result = alone.run(site.value, step)
    if result is None:
        return divergence
    sampled = found.sampled if step is None else found.at(step)
    ratio = largest_ratio(result.value, sampled, found.probe.dtype)
    if ratio <= judge.limit:
        return dataclasses.replace(divergence, root=False, cause=_carried(result.given, compared))
    node = _wrong_node(case, site, result, alone) if result.cut.nodes > 1 else None
    third = opinion(
        result.cut.model, result.feed, {site.value: result.value}, {site.value: sampled}, judge.limit, file.file
    )
    return dataclasses.replace(
        _named(divergence, node or site.node, site.node),
        root=True,
        cause=f"the cause lies in it: alone on the reference's inputs it is off by {ratio:.3g}",
        opinion=third,
        weights=divergence.weights or _other_weights(case, node or site.node, result.cut.tensors),
    )


def _named(divergence: Divergence, node: onnx.NodeProto, beside: onnx.NodeProto | None = None) -> Divergence:
    """Put in what a node is called and where it comes from, or another of the same operator."""
    path, source = place_of(node)
    if beside is not None and not (path or source):
        path, source = place_of(beside)
    return dataclasses.replace(divergence, node=display_name(node), op=node.op_type, path=path, source=source)


def _wrong_node(case: Case, site: Site, result: Result, alone: Alone) -> onnx.NodeProto | None:
    """Return which node of several that stand for one operator is wrong; None if that cannot be told."""
    if not written_here(site.node):
        return next((node for node in result.cut.model.graph.node if _other_weights(case, node)), None)
    leaves = dict(zip(case.judge.file.arguments.leaf_names, case.leaves, strict=True))
    try:
        values = {name for node in result.cut.model.graph.node for name in node.output if name}
        today = written_today(case.judge.file, case.scales.branches, values)
        return None if today is None else wrong_node(site, result.cut, result.feed, today, leaves, alone)
    except ExportError:
        return None


def _other_weights(case: Case, node: onnx.NodeProto, more: Sequence[str] = ()) -> str:
    """Say which stored tensors that a node reads have the name of a given one and other values.

    An optimiser that folds one operator into another changes nearly all values of a tensor and keeps its name.
    """
    folded = is_rewritten(node)
    given = dict(zip(case.judge.file.arguments.leaf_names, case.leaves, strict=True))
    found = []
    for name in dict.fromkeys((*node.input, *more)):
        leaf = given.get(name)
        stored = stored_tensor(case.graph, name, case.judge.file.file) if leaf is not None else None
        if stored is None or leaf is None:
            continue
        leaf = leaf.detach().cpu()
        if stored.shape != leaf.shape and folded:
            continue
        if stored.shape != leaf.shape:
            found.append(f"weight {name} has shape {tuple(stored.shape)}, the given one {tuple(leaf.shape)}")
            continue
        leaf = leaf.to(stored.dtype)
        count = int(((stored != leaf) & ~(stored.isnan() & leaf.isnan())).sum())
        if count and not (folded and 2 * count > leaf.numel()):
            found.append(f"weight {name} differs from the given one in {count:,} of {leaf.numel():,} values")
    return ", ".join(found)


def _carried(given: Sequence[str], compared: Sequence[Compared]) -> str:
    """Name the input that brings the largest difference along."""
    inputs = [entry for entry in compared if entry.probe.site.value in given]
    worst = max(inputs, key=lambda entry: entry.ratio, default=None)
    if worst is None:
        return "alone on the reference's inputs it agrees"
    name = display_name(worst.probe.site.node)
    return (
        f"carried on from {name!r}, whose value is off by {worst.ratio:.3g}; alone on the reference's inputs it agrees"
    )
