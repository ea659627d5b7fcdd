"""What all results share: they read as mappings, and go to disk as JSON in one step."""

from __future__ import annotations

import json
import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

from pure.errors import ArgumentError
from pure.storage import write_whole

__all__ = ["Readings", "Result", "save_json"]

V = TypeVar("V")


class Readings(Mapping[str, V]):
    """A result that reads as a mapping from names to what was measured there."""

    @property
    @abstractmethod
    def _readings(self) -> Mapping[str, V]: ...

    def __getitem__(self, name: str) -> V:
        return self._readings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readings)

    def __len__(self) -> int:
        return len(self._readings)


class Result(Protocol):
    """Anything that gives its numbers as plain data, as every result of `pure.flow` does."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""


def save_json(result: Result, path: str | os.PathLike[str]) -> None:
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
    text = json.dumps(_plain(result.to_dict()), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    write_whole(text.encode(), path)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
