"""Second and third derivatives of every block by compositions of transforms, beside differences of values.

`python -m parity_tests.derivative_compositions [NAME …]` prints a table: of each catalogue row, in evaluation and in
training, and of modules and functions that PyTorch computes by kernels of their own, the largest relative error of all
25 compositions of two of {grad, jvp, jacrev, jacfwd, vjp}, and of 33 of three, in float64. It ends with status 1 if
one is wrong, or ends in an error that is not typed. Names may hold *; `--write` renews docs/DERIVATIVES.md.

The block is a function of two numbers, along which its parameters and its input move, with three outputs. The
reference is a polynomial through the function's values on a grid, so no derivative of PyTorch enters it. Of grids of
several widths the one counts whose neighbour agrees best, and how well says how much the reference is worth. Between
the kinks of a ReLU network there is too little room for third differences of values: the grid then holds first
derivatives of plain autograd. Where that does not do, and for the methods that train by another gradient than that of
their values (straight-through gates, shaken branches), plain autograd is the reference, which each line says.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from math import factorial
from pathlib import Path

import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp

from parity_tests.derivative_subjects import Subject, subjects
from pure.errors import PureError

__all__ = ["PAIRS", "TRIPLES", "Outcome", "check", "derivative", "expected", "reference"]

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

CERTAIN = 1e-4  # how far the derivatives of two grids of values may be apart
TOLERANCE = 1e-5  # relative to the largest element; 10 times the reference's own uncertainty where that is larger
UNKNOWN = 1e-2  # a reference that is less certain judges nothing
KINKS = "kinks are too near for differences"

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
            return lambda z: grad(lambda z: (inner(z) * _weights(tuple(inner(z).shape))).sum())(z)
        case "vjp":
            return lambda z: _pulled(inner, z)
        case "jacrev":
            return jacrev(inner)
        case _:
            return jacfwd(inner)


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


@dataclass
class Outcome:
    """What was found of one subject.

    Attributes:
        subject: what was differentiated.
        worst: {order: the largest error, relative to the largest derivative}.
        uncertainty: {order: that of the reference}.
        wrong: compositions beyond the tolerance, with their errors.
        typed: {composition: the typed error it ends in}.
        untyped: {composition: any other error}.
        known: the order of derivatives that plain autograd gave the reference.
    """

    subject: Subject
    worst: dict[int, float]
    uncertainty: dict[int, float]
    wrong: dict[str, float]
    typed: dict[str, str]
    untyped: dict[str, str]
    known: int = 0

    @property
    def right(self) -> bool:
        """Whether nothing is wrong and every error is typed."""
        return not self.wrong and not self.untyped

    def line(self) -> str:
        """Return the table's line."""
        cells = [f"{self.worst[order]:8.1e} ±{self.uncertainty[order]:.0e}" for order in (2, 3)]
        return f"{self.subject.name:44} {cells[0]:18} {cells[1]:18} {self.note()}"

    def note(self) -> str:
        """Return what was found in words."""
        notes = ["right"] if self.right and not self.typed else []
        if self.wrong:
            shown = list(self.wrong)[:4]
            notes.append(f"{len(self.wrong)} wrong: {', '.join(shown)}{', …' * (len(self.wrong) > len(shown))}")
        for found, what in ((self.typed, "typed"), (self.untyped, "untyped")):
            if found:
                shown = list(found)[:4]
                names = f"{', '.join(shown)}{', …' * (len(found) > len(shown))}"
                notes.append(f"{len(found)} {what}: {names}: {next(iter(found.values()))}")
        if unknown := [str(order) for order, value in self.uncertainty.items() if value > UNKNOWN]:
            notes.append(f"no reference of order {', '.join(unknown)}")
        elif self.known == 3:
            notes.append(f"beside plain autograd: {self.subject.surrogate or KINKS}")
        return "; ".join(notes)


def check(subject: Subject, compositions: tuple[tuple[str, ...], ...] = (*PAIRS, *TRIPLES)) -> Outcome:
    """Return every composition's error of a subject."""
    f = subject.make(OUTPUTS)
    known, autograd = reference(f, bool(subject.surrogate))
    uncertain = {order: value[1] for order, value in known.items()}
    outcome = Outcome(subject, {2: 0.0, 3: 0.0}, uncertain, {}, {}, {}, autograd)
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


def outcomes(names: tuple[str, ...] = ()) -> Iterator[Outcome]:
    """Yield what is found of each subject of one of these names, which may hold *, or of all."""
    for subject in subjects():
        if not names or any(fnmatchcase(subject.name, name) for name in names):
            yield check(subject)


HEADING = """# Compositions of derivatives

Written by `python -m parity_tests.derivative_compositions --write` with torch {torch}: all 25 compositions of two of
`grad`, `jvp`, `jacrev`, `jacfwd` and `vjp`, and 33 of three, in float64, of every block of the catalogue in evaluation
and in training, of modules through `from_module`, and of PyTorch's own functions. "Error" is the largest of a group,
relative to the largest derivative. The reference is a polynomial through values, which no derivative of PyTorch enters;
near kinks it goes through first derivatives of plain autograd, or is plain autograd.

"""


def page(found: list[Outcome]) -> str:
    """Return the page: counts by group, then each line that says more than "right"."""
    groups: dict[str, list[Outcome]] = {"blocks of the catalogue": [], "modules": [], "PyTorch's own functions": []}
    for outcome in found:
        module = outcome.subject.name.startswith("module ")
        group = 2 if outcome.subject.kernel else int(module)
        list(groups.values())[group].append(outcome)
    lines = [
        "| group | subjects | right | with typed errors | wrong or not typed | error, order 2 | error, order 3 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, own in groups.items():
        judged = {k: [o.worst[k] for o in own if o.right and o.uncertainty[k] <= CERTAIN] for k in (2, 3)}
        counts = (
            len(own),
            sum(o.right and not o.typed for o in own),
            sum(o.right and bool(o.typed) for o in own),
            sum(not o.right for o in own),
        )
        worst = [f"{max(values, default=0.0):.0e}" for values in judged.values()]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {' | '.join(worst)} |")
    lines += ["", "What is wrong in PyTorch's own functions: use the block, or `pure.cdist`, in its place.", ""]
    lines += ["| subject | what was found |", "|---|---|"]
    lines += [f"| {outcome.subject.name} | {note} |" for outcome in found if (note := outcome.note()) != "right"]
    return HEADING.format(torch=torch.__version__.partition("+")[0]) + "\n".join(lines) + "\n"


def main(*names: str) -> int:
    """Print the table, or renew docs/DERIVATIVES.md, too; return 1 if something of ours is wrong."""
    found: list[Outcome] = []
    for outcome in outcomes(tuple(name for name in names if name != "--write")):
        print(outcome.line(), flush=True)
        found.append(outcome)
    failed = sum(not outcome.subject.kernel and not outcome.right for outcome in found)
    total = sum(not outcome.subject.kernel for outcome in found)
    print(f"{total} rows and modules, {failed} wrong or with an error that is not typed")
    if "--write" in names:
        PAGE.write_text(page(found), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
    sys.exit(main(*sys.argv[1:]))
