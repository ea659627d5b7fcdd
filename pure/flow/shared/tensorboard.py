"""Results of `pure.flow` as scalars and histograms of TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch

from pure.errors import ArgumentError
from pure.flow.shared.result import PlainData

__all__ = ["to_tensorboard"]

FEWEST_IN_HISTOGRAM: Final = 2


def to_tensorboard(writer: Any, result: PlainData, *, step: int = 0, prefix: str = "flow") -> None:
    """Write a result's numbers as scalars and its lists of numbers as histograms.

    Names follow the result's fields and mappings, as "flow/blocks/3/log10_gradient". What is not finite is left out.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`, or anything with its `add_scalar` and `add_histogram`.
        result: any result of `pure.flow`.
        step: number of the training step.
        prefix: in front of every name.

    Raises:
        ArgumentError: a writer without these functions, or something that is no result.

    Example:
        >>> from types import SimpleNamespace
        >>> from pure.flow.watching.watch import Observation
        >>> seen = []
        >>> writer = SimpleNamespace(add_scalar=lambda *given: seen.append(given), add_histogram=None)
        >>> to_tensorboard(writer, Observation(3, {}, {"noise": 2.0}), step=3)
        >>> seen
        [('flow/step', 3.0, 3), ('flow/measures/noise', 2.0, 3)]
    """
    missing = [name for name in ("add_scalar", "add_histogram") if not hasattr(writer, name)]
    if missing:
        raise ArgumentError(
            f"to_tensorboard: writer is {type(writer).__name__} without {', '.join(missing)}, expected a "
            "torch.utils.tensorboard.SummaryWriter"
        )
    if not isinstance(result, PlainData):
        raise ArgumentError(f"to_tensorboard: result is {type(result).__name__}, expected what pure.flow measured")
    for name, value in _numbers(prefix, result.to_dict()):
        if isinstance(value, list):
            known = [entry for entry in value if math.isfinite(entry)]
            if len(known) >= FEWEST_IN_HISTOGRAM:
                writer.add_histogram(name, torch.tensor(known, dtype=torch.float64), step)
        elif math.isfinite(value):
            writer.add_scalar(name, value, step)


def _numbers(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, number) and (name, flat list of numbers)."""
    if isinstance(value, bool | int | float):
        yield name, float(value)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _numbers(f"{name}/{key}", entry)
    elif isinstance(value, list | tuple) and value:
        flat = list(_flat(value))
        if flat and all(isinstance(entry, int | float) for entry in flat):
            yield name, [float(entry) for entry in flat]
        elif not flat or any(isinstance(entry, Mapping) for entry in value):
            for index, entry in enumerate(value):
                yield from _numbers(f"{name}/{index}", entry)


def _flat(value: Any) -> Iterator[Any]:
    for entry in value:
        if isinstance(entry, list | tuple):
            yield from _flat(entry)
        else:
            yield entry
