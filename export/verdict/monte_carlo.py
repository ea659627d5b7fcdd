"""Monte Carlo arithmetic: a recorded graph run in float64, exactly and with random roundings.

Every operator's result is changed by a random error of one rounding of the dtype that it has in the function (Parker,
Monte Carlo Arithmetic, 1997; Verrou and CADNA do it to compiled programs). The spread of an element over a few such
runs is its rounding scale: what the function itself makes of the roundings on the way to that element.

Where rounding leaves a decision open, a second set of runs takes it at random, so that the scale of what depends on it
holds the jump. Conditions keep the branch that float64 takes.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx

from export.ops.scan.operator import looped, scan_op
from export.verdict.decisions import (
    LEAST_TIE,
    PICKS,
    REACH,
    Pick,
    decided,
    decision_of,
    is_stable,
    pick_axis,
    positions_of,
    standing_at,
)
from export.verdict.noise_model import LOW, UNITS, cast_to, is_exact, is_primitive, name_of, noise, rounding_of, widened
from export.verdict.reference_runs import in_any_layout
from export.verdict.sampled import InnerValues, RoundingSizes, Sampled, Scales, Spread

__all__ = ["FEW_RUNS", "RUNS", "measure"]

RUNS = 12
"""How many noisy runs give a scale: known to a factor of 1.5 (95 %), which the limit on ratios allows for."""

FEW_RUNS = 4
"""How many are enough to pass a value by: they know its scale to a factor of 3, more often too small than too large."""

Forced = Callable[[str, int], bool | None]
"""Which branch a condition takes, by its key and the number of its execution; None leaves it."""


@dataclasses.dataclass
class _Run:
    """What one run of a graph shares with its subgraphs.

    Attributes:
        generator: of the noise; None for the exact run.
        forced: which branches are taken.
        scales: of the operands of decisions, by key; empty to take every decision as float64 does.
        sizes: of the roundings.
        operands: what decisions looked at, by key: the node, the kind and the operand; of the exact run only.
        look: is told every decision's operand by key; None to tell nobody.
        branches: those that were taken.
        note: is told every operator's tensor by key, and those that a loop's step is given; None to tell nobody.
        lifted: source lines of casts that were not made.
        made_of: graphs of operators that are made of others, by key: shared by all runs of a measurement.
        followed: positions that operators pick, by key, whatever the values.
        results: what operators that decide returned, by key.
    """

    generator: torch.Generator | None
    forced: Forced | None
    scales: Mapping[str, Tensor]
    sizes: RoundingSizes
    operands: dict[str, tuple[Node, str, Tensor]] = dataclasses.field(default_factory=dict)
    look: Callable[[str, Tensor], None] | None = None
    branches: dict[str, list[bool]] = dataclasses.field(default_factory=dict)
    note: Callable[[str, Tensor], None] | None = None
    lifted: dict[str, None] = dataclasses.field(default_factory=dict)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    made_of: dict[str, GraphModule] = dataclasses.field(default_factory=dict)
    followed: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    results: dict[str, Any] = dataclasses.field(default_factory=dict)

    def execution(self, key: str) -> int:
        """Return how often this operator was run before, and count this time."""
        self.counts[key] += 1
        return self.counts[key] - 1


class _Noisy(Interpreter):
    """Interprets a recorded graph in float64, with the noise and the open decisions of a run."""

    def __init__(self, graph: GraphModule, run: _Run, prefix: str = "", unit: float | None = None) -> None:
        super().__init__(graph)
        self.shared, self.prefix, self.unit = run, prefix, unit
        self.node: Node | None = None

    def run_node(self, n: Node) -> Any:
        """Run one node, and tell its value where asked to."""
        self.node = n
        result = super().run_node(n)
        if n.op == "get_attr":
            return widened(result)
        if self.shared.note is not None and n.op in ("call_function", "placeholder") and isinstance(result, Tensor):
            self.shared.note(self.prefix + n.name, result)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator in float64: its subgraphs, its decision, or its value with noise."""
        node = self.node
        assert node is not None
        key = self.prefix + node.name
        if target is torch.ops.higher_order.cond:
            return self._branch(node, key, *args)
        if target is scan_op:
            return looped(_Noisy(args[0], self.shared, self._inside(node, 0), self.unit).run, *args[1:])
        low = _is_low(node)
        args, kwargs = tuple(widened(a, low) for a in args), {name: widened(a, low) for name, a in kwargs.items()}
        name = name_of(target)
        followed = self.shared.followed.get(key)
        if followed is not None:
            self._operand(node, key, name, args[0])
            return standing_at(node, args[0], followed) if isinstance(node.meta["val"], (tuple, list)) else followed
        result = decided(target, name, args, kwargs, node, lambda kind, x: self._operand(node, key, kind, x))
        if result is not None:
            self.shared.results[key] = result
            return result
        if not is_primitive(target):
            return self._decomposed(node, key, target, args, kwargs)
        out = in_any_layout(target)(*args, **kwargs)
        if is_exact(name, args, kwargs) or (cast_to(name, args, kwargs) is not None and not self._narrows(node)):
            return out
        return self._rounded(node, key, target, name, args, kwargs, out)

    def _inside(self, node: Node, place: int) -> str:
        """Return the prefix of the keys in a subgraph: as in the metadata of an exported file."""
        return f"{self.prefix}{getattr(node.args[place], 'target', node.name)}."

    def _branch(
        self, node: Node, key: str, pred: Any, yes: GraphModule, no: GraphModule, operands: Sequence[Any]
    ) -> Any:
        taken = self.shared.branches.setdefault(key, [])
        forced = None if self.shared.forced is None else self.shared.forced(key, len(taken))
        side = bool(pred) if forced is None else forced
        taken.append(side)
        inside = self._inside(node, 1 if side else 2)
        return _Noisy(yes if side else no, self.shared, inside, self.unit).run(*operands)

    def _decomposed(self, node: Node, key: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator that is made of others as these."""
        places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]

        def call(*tensors: Tensor) -> Any:
            given = list(args)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor
            out = decomposition_table[target](*given, **kwargs)
            return tuple(out) if isinstance(out, (tuple, list)) else out

        graph = self.shared.made_of.get(key)
        if graph is None:
            graph = self.shared.made_of[key] = make_fx(call)(*(args[i] for i in places))
            for part in graph.graph.nodes:
                part.meta["path"], part.meta["source"] = node.meta.get("path", ""), node.meta.get("source", "")
        dtypes = [item.dtype for item in _items(node.meta.get("val")) if isinstance(item, Tensor)]
        unit = next((UNITS[dtype] for dtype in dtypes if dtype in UNITS), self.unit)
        return _Noisy(graph, self.shared, f"{key}.", unit).run(*(args[i] for i in places))

    def _narrows(self, node: Node) -> bool:
        """Tell whether a cast loses digits; note its source line if the reference does not make it."""
        source, result = (getattr(item, "meta", {}).get("val") for item in (node.args[0], node))
        if not isinstance(source, Tensor) or not isinstance(result, Tensor):
            return True
        narrows = UNITS.get(result.dtype, 0.0) > UNITS.get(source.dtype, 0.0) > 0.0
        if narrows and node.meta.get("source"):
            self.shared.lifted.setdefault(node.meta["source"])
        return narrows

    def _rounded(
        self, node: Node, key: str, target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> Any:
        """Add a random rounding to every result; in the exact run, keep how large it may be."""
        run = self.shared
        if run.generator is None:
            run.sizes.add(key, lambda: self._sizes(node, target, name, args, kwargs, out))
            return out
        sizes = run.sizes.at(key, run.execution(key)) or self._sizes(node, target, name, args, kwargs, out)
        noisy = [
            y if size is None else y + size * torch.randn(y.shape, generator=run.generator).to(y.device)
            for y, size in zip(_items(out), sizes, strict=True)
        ]
        return type(out)(noisy) if isinstance(out, (tuple, list)) else noisy[0]

    def _sizes(
        self, node: Node, target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> list[Tensor | None]:
        """Return the size of each result's rounding, None where it has none."""
        recorded = _items(node.meta.get("val"))
        found: list[Tensor | None] = []
        for i, size in enumerate(_items(noise(target, name, args, kwargs, out))):
            unit = self.unit
            if unit is None and i < len(recorded) and isinstance(recorded[i], Tensor):
                unit = UNITS.get(recorded[i].dtype)
            if size is None or unit is None:
                found.append(None)
            else:
                found.append(rounding_of(unit, size, _items(out)[i]))
        return found

    def _operand(self, node: Node, key: str, kind: str, operand: Tensor) -> Tensor:
        """Note what a decision looks at; return it moved at random where rounding leaves the decision open."""
        number = self.shared.execution(key)
        key = f"{key}#{number}" if number else key
        if self.shared.generator is None:
            self.shared.operands[key] = node, kind, operand
        if self.shared.look is not None:
            self.shared.look(key, operand)
        scale = self.shared.scales.get(key)
        if scale is None or scale.shape != operand.shape:
            return operand
        reach = REACH * scale
        if kind in PICKS and not is_stable(node):  # equal values may come in any order
            reach = reach + (operand.abs() * 2.0**-50).clamp(min=LEAST_TIE)
        return operand + reach * (2 * torch.rand(operand.shape, generator=self.shared.generator).to(operand.device) - 1)


def measure(
    graph: GraphModule,
    leaves: Sequence[Tensor],
    *,
    runs: int = RUNS,
    open_decisions: bool = True,
    seed: int = 0,
    forced: Forced | None = None,
    wanted: Collection[str] = (),
    follow: Mapping[str, Tensor] | None = None,
    unit: float | None = None,
) -> Scales:
    """Measure the rounding scale of every output of a recorded graph.

    Args:
        graph: the graph, recorded in the function's own precision.
        leaves: its inputs, which are taken as exact.
        runs: how many noisy runs are made; twice as many where rounding leaves a decision open.
        open_decisions: whether decisions that rounding leaves open are taken at random.
        seed: of the noise. The same seed gives the same scales.
        forced: which branches conditions take.
        wanted: keys of operators whose values are wanted too; a loop's lie stacked, one entry a step.
        follow: positions that somebody picked, by key: taken by the reference as well where rounding leaves them open.
        unit: the rounding unit of every operator, in place of its own dtype's.
    """
    given = [widened(leaf) for leaf in leaves]
    values = InnerValues(wanted)
    exact = _Run(None, forced, {}, RoundingSizes(), note=values.keep if wanted else None)
    reference = _outputs(graph, exact, given, unit)

    def taken(key: str, number: int) -> bool | None:
        sides = exact.branches.get(key, [])
        return sides[number] if number < len(sides) else None

    operands = Spread(runs)

    def look(key: str, operand: Tensor) -> None:
        if key in exact.operands:
            operands.add({key: exact.operands[key][2]}, {key: operand})

    def spread(scales: Mapping[str, Tensor], first: int, look: Callable[[str, Tensor], None] | None = None) -> Spread:
        outputs = Spread(runs)
        values.begin(runs)
        for number in range(first, first + runs):
            generator = torch.Generator().manual_seed(1_000_003 * seed + number)
            run = _Run(generator, taken, scales, exact.sizes, note=values.compared() if wanted else None)
            run.made_of, run.followed, run.look = exact.made_of, exact.followed, look
            outputs.add(dict(enumerate(reference)), dict(enumerate(_outputs(graph, run, given, unit))))
        return outputs

    outputs = spread({}, 0, look)
    scales: dict[str, Tensor] = {key: operands.scale(key, value[2]) for key, value in exact.operands.items()}
    decisions = {key: decision_of(key, *entry, scales[key]) for key, entry in exact.operands.items()}
    too_often = ""
    if follow:
        positions, too_often = _followed(follow, exact, scales)
        exact = _Run(None, taken, {}, RoundingSizes(), followed=positions)
        reference = _outputs(graph, exact, given, unit)
        outputs = spread({}, 0)
    picks = _picks(graph, exact, scales)
    inner_picks = {node.name: _pick(node, exact, scales) for node in graph.graph.nodes}
    exact.operands.clear()
    if open_decisions and any(decision.open for decision in decisions.values()):
        outputs = spread(scales, runs)
    return Scales(
        outputs=tuple(Sampled(value, outputs.scale(i, value), picks.get(i)) for i, value in enumerate(reference)),
        decisions=decisions,
        branches=exact.branches,
        lifted=tuple(exact.lifted),
        followed_too_often=too_often,
        values=values.sampled(inner_picks),
    )


def _followed(follow: Mapping[str, Tensor], exact: _Run, scales: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the positions to follow, and what is wrong if they are followed too often.

    A position is followed where rounding leaves it open; elsewhere the reference's own stays.
    """
    found, problem = {}, ""
    for key, positions in follow.items():
        node, kind, operand = exact.operands[key]
        own = positions_of(kind, exact.results[key])
        if own is not None:
            pick = Pick(operand, scales[key], pick_axis(node))
            found[key] = pick.nearest(positions.to(own.dtype), own)
            problem = pick.moved_too_often(found[key], own) or problem
    return found, problem


def _picks(graph: GraphModule, exact: _Run, scales: Mapping[str, Tensor]) -> dict[int, Pick]:
    """Return what the outputs that are picked positions were picked from, by the output's place."""
    items = graph.graph.find_nodes(op="output")[0].args[0]
    found = {i: _pick(item, exact, scales) for i, item in enumerate(items) if isinstance(item, Node)}
    return {i: pick for i, pick in found.items() if pick is not None}


def _pick(item: Node, exact: _Run, scales: Mapping[str, Tensor]) -> Pick | None:
    """Return what the positions that a node gives were picked from, None if they are none."""
    at = item.args[0] if item.target is operator.getitem else item
    if isinstance(at, Node) and at.name in exact.operands:
        _, kind, operand = exact.operands[at.name]
        if kind in PICKS and not kind.startswith("max_pool"):
            return Pick(operand, scales[at.name], pick_axis(at))
    return None


def _outputs(graph: GraphModule, run: _Run, given: Sequence[Tensor], unit: float | None) -> list[Tensor]:
    with torch.no_grad():
        return list(_Noisy(graph, run, unit=unit).run(*given))


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _is_low(node: Node) -> bool:
    """Tell whether an operator computes in less than float64: by its first tensor argument, else by its result."""
    values = [item.meta.get("val") for item in node.all_input_nodes] + list(_items(node.meta.get("val")))
    dtypes = [value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    return bool(dtypes) and dtypes[0] in LOW
