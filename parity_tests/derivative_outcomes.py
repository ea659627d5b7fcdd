"""What was found of one function's compositions of derivatives, and the page of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["CERTAIN", "UNKNOWN", "Outcome", "page"]

CERTAIN = 1e-4  # how far the derivatives of two grids of values may be apart
UNKNOWN = 1e-2  # a reference that is less certain judges nothing
KINKS = "kinks are too near for differences"
_BY_ORDER = ("worst", "uncertainty")


@dataclass
class Outcome:
    """What was found of one subject.

    Attributes:
        name: what was differentiated, and in which mode.
        kernel: whether it is PyTorch's own function.
        surrogate: why its derivative is not that of its values, by the method's own definition.
        worst: {order: the largest error, relative to the largest derivative}.
        uncertainty: {order: that of the reference}.
        wrong: compositions beyond the tolerance, with their errors.
        typed: {composition: the typed error it ends in}.
        untyped: {composition: any other error}.
        known: the order of derivatives that plain autograd gave the reference.
    """

    name: str
    kernel: bool
    surrogate: str
    worst: dict[int, float]
    uncertainty: dict[int, float]
    wrong: dict[str, float]
    typed: dict[str, str]
    untyped: dict[str, str]
    known: int = 0

    @classmethod
    def of_json(cls, recorded: dict[str, Any]) -> Outcome:
        """Return what `vars` gave, read from JSON, whose keys are text."""
        orders = {name: {int(order): value for order, value in recorded[name].items()} for name in _BY_ORDER}
        return cls(**{**recorded, **orders})

    @property
    def right(self) -> bool:
        """Whether nothing is wrong and every error is typed."""
        return not self.wrong and not self.untyped

    def line(self) -> str:
        """Return the table's line."""
        cells = [f"{self.worst[order]:8.1e} ±{self.uncertainty[order]:.0e}" for order in (2, 3)]
        return f"{self.name:44} {cells[0]:18} {cells[1]:18} {self.note()}"

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
            notes.append(f"beside plain autograd: {self.surrogate or KINKS}")
        return "; ".join(notes)


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
        module = outcome.name.startswith("module ")
        group = 2 if outcome.kernel else int(module)
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
    lines += [f"| {outcome.name} | {note} |" for outcome in found if (note := outcome.note()) != "right"]
    return HEADING.format(torch=torch.__version__.partition("+")[0]) + "\n".join(lines) + "\n"
