"""Kinks: decisions that rounding leaves open, and the truth on the side that a file took.

The derivative of relu jumps at 0, that of max pooling where two values tie. Where the operand lies within rounding of
the jump, float32 takes either side, and both results are right. A float64 truth takes one of them, so that a correct
file may differ from it by a whole term of a sum.

The recorded function is therefore run in float64 once more, and made to take the file's side of such decisions, which
the file gives as additional outputs. A side is followed only where the operand's distance from the jump in that run is
within ``REACH`` times the rounding of the operand, which is what the recorded function itself loses there in its own
precision. Operands that are exact leave nothing open. At a clear distance the truth keeps its side, and a file that
takes another is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.fx import GraphModule, Interpreter, Node

from export.ops.registry import TABLE
from export.runtime import loading
from export.trace import isolation
from export.trace.arguments import Arguments
from export.trace.aten_graph import Traced, record
from export.verdict import branch_forcing, reference_runs
from export.verdict.error_ratio import FLOOR_ULP, Settled
from export.verdict.verdict_result import Kink

aten: Any = torch.ops.aten

REACH = 8.0
"""How many times its rounding a margin may be to leave a decision open, as for the predicates of ``If``."""

SAME = 2.0**-36
"""How near the recorded function must be to eager, both in float64, relative to a leaf's root mean square."""

MOST_TRIED = 12
"""How many open decisions are tried the other way, where what the file shows does not explain its output."""

EXPLAINED = 4.0
"""Error of a leaf, in units of its rounding on these inputs, that needs no other explanation."""

COMPARISONS = frozenset(
    getattr(getattr(aten, name), kind) for name in ("gt", "ge", "lt", "le", "eq", "ne") for kind in ("Tensor", "Scalar")
)
JUMPS: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {
    aten.sign.default: lambda x: x,
    aten.sgn.default: lambda x: x,
    aten.floor.default: lambda x: x - x.round(),
    aten.ceil.default: lambda x: x - x.round(),
    aten.trunc.default: lambda x: x - x.round(),
    aten.round.default: lambda x: x - x.floor() - 0.5,
}
"""Functions of one number that jump: the distance from the nearest jump."""

POOLS = {aten.max_pool2d_with_indices.default: 2, aten.max_pool3d_with_indices.default: 3}
PICKS = frozenset(
    {
        *(aten.max.dim, aten.min.dim, aten.argmax.default, aten.argmin.default),
        *(aten.topk.default, aten.sort.default, aten.sort.stable),
    }
)
"""Operators that pick positions by value."""

REARRANGED = frozenset(
    {
        *(aten.alias.default, aten.detach.default, aten.clone.default, aten.permute.default, aten.transpose.int),
        *(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.unsqueeze.default),
        *(aten.squeeze.dim, aten.squeeze.dims, aten.expand.default, aten.slice.Tensor, aten.select.int),
    }
)
"""Operators whose result holds values of their first argument; what is known of those holds for it."""

DECIDING = frozenset(
    {"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Sign", "Floor", "Ceil", "Round"}
    | {"ArgMax", "ArgMin", "TopK"}
)


def decides(model: onnx.ModelProto) -> bool:
    """Tell whether a file has a node whose result jumps."""
    return any(
        node.op_type in DECIDING or (node.op_type == "MaxPool" and len(node.output) > 1) for node in model.graph.node
    )


@dataclasses.dataclass
class _Tally:
    compared: int = 0
    followed: int = 0
    clear: int = 0
    margin: float = 0.0


class Kinks:
    """The open decisions of a function, as eager and a file take them.

    Args:
        fn: The function.
        arguments: Its example arguments.
        model: The file's content.
        file: The file itself.
        baked: Positions of the arguments that are inside the file.
        device: Where the file runs.
        tf32: Whether it may round products to TF32 there.

    Raises:
        ExportError: If the function cannot be recorded again.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        arguments: Arguments,
        model: onnx.ModelProto,
        file: Path,
        baked: frozenset[int],
        device: str,
        tf32: bool = False,
    ) -> None:
        self.traced: Traced = record(fn, arguments, TABLE)
        self.arguments, self.baked = arguments, baked
        self.values = _readable(model, self.traced)
        self.tallies: dict[str, _Tally] = {}
        if self.values:
            names = list(dict.fromkeys(name for name, _ in self.values.values()))
            kinds = {name: kind for name, kind in self.values.values()}
            probed = branch_forcing.with_outputs(model, names, [kinds[name] for name in names]).SerializeToString()
            self.loaded = loading.open_file(file, device, variant=probed, tf32=tf32)

    def settle(
        self,
        leaves: Sequence[torch.Tensor],
        exact: Sequence[torch.Tensor],
        found: Sequence[torch.Tensor] | None = None,
    ) -> Settled | None:
        """Compute the truth on the file's side.

        Args:
            leaves: The inputs.
            exact: Eager's output in float64.
            found: The file's output. Asked for its decisions, a file may be optimised otherwise and decide otherwise
                than by itself; what it shows of an open decision is then tried both ways, and what explains its
                output is kept.

        Returns:
            That truth, or None where it cannot be had: the file shows no decisions, or the recorded function is not
            eager's equal on these inputs.
        """
        if not self.values:
            return None
        plain = self._run(_Sided(self.traced.graph), leaves, torch.float64)
        if not all(_equal(mine, eager) for mine, eager in zip(plain, exact, strict=True)):
            return None
        coarse = _Sided(self.traced.graph)
        own = self._run(coarse, leaves, None)
        level = _Sided(self.traced.graph, coarse.sides, coarse.operands)
        beside = self._run(level, leaves, torch.float64)
        file = _Sided(self.traced.graph, self._read(leaves, level), coarse.operands, level.rounding)
        truth_there = self._run(file, leaves, torch.float64)
        rounding = tuple(mine.double() - target.double() for mine, target in zip(own, beside, strict=True))
        if found is not None:
            file, truth_there = self._explained(leaves, file, truth_there, found, rounding)
        for name, (compared, followed, clear, margin) in file.counts.items():
            tally = self.tallies.setdefault(name, _Tally())
            tally.compared, tally.followed = tally.compared + compared, tally.followed + followed
            tally.clear, tally.margin = tally.clear + clear, max(tally.margin, margin)
        return Settled(tuple(truth_there), rounding)

    def _explained(
        self,
        leaves: Sequence[torch.Tensor],
        file: _Sided,
        exact: list[torch.Tensor],
        found: Sequence[torch.Tensor],
        rounding: Sequence[torch.Tensor],
    ) -> tuple[_Sided, list[torch.Tensor]]:
        """Take the other side of open decisions, the closest first, where that explains the output far better."""
        distance = _distance(found, exact, rounding)
        for name, index in file.doubtful()[:MOST_TRIED]:
            if distance <= EXPLAINED:
                break
            sides = {**file.sides, name: file.sides[name].clone()}
            sides[name].view(-1)[index] = ~sides[name].view(-1)[index]
            other = _Sided(self.traced.graph, sides, file.coarse, file.given)
            result = self._run(other, leaves, torch.float64)
            if (reached := _distance(found, result, rounding)) < distance / 2:
                other.counts = {key: _more(count, file.counts.get(key)) for key, count in other.counts.items()}
                file, exact, distance = other, result, reached
        return file, exact

    def found(self) -> tuple[Kink, ...]:
        """Return the operations whose open decisions the file took otherwise than float64."""
        nodes = {node.name: node for node in self.traced.graph.graph.nodes}
        return tuple(
            Kink(
                op=str(nodes[name].target).removeprefix("aten.").split(".")[0],
                path=nodes[name].meta.get("path", ""),
                source=nodes[name].meta.get("source", ""),
                compared=tally.compared,
                followed=tally.followed,
                clear=tally.clear,
                margin=tally.margin,
                status="fail" if tally.clear else "ambiguous",
            )
            for name, tally in self.tallies.items()
            if tally.followed or tally.clear
        )

    def _run(self, run: _Sided, leaves: Sequence[torch.Tensor], to: torch.dtype | None) -> list[torch.Tensor]:
        given = [leaf.to(to) if to is not None and leaf.is_floating_point() else leaf for leaf in leaves]
        with isolation.restored(), torch.no_grad(), reference_runs.precision(to):
            return list(run.run(*given))

    def _read(self, leaves: Sequence[torch.Tensor], level: _Sided) -> dict[str, torch.Tensor]:
        """Ask the file for its decisions; equal computations are one node there, and share its value."""
        names = list(dict.fromkeys(name for name, _ in self.values.values()))
        args = [arg for i, arg in enumerate(self.arguments.rebuild(leaves)) if i not in self.baked]
        with torch.no_grad():
            found = dict(zip(names, self.loaded.inner_values(names, *args), strict=True))
        place = next((operand.device for operand in level.operands.values()), None)
        sides = {name: torch.from_numpy(found[value].copy()).to(place) for name, (value, _) in self.values.items()}
        for name, operand in level.operands.items():
            if name not in sides:
                for other, value in list(sides.items()):
                    same = level.kinds.get(other) == level.kinds[name]
                    if same and torch.equal(level.operands[other], operand):
                        sides[name] = value
                        break
        return sides


class _Sided(Interpreter):
    """Runs a recorded graph, notes its decisions, and takes those of another run where rounding leaves them open.

    Args:
        graph: The graph.
        others: The decisions of the other run by operation; None to follow nobody.
        operands: What the recorded function compares in its own precision.
        rounding: The rounding of each operand; None to measure it on the way.
    """

    def __init__(
        self,
        graph: GraphModule,
        others: Mapping[str, torch.Tensor] | None = None,
        operands: Mapping[str, torch.Tensor] | None = None,
        rounding: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(graph)
        self.others, self.coarse, self.given = others or {}, operands or {}, rounding
        self.sides: dict[str, torch.Tensor] = {}
        self.operands: dict[str, torch.Tensor] = {}
        self.kinds: dict[str, Any] = {}
        self.rounding: dict[str, float] = {}
        self.counts: dict[str, tuple[int, int, int, float]] = {}
        self.before_relu: dict[str, torch.Tensor] = {}
        self.open: dict[str, torch.Tensor] = {}

    def doubtful(self) -> list[tuple[str, int]]:
        """Return the comparisons that rounding leaves open, as operation and position, the closest first."""
        found = [
            (float(gap), name, int(index))
            for name, gaps in self.open.items()
            for index, gap in zip(gaps.isfinite().nonzero().flatten(), gaps[gaps.isfinite()], strict=True)
        ]
        return [(name, index) for _, name, index in sorted(found)]

    def run_node(self, n: Node) -> Any:
        """Run one node; where it decides, take the other run's side if it is as good."""
        result = super().run_node(n)
        if n.op != "call_function":
            return result
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.target is aten.relu.default:
            self.before_relu[n.name] = args[0]
        elif n.target in REARRANGED and str(n.args[0]) in self.before_relu:
            moved: Any = n.target
            self.before_relu[n.name] = moved(self.before_relu[str(n.args[0])], *args[1:], **kwargs)
        if n.target in COMPARISONS or n.target in JUMPS:
            distance = self._distance(n, args)
            return result if distance is None else self._jump(n, distance, result)
        if (n.target in PICKS or n.target in POOLS) and args[0].is_floating_point() and args[0].dim():
            return self._pick(n, args, kwargs, result)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator; run the branch of a condition, whose own decisions the file does not show."""
        if target is torch.ops.higher_order.cond:
            pred, yes, no, operands = args
            return _Sided(yes if bool(pred) else no).run(*operands)
        return super().call_function(target, args, kwargs)

    def _distance(self, n: Node, args: Sequence[Any]) -> torch.Tensor | None:
        """Return how far the operand lies from the jump; relu's result hides it below 0, its input shows it."""
        x = args[0]
        if n.target in JUMPS:
            return JUMPS[n.target](x) if x.is_floating_point() else None
        y = args[1]
        if not any(isinstance(side, torch.Tensor) and side.is_floating_point() for side in (x, y)):
            return None
        hidden = self.before_relu.get(str(n.args[0]))
        if hidden is not None and isinstance(y, (int, float)) and y == 0:
            return hidden
        return x - y if isinstance(x, torch.Tensor) else y - x

    def _note(self, n: Node, operand: torch.Tensor, side: torch.Tensor) -> None:
        self.sides[n.name], self.operands[n.name], self.kinds[n.name] = side, operand, n.target
        if n.name in self.coarse:
            self.rounding[n.name] = _rounding(self.coarse[n.name], operand)

    def _jump(self, n: Node, distance: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        self._note(n, distance, result)
        if n.name not in self.coarse or not self.others:
            return result
        other = self.others.get(n.name, result)  # what nobody shows may be open all the same
        if other.shape != result.shape:
            return result
        other = other.to(result.dtype)
        exact = self.coarse[n.name].double() == 0
        follow = self._open(n, distance, other != result, exact)
        result = torch.where(follow, other, result)
        self.sides[n.name] = result
        return result

    def _pick(self, n: Node, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
        picked = result[1] if isinstance(result, (tuple, list)) else result
        self._note(n, args[0], picked)
        other = self.others.get(n.name)
        if other is None or other.shape != picked.shape:
            return result
        values, mine, dim = _along(n.target, args, kwargs, picked)
        rough, theirs, _ = _along(n.target, (self.coarse[n.name], *args[1:]), kwargs, other)
        inside = (theirs >= 0) & (theirs < values.shape[dim])
        theirs = torch.where(inside, theirs, mine)
        gap = values.gather(dim, theirs) - values.gather(dim, mine)
        exact = rough.gather(dim, theirs) == rough.gather(dim, mine)
        follow = self._open(n, gap, (theirs != mine) | ~inside, exact | ~inside)
        chosen = torch.where(follow, theirs, mine)
        positions = chosen.reshape(picked.shape)
        if not isinstance(result, (tuple, list)):
            return positions
        return type(result)((values.gather(dim, chosen).reshape(result[0].shape), positions))

    def _open(self, n: Node, gap: torch.Tensor, differs: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        """Tell where the other side may be taken, and count; a gap of 0 that needed no rounding leaves nothing open."""
        rounding = self.rounding[n.name] if self.given is None else self.given.get(n.name, 0.0)
        near = (gap.abs() <= REACH * rounding) & ~((gap == 0) & exact)
        follow = differs & near
        if near.any() and differs.dtype == torch.bool and n.target in COMPARISONS:
            self.open[n.name] = torch.where(near, gap.abs() / rounding, torch.inf).flatten()
        followed, clear = int(follow.sum()), int((differs & ~near).sum())
        margin = float(gap[follow].abs().max()) / rounding if followed and rounding else 0.0
        self.counts[n.name] = (differs.numel(), followed, clear, margin)
        return follow


def _distance(found: Sequence[torch.Tensor], exact: Sequence[torch.Tensor], rounding: Sequence[torch.Tensor]) -> float:
    """Return the largest error of a leaf in units of its rounding."""
    worst = 0.0
    for mine, truth_leaf, lost in zip(found, exact, rounding, strict=True):
        if not mine.is_floating_point() or not mine.numel():
            continue
        floor = FLOOR_ULP * torch.finfo(mine.dtype).eps * float(truth_leaf.double().square().mean().sqrt())
        unit = max(float(lost.square().mean().sqrt()), floor)
        error = float((mine.double() - truth_leaf.double()).square().mean().sqrt())
        worst = max(worst, error / unit if unit else 0.0)
    return worst


def _more(
    count: tuple[int, int, int, float], before: tuple[int, int, int, float] | None
) -> tuple[int, int, int, float]:
    """Keep what was clear before a side was tried, for that is what the file showed."""
    return count if before is None else (count[0], max(count[1], before[1]), before[2], max(count[3], before[3]))


def _along(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Lay values and positions out so that ``gather`` along one axis fetches what was picked."""
    x = args[0]
    if target in POOLS:
        lead = x.dim() - POOLS[target]
        return x.flatten(lead), positions.flatten(lead), lead
    spot = 2 if target is aten.topk.default else 1
    default = None if target in (aten.argmax.default, aten.argmin.default) else -1
    dim = kwargs.get("dim", args[spot] if len(args) > spot else default)
    if dim is None:
        return x.flatten(), positions.reshape(1), 0
    return x, positions if positions.dim() == x.dim() else positions.unsqueeze(dim), dim % x.dim()


def _rounding(coarse: torch.Tensor, operand: torch.Tensor) -> float:
    """Root mean square of an operand's error, with the verdict's floor unless it is exact."""
    if not operand.numel():
        return 0.0
    error = float((coarse.double() - operand).square().mean().sqrt())
    floor = FLOOR_ULP * torch.finfo(coarse.dtype).eps * float(operand.square().mean().sqrt())
    return max(error, floor) if error else 0.0


def _equal(mine: torch.Tensor, eager: torch.Tensor) -> bool:
    if mine.shape != eager.shape:
        return False
    if not eager.is_floating_point():
        return torch.equal(mine, eager)
    scale = float(eager.square().mean().sqrt()) if eager.numel() else 0.0
    return bool((mine - eager).abs().le(SAME * scale).all())


def _readable(model: onnx.ModelProto, traced: Traced) -> dict[str, tuple[str, int]]:
    """{operation that decides: the value in the file, its element type}."""
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    deciding = {node.name: node.target for node in traced.graph.graph.nodes if _decides(node)}
    found: dict[str, tuple[str, int]] = {}
    for node in model.graph.node:
        origin = next((entry.value for entry in node.metadata_props if entry.key == "fx"), "")
        if origin not in deciding:
            continue
        picks = deciding[origin] in PICKS or deciding[origin] in POOLS
        for name in node.output:
            if name in types and (not picks or types[name] == onnx.TensorProto.INT64):
                found[origin] = name, types[name]
    return found


def _decides(node: Node) -> bool:
    return node.op == "call_function" and (
        node.target in COMPARISONS or node.target in JUMPS or node.target in POOLS or node.target in PICKS
    )
