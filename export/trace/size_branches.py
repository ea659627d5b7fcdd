"""Python branches on a dynamic size, judged by running the function at a size that takes the other branch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._dispatch.python import no_python_dispatcher
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
    for branch in sizes.branches:
        for chosen in flips(branch, sizes, hints):
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
        with torch.random.fork_rng(devices=[]):
            _, expected, _ = describe(outside_modes(fn, arguments, leaves), is_tensor, "out")
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return True
    try:
        actual = graph(*leaves)
    except (RuntimeError, ValueError, IndexError):
        return False
    return len(actual) == len(expected) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4 * _scale(b), equal_nan=True)
        for a, b in zip(actual, expected, strict=True)
    )


def _scale(x: torch.Tensor) -> float:
    return float(x.detach().double().abs().max()) if x.numel() else 0.0


def outside_modes(fn: Callable[..., Any], arguments: Arguments, leaves: Sequence[torch.Tensor]) -> Any:
    """Run the function on real tensors, outside of whatever modes are active."""
    with _disable_current_modes(), no_python_dispatcher(), taken_by(unrolled):
        return fn(*arguments.rebuild([leaf.clone() for leaf in leaves]))
