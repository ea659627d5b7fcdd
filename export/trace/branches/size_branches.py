"""Python branches on a dynamic size, judged by running the function at a size that takes the other branch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._dispatch.python import no_python_dispatcher
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import _disable_current_modes

from export.errors import SpecialisedSizeError
from export.files.pytree_structure import describe
from export.trace.arguments import Arguments, is_tensor, resized
from export.trace.symbolic_sizes import Sizes, flips
from pure.scan_loop import taken_by, unrolled

__all__ = ["check_branches", "outside_modes"]


def check_branches(
    fn: Callable[..., Any], arguments: Arguments, graph: torch.fx.GraphModule, sizes: Sizes, hints: Mapping[str, int]
) -> None:
    """Raise for a Python branch on a dynamic size that makes the graph wrong at another size.

    Function and graph are compared at sizes that take the other branch.

    Raises:
        SpecialisedSizeError: naming the size, the sizes compared and the source line.
    """
    tried: dict[tuple[tuple[str, int], ...], bool] = {}
    taken = [(branch, flips(branch, sizes, hints)) for branch in sizes.branches]
    taken += [(branch, flips(branch, sizes, hints)[:1]) for branch in sizes.assumptions()]
    for branch, others in taken:
        for chosen in others:
            key = tuple(chosen.items())
            if key not in tried:
                tried[key] = _agree(fn, arguments, graph, chosen)
            if not tried[key]:
                name = next(label for symbol, label in sizes.symbols.items() if symbol in branch.condition.free_symbols)
                raise SpecialisedSizeError(
                    f"the function branches in Python on the dynamic size {name!r}, and the branch recorded is wrong "
                    f"at {chosen}. "
                    f"Compute the choice with tensors (torch.where), or leave {name!r} out of dynamic.",
                    name=name,
                    source=branch.source,
                )


def _agree(
    fn: Callable[..., Any], arguments: Arguments, graph: torch.fx.GraphModule, chosen: Mapping[str, int]
) -> bool:
    """Tell whether the graph agrees with the function at other sizes; True where the function raises there."""
    leaves = resized(arguments, chosen)
    try:
        expected = _expected(fn, arguments, leaves)
    except _RAISED:
        return True
    try:
        actual = graph(*leaves)
        if len(actual) != len(expected):
            return False
        apart = [i for i, (a, b) in enumerate(zip(actual, expected, strict=True)) if not _close(a, b)]
        return not apart or _rounding_only(fn, arguments, graph, leaves, [(i, actual[i], expected[i]) for i in apart])
    except _RAISED:
        return False


_RAISED = RuntimeError, ValueError, TypeError, IndexError, AssertionError

LARGEST_SHARE = 1e-4
"""Of a difference in float32, what is left of it in float64 if it is rounding; 2e-9 would be."""


def _expected(fn: Callable[..., Any], arguments: Arguments, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        return list(describe(outside_modes(fn, arguments, leaves), is_tensor, "out")[1])


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    near = 1e-4 * _scale(b)
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-3, atol=near, equal_nan=True)


def _rounding_only(
    fn: Callable[..., Any],
    arguments: Arguments,
    graph: torch.fx.GraphModule,
    leaves: Sequence[torch.Tensor],
    apart: Sequence[tuple[int, torch.Tensor, torch.Tensor]],
) -> bool:
    """Tell whether results differ by rounding: where one is exactly 0, as a key's bias's gradient, no scale says so."""
    if any(a.shape != b.shape or not a.is_floating_point() for _, a, b in apart):
        return False
    wide = [_wide(leaf) for leaf in leaves]
    expected, actual = _expected(fn, arguments, wide), _InFloat64(graph).run(*wide)
    return all(_scale(actual[i] - expected[i]) <= LARGEST_SHARE * _scale(a - b) for i, a, b in apart)


class _InFloat64(torch.fx.Interpreter):
    """Runs a graph in float64 also where it says float32, as for the zeros that a gradient is added to."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator with float64 in place of float32."""
        return super().call_function(target, map_aggregate(args, _wide), map_aggregate(kwargs, _wide))


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    return torch.float64 if value is torch.float32 else value


def _scale(x: torch.Tensor) -> float:
    return float(x.detach().double().abs().max()) if x.numel() else 0.0


def outside_modes(fn: Callable[..., Any], arguments: Arguments, leaves: Sequence[torch.Tensor]) -> Any:
    """Run the function on real tensors, outside of whatever modes are active."""
    with _disable_current_modes(), no_python_dispatcher(), taken_by(unrolled):
        return fn(*arguments.rebuild([leaf.clone() for leaf in leaves]))
