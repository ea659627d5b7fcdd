"""Second and third derivatives of every block by compositions of transforms, beside differences of values.

`python -m parity_tests.derivative_compositions [NAME …]` prints a table: of each catalogue row, in evaluation and in
training, and of modules and functions that PyTorch computes by kernels of their own, the largest relative error of all
25 compositions of two of {grad, jvp, jacrev, jacfwd, vjp}, and of 33 of three, in float64. It ends with status 1 if
one is wrong, or ends in an error that is not typed. Names may hold *; `--write` renews docs/DERIVATIVES.md, and
`--record FILE.jsonl` goes on from where a sweep was interrupted.

The block is a function of two numbers, along which its parameters and its input move, with three outputs. The
reference is a polynomial through the function's values on a grid, so no derivative of PyTorch enters it. Of grids of
several widths the one counts whose neighbour agrees best, and how well says how much the reference is worth. Between
the kinks of a ReLU network there is too little room for third differences of values: the grid then holds first
derivatives of plain autograd. Where that does not do, and for the methods that train by another gradient than that of
their values (straight-through gates, shaken branches), plain autograd is the reference, which each line says.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache, partial
from math import factorial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp

from export.app.sweep import EXECUTORS, sweep
from parity_tests.derivative_outcomes import CERTAIN, UNKNOWN, Outcome, page
from parity_tests.derivative_subjects import Subject, subjects
from pure.errors import PureError

__all__ = ["PAIRS", "TRIPLES", "check", "derivative", "expected", "reference"]

TRANSFORMS = ("grad", "jvp", "jacrev", "jacfwd", "vjp")
PAIRS = tuple(itertools.product(TRANSFORMS, repeat=2))
"""Outermost first."""

TRIPLES = tuple(
    dict.fromkeys(
        [
            *((a, b, TRANSFORMS[(i + j) % 5]) for (i, a), (j, b) in itertools.product(enumerate(TRANSFORMS), repeat=2)),
            *itertools.product(("grad", "jvp"), repeat=3),
        ]
    )
)
"""Every two transforms stand in every two of the three places; and all compositions of gradients and products."""

PAGE = Path(__file__).parent.parent / "docs" / "DERIVATIVES.md"

OUTPUTS = 3
DIRECTION = torch.tensor([0.8, -0.6], dtype=torch.float64)
WIDTHS = (0.4, 0.2, 0.1, 0.04, 0.02, 0.01)
"""Half the width of a grid of values."""

NARROW = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
"""Likewise of first derivatives: these stay between the kinks of a ReLU network."""

TOLERANCE = 1e-5  # relative to the largest element; 10 times the reference's own uncertainty where that is larger

Function = Callable[[Tensor], Tensor]


def derivative(f: Function, kinds: tuple[str, ...]) -> Function:
    """Return the composition of transforms of a function of two numbers, outermost first."""
    if not kinds:
        return f
    inner = derivative(f, kinds[1:])
    match kinds[0]:
        case "jvp":
            return lambda z: jvp(inner, (z,), (DIRECTION,))[1]
        case "grad":
            return grad(lambda z: _weighted(inner(z)))
        case "vjp":
            return lambda z: _pulled(inner, z)
        case "jacrev":
            return jacrev(inner)
        case _:
            return jacfwd(inner)


def _weighted(y: Tensor) -> Tensor:
    return (y * _weights(tuple(y.shape))).sum()


def _pulled(f: Function, z: Tensor) -> Tensor:
    y, back = vjp(f, z)
    return back(_weights(tuple(y.shape)))[0]


def _weights(shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.linspace(0.5, 1.5, count, dtype=torch.float64).reshape(shape)


def expected(partials: Tensor, kinds: tuple[str, ...]) -> Tensor:
    """Return what the composition gives, of all partial derivatives of the order (OUTPUTS, 2, …, 2)."""
    value = partials
    axes = 1  # of the function's value; the derivatives that are still to be taken come after them
    for kind in reversed(kinds):
        if kind == "jvp":
            value = torch.tensordot(value, DIRECTION, dims=([axes], [0]))
        elif kind in ("grad", "vjp"):
            value = torch.tensordot(_weights(tuple(value.shape[:axes])), value, dims=axes)
            axes = 1
        else:
            axes += 1
    return value


@cache
def _fit(count: int) -> tuple[Tensor, Tensor]:
    """Return Chebyshev's points, and the matrix from values there to a polynomial's coefficients."""
    nodes = torch.cos(torch.linspace(0, torch.pi, count, dtype=torch.float64))
    return nodes, torch.linalg.inv(torch.vander(nodes, increasing=True))


def _partials(f: Function, known: int, width: float, count: int) -> dict[int, Tensor]:
    """Return the second and third partial derivatives at 0 of the polynomial through a grid of values.

    `f` returns partial derivatives of the order `known`: (OUTPUTS, 2, …).
    """
    nodes, fit = _fit(count)
    values = torch.stack([torch.stack([f(width * torch.stack((a, b))) for b in nodes]) for a in nodes])
    coefficients = torch.einsum("ia,jb,ab...->ij...", fit, fit, values)
    found = {}
    for order in (2, 3):
        partials = torch.empty(OUTPUTS, *(2,) * order, dtype=torch.float64)
        for index in itertools.product((0, 1), repeat=order - known):
            i, j = index.count(0), index.count(1)
            scale = factorial(i) * factorial(j) / width ** (order - known)
            partials[(..., *index)] = scale * coefficients[i, j]
        found[order] = partials
    return found


def _slopes(f: Function, order: int, z: Tensor) -> Tensor:
    """Return the partial derivatives of an order (OUTPUTS, 2, …) by plain autograd.

    The function's value is computed inside a transform that does not concern it, so that our blocks leave kernels
    which have no third derivative.
    """
    with torch.enable_grad():
        z = z.clone().requires_grad_()
        value = vjp(lambda unused: (unused, f(z)), torch.zeros(()), has_aux=True)[2]
        for _ in range(order):
            slopes = [
                torch.autograd.grad(y, z, create_graph=True, materialize_grads=True)[0] for y in value.reshape(-1)
            ]
            value = torch.stack(slopes).reshape(*value.shape, 2)
    return value.detach()


@torch.no_grad()
def reference(f: Function, surrogate: bool = False) -> tuple[dict[int, tuple[Tensor, float]], int]:
    """Return {order: (all partial derivatives at 0, how far those of two grids are apart)}, and how much autograd gave.

    They are from values alone, unless kinks stand so near that those would say nothing: then from first derivatives.
    At a kink, and where a derivative is not that of the values by definition, plain autograd is the reference.
    """
    if not surrogate:
        best = _by_grids(f, f, 0, WIDTHS, 9)
        if all(apart < CERTAIN for _, apart in best.values()):
            return best, 0
        best = _by_grids(f, partial(_slopes, f, 1), 1, NARROW, 5)
        if all(apart < UNKNOWN for _, apart in best.values()):
            return best, 1
    origin = torch.zeros(2, dtype=torch.float64)
    return {order: (_slopes(f, order, origin), 0.0) for order in (2, 3)}, 3


def _by_grids(
    f: Function, partial_derivatives: Function, known: int, widths: tuple[float, ...], count: int
) -> dict[int, tuple[Tensor, float]]:
    size = f(torch.zeros(2, dtype=torch.float64)).abs().max()
    best = {order: (torch.empty(0), float("inf")) for order in (2, 3)}
    wide = _partials(partial_derivatives, known, widths[0], count)
    for width in widths[1:]:
        narrow = _partials(partial_derivatives, known, width, count)
        for order, (_, least) in best.items():
            scale = torch.maximum(narrow[order].abs().max(), 1e-3 * size)
            apart = float((wide[order] - narrow[order]).abs().max() / scale)
            if apart < least:
                best[order] = (narrow[order], apart)
        if best[2][1] < 1e-8 and best[3][1] < 1e-6:
            break
        wide = narrow
    return best


def check(subject: Subject, compositions: tuple[tuple[str, ...], ...] = (*PAIRS, *TRIPLES)) -> Outcome:
    """Return every composition's error of a subject."""
    f = subject.make(OUTPUTS)
    known, autograd = reference(f, bool(subject.surrogate))
    uncertain = {order: value[1] for order, value in known.items()}
    named = subject.name, subject.kernel, subject.surrogate
    outcome = Outcome(*named, {2: 0.0, 3: 0.0}, uncertain, {}, {}, {}, autograd)
    size = float(f(torch.zeros(2, dtype=torch.float64)).abs().max())
    for kinds in compositions:
        partials, uncertainty = known[len(kinds)]
        name = " ".join(kinds)
        try:
            found = derivative(f, kinds)(torch.zeros(2, dtype=torch.float64))
        except PureError as error:
            outcome.typed[name] = type(error).__name__
            continue
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            outcome.untyped[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
            continue
        wanted = expected(partials, kinds)
        largest = max(float(partials.abs().max()), 1e-3 * size)
        error = float((found.detach() - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-3 * largest)
        outcome.worst[len(kinds)] = max(outcome.worst[len(kinds)], error)
        terms = partials.numel() / max(wanted.numel(), 1)  # that a composition adds up, with the reference's errors
        allowed = TOLERANCE * float(wanted.abs().max()) + 10 * uncertainty * terms * largest
        if not float((found.detach() - wanted).abs().max()) <= allowed and uncertainty <= UNKNOWN:
            outcome.wrong[name] = error
    return outcome


def check_named(name: str) -> dict[str, Any]:
    """Return what is found of the subject of this name, as JSON can hold it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        return vars(check(_named()[name]))


@cache
def _named() -> dict[str, Subject]:
    return {subject.name: subject for subject in subjects()}


def main(*arguments: str) -> int:
    """Print the table, or renew docs/DERIVATIVES.md, too; return 1 if something of ours is wrong."""
    parser = argparse.ArgumentParser(prog="python -m parity_tests.derivative_compositions", description=__doc__)
    parser.add_argument("names", nargs="*", default=["*"], help="which subjects, such as 'module nn.*'; all by default")
    parser.add_argument("--write", action="store_true", help="renew docs/DERIVATIVES.md; for all subjects")
    parser.add_argument("--executor", choices=EXECUTORS, default="serial")
    parser.add_argument("--workers", type=int, metavar="N", help="default: as many as there are processors")
    parser.add_argument("--record", type=Path, metavar="FILE.jsonl", help="results so far, to go on from")
    options = parser.parse_args(arguments)
    names = [name for name in _named() if any(fnmatchcase(name, pattern) for pattern in options.names)]
    if options.write and len(names) < len(_named()):
        parser.error("--write is for all subjects")
    swept = sweep(
        check_named,
        names,
        executor=options.executor,
        workers=options.workers,
        record=options.record,
        tick=lambda name, share: print(f"{share:4.0%} {name}", file=sys.stderr, flush=True),
    )
    found = [Outcome.of_json(one.value) for one in swept if not one.error]
    for outcome in found:
        print(outcome.line())
    ended = [f"{one.cell}: {one.error}" for one in swept if one.error]
    print("".join(f"{line}\n" for line in ended), end="")
    failed = sum(not outcome.kernel and not outcome.right for outcome in found) + len(ended)
    total = sum(not outcome.kernel for outcome in found) + len(ended)
    print(f"{total} rows and modules, {failed} wrong or with an error that is not typed")
    if options.write and not ended:
        PAGE.write_text(page(found), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
