"""Where a file first differs from the function: the node, its block and source line, and a folder that reproduces it.

The recorded function is interpreted operator by operator with its rounding scales, and the file is run with the values
of the same operators as additional outputs. The first of them that differs, in the file's order, names the node.
Whether the node itself is wrong is told by running it alone on the reference's values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from export.graph.node_notes import read_notes
from export.verdict import branch_forcing
from export.verdict.comparison import element_ratios
from export.verdict.judge import Judge
from export.verdict.locating.node_alone import Alone, run_outputs
from export.verdict.locating.opened_graph import Opened, display_name, opened
from export.verdict.locating.recorded_values import Probe, probes, recorded_nodes, step_inputs
from export.verdict.locating.reproduction import write_reproduction
from export.verdict.sampled import Sampled, Scales
from export.verdict.verdict_result import Divergence

__all__ = ["localise"]


@dataclasses.dataclass(frozen=True)
class Compared:
    """A value that both sides have.

    Attributes:
        probe: the value.
        ratio: how far it is off, in units of its rounding scale.
        value: what the file gives; of a loop with one leading axis for all steps.
        sampled: what is expected.
        shape: the shape that it has in the file.
    """

    probe: Probe
    ratio: float
    value: Tensor
    sampled: Sampled
    shape: torch.Size

    @classmethod
    def of(cls, probe: Probe, value: Tensor, sampled: Sampled) -> Compared:
        """Compare what the file gives with what is expected."""
        expected, shape = sampled.reference.shape, value.shape
        if probe.site.loops and value.numel() == sampled.reference.numel():
            value = value.reshape(expected)
        return cls(probe, _ratio(value, sampled, probe.dtype), value, sampled, shape)

    def first_step(self, limit: float) -> int:
        """Return the first step of its loops at which it differs."""
        if self.value.shape != self.sampled.reference.shape:
            return 0
        steps = range(len(self.value))
        return next((i for i in steps if _ratio(self.value[i], self.at(i), self.probe.dtype) > limit), 0)

    def at(self, step: int) -> Sampled:
        """Return what is expected at a step."""
        return Sampled(self.sampled.reference[step], self.sampled.scale[step])

    def in_file(self) -> Sampled:
        """Return what is expected in the shape that the file's value has."""
        reference, scale = self.sampled.reference, self.sampled.scale
        if reference.numel() != self.shape.numel() or not self.probe.site.loops:
            return self.sampled
        return Sampled(reference.reshape(self.shape), scale.reshape(self.shape))


def localise(judge: Judge, folder: Path) -> Divergence | None:
    """Find the first node of a file whose value differs from the function's, and write a reproduction.

    Args:
        judge: the file and the function, with the inputs on which they were seen to differ.
        folder: where the reproduction goes; made if needed.

    Returns:
        The first difference; None if nothing failed on given inputs. If the search itself fails, the text says so.
    """
    if judge.failed is None or judge.file.traced is None:
        return None
    try:
        return _first_difference(judge, judge.failed, folder)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        return Divergence("(unknown)", "?", "", "", math.nan, "", problem=f"{type(error).__name__}: {reason}")


def _first_difference(judge: Judge, failed: tuple[list[Tensor], dict[str, bool]], folder: Path) -> Divergence:
    leaves, forced = failed
    file = judge.file
    assert file.traced is not None
    model = branch_forcing.forced(file.model, forced) if forced else file.model
    nodes = recorded_nodes(file.traced.graph)
    scales = judge.scales(leaves, forced or None, wanted=[key for key, node in nodes.items() if node.op != "get_attr"])
    graph = opened(model, scales.branches)
    known = [probe for probe in probes(graph, file.traced, nodes) if probe.key in scales.values]
    references = {
        probe.key: _steps(scales.values[probe.key], nodes[probe.key]) if probe.site.loops else scales.values[probe.key]
        for probe in known
    }
    feed = file.feed(leaves)
    names = list(dict.fromkeys([*(probe.site.output for probe in known), *file.output_positions()]))
    probed = branch_forcing.with_outputs(graph.model, names)
    values = dict(zip(names, run_outputs(probed, feed, names, file.file, file.device, tf32=file.tf32), strict=True))
    compared = [Compared.of(probe, values[probe.site.output], references[probe.key]) for probe in known]
    found = _first([entry for entry in compared if entry.ratio > judge.limit], judge.limit)
    folder.mkdir(parents=True, exist_ok=True)
    if found is None:
        write_reproduction(folder, judge, model, leaves, _expected(judge, scales), "")
        return _outputs_only(judge, scales, values, folder)
    plain = not found.probe.site.loops and not found.probe.site.within
    expected = _expected(judge, scales)
    expected[found.probe.site.output] = found.in_file()
    shown = branch_forcing.with_outputs(model if plain else graph.model, [found.probe.site.output])
    write_reproduction(folder, judge, shown, leaves, expected, found.probe.site.output)
    alone = Alone(
        graph, _known_values(graph, known, nodes, scales, references, feed), file.file, file.device, file.tf32
    )
    return _described(judge, found, alone, compared, folder)


def _steps(sampled: Sampled, node: torch.fx.Node) -> Sampled:
    """Return the value of an operator in a loop with its axis of steps where there was one step only."""
    if sampled.reference.dim() != node.meta["val"].dim():
        return sampled
    return Sampled(sampled.reference.unsqueeze(0), sampled.scale.unsqueeze(0))


def _known_values(
    graph: Opened,
    known: Sequence[Probe],
    nodes: Mapping[str, torch.fx.Node],
    scales: Scales,
    references: Mapping[str, Sampled],
    feed: Mapping[str, Tensor],
) -> dict[str, tuple[Tensor, int]]:
    """Return the reference's values by the names that they have in the file, rounded, with the loops they lie in."""
    found: dict[str, tuple[Tensor, int]] = {name: (value, 0) for name, value in feed.items()}
    for name, key in step_inputs(graph, nodes).items():
        if key in scales.values:
            found[name] = _steps(scales.values[key], nodes[key]).reference.to(nodes[key].meta["val"].dtype), 1
    for probe in known:
        found[probe.site.value] = references[probe.key].reference.to(probe.dtype), probe.site.loops
    return found


def _first(wrong: Sequence[Compared], limit: float) -> Compared | None:
    """Return the first value that differs: in the file's order, of a loop's step by step."""
    first = next(iter(wrong), None)
    if first is None or not first.probe.site.loops:
        return first
    for loops in range(1, first.probe.site.loops + 1):
        # Of the values in the same loops, those that differ at the earliest step of the outer ones.
        steps = first.shape[:loops].numel()
        around = first.probe.site.around[:loops]
        inside = [entry for entry in wrong if entry.probe.site.around[:loops] == around]
        first = min(inside, key=lambda entry: entry.first_step(limit) * steps // max(len(entry.value), 1))
        if first.probe.site.loops == loops:
            break
    return first


def _ratio(value: Tensor, sampled: Sampled, dtype: torch.dtype) -> float:
    """Return the largest ratio of an element, as by `comparison.compare`; infinite for another shape."""
    exact = sampled.reference
    if value.shape != exact.shape:
        return math.inf
    if not exact.numel():
        return 0.0
    if not exact.is_floating_point():
        wrong = (value.double() - exact.double()).abs() > sampled.scale
        if sampled.pick is not None:
            wrong &= ~sampled.pick.may_be(value, exact)
        return math.inf if bool(wrong.any()) else 0.0
    return float(element_ratios(value, sampled, dtype)[0].max())


def _expected(judge: Judge, scales: Scales) -> dict[str, Sampled]:
    return {name: scales.outputs[i] for name, i in judge.file.output_positions().items()}


def _outputs_only(judge: Judge, scales: Scales, values: Mapping[str, Tensor], folder: Path) -> Divergence:
    """Describe a difference that no inner value shows: swapped outputs, or one that joined operators make."""
    wrong = any(
        _ratio(values[name], sampled, values[name].dtype) > judge.limit
        for name, sampled in _expected(judge, scales).items()
    )
    cause = (
        "every inner value that both sides have agrees"
        if wrong
        else "gone where inner values are outputs too: ONNX Runtime makes it when it joins operators"
    )
    return Divergence("(outputs)", "output", "", "", math.inf, str(folder), cause=cause)


def _described(judge: Judge, found: Compared, alone: Alone, compared: Sequence[Compared], folder: Path) -> Divergence:
    site = found.probe.site
    notes = read_notes(site.node)
    step = found.first_step(judge.limit) if site.loops else None
    result = alone.run(site.value, step)
    root, cause = None, ""
    if result is not None:
        sampled = found.sampled if step is None else found.at(step)
        ratio = _ratio(result.value, sampled, found.probe.dtype)
        root = ratio > judge.limit
        if root:
            cause = f"the cause lies in it: alone on the reference's inputs it is off by {ratio:.3g}"
        else:
            cause = _carried(result.given, compared)
    within = site.within + (f", step {step + 1} of {len(found.sampled.reference)}" if step is not None else "")
    return Divergence(
        display_name(site.node),
        site.node.op_type,
        notes.get("path", ""),
        notes.get("source", ""),
        found.ratio,
        str(folder),
        within=within,
        root=root,
        cause=cause,
    )


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
