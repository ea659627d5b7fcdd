"""How the children of a block hang together, read off one run: which of them feed which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pure import tree
from pure.catalogue import Case
from pure.tags import current_path, tracing

__all__ = ["Flow", "flow_of"]

Path = tuple[str, ...]


@dataclass(eq=False)
class Step:
    """One operation of a run, or one of its inputs or outputs.

    Attributes:
        path: the path of the block that ran it.
        kind: "input", "leaf" (of parameters, state or extras), "call" or "output".
        sources: what it reads.
        users: what reads it.
    """

    path: Path
    kind: str = "call"
    sources: tuple[Step, ...] = ()
    users: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        for source in self.sources:
            source.users.append(self)


@dataclass(frozen=True)
class Flow:
    """The operations of a run, in order."""

    steps: tuple[Step, ...]

    def rows(self, path: Path, names: Sequence[str]) -> list[list[str]]:
        """Return children in rows: each comes behind those whose output it reads; those that left no trace, first."""
        depths: dict[str, int] = {}
        for name, before in self._feeds(path, names).items():
            depths[name] = 1 + max((depths[other] for other in before), default=-1)
        rows: list[list[str]] = [[] for _ in range(max(depths.values(), default=0) + 1)]
        for name in names:
            rows[depths.get(name, 0)].append(name)
        return [row for row in rows if row]

    def bypassed(self, path: Path) -> bool:
        """Return whether the block's own arithmetic, behind its children, reads the block's input again."""
        calls = [step for step in self.steps if step.kind == "call" and step.path[: len(path)] == path]
        inside, own = set(calls), {step for step in calls if step.path == path}
        last = [step for step in own if any(user not in inside for user in step.users)]
        return any(step not in inside and step.kind != "leaf" for step in _behind(last, own))

    def ends_in(self, path: Path, name: str) -> bool:
        """Return whether all that leaves the block is what one of its children made."""
        calls = [step for step in self.steps if step.kind == "call" and step.path[: len(path)] == path]
        inside = set(calls)
        last = [step for step in calls if any(user not in inside for user in step.users)]
        return bool(last) and all(step.path[len(path) : len(path) + 1] == (name,) for step in last)

    def _feeds(self, path: Path, names: Sequence[str]) -> dict[str, set[str]]:
        """Return which earlier children each child reads, through the block's own arithmetic; in the order they run."""
        owned: dict[str, set[Step]] = {}
        own: set[Step] = set()
        for step in self.steps:
            if step.path == path:
                own.add(step)
            elif step.path[: len(path)] == path and step.path[len(path)] in names:
                owned.setdefault(step.path[len(path)], set()).add(step)
        earlier: dict[Step, str] = {}
        feeds: dict[str, set[str]] = {}
        for name, steps in owned.items():
            feeds[name] = {earlier[reached] for reached in _behind(steps, own) if reached in earlier}
            earlier.update(dict.fromkeys(steps, name))
        return feeds


def _behind(steps: Iterable[Step], through: set[Step]) -> Iterator[Step]:
    """Give everything that leads to one of these, looking further back through the steps of `through` alone."""
    waiting = list(steps)
    seen = set(waiting)
    while waiting:
        for source in waiting.pop().sources:
            if source not in seen:
                seen.add(source)
                yield source
                if source in through:
                    waiting.append(source)


class _Follow(TorchDispatchMode):
    """Notes every operation, what it reads, and the path of the block that runs it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.made: dict[int, Step] = {}
        self.alive: list[Tensor] = []  # so that no identity is used twice

    def note(self, step: Step, values: Any) -> None:
        """Note that a step made these tensors."""
        self.steps.append(step)
        for leaf in tree.leaves(values):
            if isinstance(leaf, Tensor):
                self.made[id(leaf)] = step
                self.alive.append(leaf)

    def read(self, values: Any) -> tuple[Step, ...]:
        """Return the steps that made these tensors."""
        return tuple(self.made[id(leaf)] for leaf in tree.leaves(values) if id(leaf) in self.made)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note it."""
        out = func(*args, **(kwargs or {}))
        path = tuple(filter(None, current_path().split(".")))
        self.note(Step(path, sources=self.read((args, kwargs))), out)
        return out


def flow_of(case: Case) -> Flow | None:
    """Run the row's block on its example, in training if it draws noise; None where operations cannot be followed."""
    block, params, state, x, extras = case.example()
    training = block.stochastic
    noise = block.noise(case.x_shape, torch.Generator().manual_seed(1)) if training else None
    follow = _Follow()
    for leaf in tree.leaves((params, state, extras, noise)):
        follow.note(Step((), "leaf"), leaf)
    for leaf in tree.leaves(x):
        follow.note(Step((), "input"), leaf)
    try:
        with torch.no_grad(), tracing(), follow:
            y, _ = block.apply(params, x, state, extras, training, noise)
    except (RuntimeError, NotImplementedError):
        return None
    follow.steps.append(Step((), "output", follow.read(y)))
    return Flow(tuple(follow.steps))
