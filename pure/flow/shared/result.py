"""Base classes of all results: plain data, mapping protocol, pictures, and JSON written in one step."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from torch import Tensor

from pure.errors import ArgumentError
from pure.storage import write_whole
from pure_export_shared import html_text, json_ready

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DRAWINGS", "PlainData", "Readings", "Result", "finite_or_none", "plain_data", "save_json"]

K = TypeVar("K")
V = TypeVar("V")


class PlainData:
    """A dataclass whose fields go to JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, fit for JSON: tensors as nested lists, parts as dictionaries."""
        return {entry.name: plain_data(getattr(self, entry.name)) for entry in fields(cast(Any, self))}


class Result(PlainData, ABC):
    """What a measurement returns: a dataclass of numbers, with a table, a picture and plain data."""

    @abstractmethod
    def table(self) -> str:
        """Return a plain text table."""

    def _repr_html_(self) -> str:
        return html_text(self.table())

    def plot(self, **options: Any) -> Figure:
        """Draw the result.

        Args:
            options: keyword arguments of the function that `pure.flow.plot.DRAWINGS` lists for this type, such as
                `title`.

        Raises:
            ArgumentError: there is nothing to draw.
            PlotError: matplotlib is not installed.
        """
        return next(DRAWINGS[base] for base in type(self).__mro__ if base in DRAWINGS)(self, **options)


DRAWINGS: dict[type, Callable[..., Figure]] = {}
"""{type of result: the function that draws it}; `pure.flow.plot` fills it, so that no result imports a drawing."""


class Readings(Result, Mapping[K, V]):
    """A result that reads as a mapping from names, or from depths, to what was measured there."""

    @property
    @abstractmethod
    def _readings(self) -> Mapping[K, V]: ...

    def __getitem__(self, name: K) -> V:
        return self._readings[name]

    def __iter__(self) -> Iterator[K]:
        return iter(self._readings)

    def __len__(self) -> int:
        return len(self._readings)


class _Dumpable(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def plain_data(value: Any) -> Any:
    """Return a value with tensors as nested lists, and dataclasses as dictionaries.

    >>> from torch import ones
    >>> plain_data({"norms": (ones(2), None)})
    {'norms': [[1.0, 1.0], None]}
    """
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, PlainData):
        return value.to_dict()
    if is_dataclass(value):
        return {entry.name: plain_data(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    return value


def finite_or_none(value: Any) -> Any:
    """Return plain data with None for every number that is NaN or infinite.

    >>> finite_or_none({"ratio": float("nan"), "norms": [1.0, float("inf")]})
    {'ratio': None, 'norms': [1.0, None]}
    """
    return json_ready(value, lambda _: None)


def save_json(result: _Dumpable, path: str | os.PathLike[str]) -> None:
    """Write a result as JSON, in one step: the file is whole or it is not there.

    Numbers that JSON lacks stand as text: "nan", "inf", "-inf"; `float` reads them.

    Args:
        result: anything with `to_dict()`.
        path: the file to write; an existing one is replaced.

    Raises:
        ArgumentError: `result` has no `to_dict`.
        SaveError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> class Found:
        ...     def to_dict(self):
        ...         return {"log10_gradient": [-3000.0, float("-inf")]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_json(Found(), Path(folder) / "found.json")
        ...     print((Path(folder) / "found.json").read_text().split())
        ['{', '"log10_gradient":', '[', '-3000.0,', '"-inf"', ']', '}']
    """
    if not callable(getattr(result, "to_dict", None)):
        raise ArgumentError(f"save_json of {type(result).__name__}: expected a result, which has to_dict()")
    text = json.dumps(json_ready(result.to_dict()), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    write_whole(text.encode(), path)
