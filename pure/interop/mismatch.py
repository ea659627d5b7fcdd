"""Differences between a checkpoint and a network, reported as one error of bounded length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from pure.errors import TreeError, nearest

__all__ = ["CheckpointError", "check_tensors", "misfit", "refusal"]

MAX_SHOWN: Final = 5
"""The most names of each kind that a message shows."""


class CheckpointError(TreeError):
    """A checkpoint that does not fit the network.

    The message shows a few names of each kind and counts the rest.

    Attributes:
        missing: every name that the network needs and the checkpoint lacks.
        unexpected: every name of the checkpoint's that the network does not have.
        misfits: {name: what is wrong with the value under it: its type, shape or dtype}.

    Fails: a ResNet-50's tensors for `nets.resnet18()`. Fix: the network that the checkpoint is of, or `ignore=(…)`.
    """

    def __init__(
        self,
        message: str,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        misfits: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.misfits = dict(misfits or {})


def check_tensors(given: Mapping[Any, Any]) -> None:
    """Raise unless every name is a string and every value a tensor.

    Raises:
        CheckpointError: names that are not strings, values that are not tensors, or a nested checkpoint, named.
    """
    wrong: dict[str, str] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            wrong[str(name)] = f"{name!r} is {type(name).__name__}, expected a string as name"
        elif not isinstance(value, Tensor):
            wrong[name] = f"{name!r} is {type(value).__name__}, expected a tensor"
    if not wrong:
        return
    for name, value in given.items():
        if isinstance(value, Mapping) and any(isinstance(leaf, Tensor) for leaf in value.values()):
            fix = f"its tensors lie deeper, in a mapping under {name!r}: give state_dict[{name!r}]"
            raise CheckpointError(f"checkpoint: {fix}", misfits=wrong)
    lines = _joined(wrong.values(), len(wrong), "such")
    raise CheckpointError(f"checkpoint: {lines}. Convert them, take them out or ignore them", misfits=wrong)


def misfit(name: str, given: Tensor, expected: Tensor) -> str | None:
    """Return what is wrong with a tensor's shape or dtype, or None; floats of any width fit."""
    if given.shape != expected.shape:
        return f"shape of {name!r} is {tuple(given.shape)}, expected {tuple(expected.shape)}"
    if expected.is_floating_point():
        return None if given.is_floating_point() else f"dtype of {name!r} is {given.dtype}, expected floats"
    integral = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    return None if integral else f"dtype of {name!r} is {given.dtype}, expected integers"


def refusal(
    what: str,
    wanted: Sequence[str],
    given: Sequence[str],
    missing: Sequence[str],
    unexpected: Sequence[str],
    misfits: Mapping[str, str],
) -> CheckpointError:
    """Return the error for names with a prefix, for another network, or for single differences.

    Args:
        what: the library and the networks that the names belong to.
        wanted: every name of the network's.
        given: every name of the checkpoint's.
        missing: what the checkpoint lacks.
        unexpected: names that the network does not have.
        misfits: {name: what is wrong with its tensor}.
    """
    prefix = _prefix(wanted, given)
    if prefix:
        strip = f"{{name.removeprefix({prefix!r}): leaf for name, leaf in state_dict.items()}}"
        message = f"the names stand behind {prefix!r}, expected {wanted[0]!r}: take it off, as by {strip}"
    elif not given:
        message = f"it is empty, expected {len(wanted)} tensors, such as {wanted[0]!r}"
    elif wanted and not set(wanted) & set(given):
        heads = list(dict.fromkeys(repr(name.partition(".")[0]) for name in given))
        message = (
            f"it has none of the network's {len(wanted)} tensors, such as {wanted[0]!r}; its own {len(given)} begin "
            f"with {_joined(heads, len(heads), 'such', ', ')}: is it another network's, or another library's?"
        )
    else:
        kept = [name for name in wanted if name in set(given)]
        lines = [
            _joined(
                (f"missing {name!r}{nearest(name, unexpected)}" for name in missing[:MAX_SHOWN]),
                len(missing),
                "missing",
            ),
            _joined(
                (f"unexpected {name!r}{nearest(name, [*missing, *kept])}" for name in unexpected[:MAX_SHOWN]),
                len(unexpected),
                "unexpected",
            ),
            _joined(misfits.values(), len(misfits), "such"),
        ]
        message = f"{'; '.join(filter(None, lines))}. To leave tensors out, name them or their prefix in ignore=(…)"
    return CheckpointError(f"checkpoint with {what}: {message}", missing, unexpected, misfits)


def _joined(lines: Iterable[str], number: int, what: str, between: str = "; ") -> str:
    """Return the first few of `number` lines, and how many more there are.

    >>> _joined(["a", "b", "c", "d", "e"], 7, "missing")
    'a; b; c; d; e; … and 2 more missing'
    """
    more = [f"… and {number - MAX_SHOWN} more {what}"] if number > MAX_SHOWN else []
    return between.join([*list(lines)[:MAX_SHOWN], *more])


def _prefix(wanted: Sequence[str], given: Sequence[str]) -> str:
    """Return the prefix that at least half of the network's names have in `given`, if fewer stand without it.

    >>> _prefix(["fc.weight", "fc.bias"], ["module.fc.weight", "module.fc.bias"])
    'module.'
    """
    names = set(wanted)
    found: Counter[str] = Counter()
    for name in given:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in names:
                found[".".join(parts[:cut]) + "."] += 1
    prefix, number = max(found.items(), key=lambda pair: pair[1], default=("", 0))
    return prefix if number > max(len(names) // 2, len(names & set(given))) else ""
