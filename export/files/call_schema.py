"""The call that `to_onnx` wrote into a file's metadata: read, and checked to be one.

A file may come from anywhere and be damaged, so that nothing may rely on metadata that was not looked at here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from export.errors import DamagedFileError, LoadError
from export.files import pytree_structure
from export.files.protobuf_wire import CALL_KEY, Header

__all__ = ["FORMAT", "read_call"]

FORMAT = 1
"""Version of the metadata that files have."""

_FIELDS = {
    "format": int,
    "function": str,
    "arguments": list,
    "leaves": list,
    "out": dict,
    "dynamic": list,
    "versions": dict,
}


class _UnfitError(Exception):
    """The metadata is not a call; the text says where."""


def read_call(header: Header, path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the metadata that `to_onnx` wrote, or None for a file from elsewhere.

    Raises:
        LoadError: if a newer version wrote it.
        DamagedFileError: if it is not what any version wrote.
    """
    text = header.metadata.get(CALL_KEY)
    if text is None:
        return None
    try:
        call = json.loads(text)
        _require(isinstance(call, dict) and type(call.get("format")) is int, "it has no format")
        if call["format"] > FORMAT:
            raise LoadError(
                f"{os.fspath(path)} was written by a newer pure-export (format {call['format']}); "
                "pip install -U pure-export"
            )
        _check(call)
    except (ValueError, RecursionError, _UnfitError) as error:
        reason = error if isinstance(error, _UnfitError) else f"it is not JSON ({type(error).__name__})"
        raise DamagedFileError(
            f"{os.fspath(path)}: the metadata {CALL_KEY}, which says how the function is called, is damaged: {reason}; "
            "copy the file again whole, or export it again",
            damaged=("the metadata",),
        ) from error
    fitting: dict[str, Any] = call
    return fitting


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _UnfitError(otherwise)


def _check(call: dict[str, Any]) -> None:
    for key, kind in _FIELDS.items():
        _require(type(call.get(key)) is kind, f"{key} is missing or no {kind.__name__}")
    _check_leaves(call["leaves"], inputs=True)
    places: list[int] = []
    for argument in call["arguments"]:
        _require(
            isinstance(argument, dict)
            and isinstance(argument.get("name"), str)
            and isinstance(argument.get("baked"), bool),
            "an argument has no name",
        )
        places += _leaf_positions(argument.get("structure"))
    _require(places == list(range(len(call["leaves"]))), "the arguments' tensors are not those listed")
    out = call["out"]
    _check_leaves(out.get("leaves"), inputs=False)
    results = list(_leaf_positions(out.get("structure")))
    _require(results == list(range(len(out["leaves"]))), "the results' tensors are not those listed")
    versions = call["versions"]
    _require(all(isinstance(version, str) for version in versions.values()), "a version is no text")


def _check_leaves(leaves: Any, *, inputs: bool) -> None:
    _require(isinstance(leaves, list), "its tensors are not listed")
    for leaf in leaves:
        fits = isinstance(leaf, dict) and isinstance(leaf.get("name"), str) and isinstance(leaf.get("dtype"), str)
        fits = fits and isinstance(leaf.get("shape"), list)
        _require(fits and all(type(size) in (int, str) for size in leaf["shape"]), "a tensor has no name or shape")
        _require(not inputs or isinstance(leaf.get("baked"), bool), "a tensor is neither inside nor given")
    names = [leaf["name"] for leaf in leaves]
    _require(len(set(names)) == len(names), "two tensors have one name")


def _leaf_positions(structure: Any) -> Iterator[int]:
    """Yield a structure's leaves in tree order, checking it on the way."""
    _require(isinstance(structure, dict) and len(structure) == 1, "a structure is no container and no tensor")
    (kind, content), *_ = structure.items()
    if kind == "leaf":
        _require(type(content) is int, "a tensor has no position")
        yield content
    elif kind == "static":
        _require(isinstance(content, (bool, int, float, str)), "a constant is no number and no text")
    elif kind == "none":
        _require(content is True, "a None is none")
    elif kind == "dict":
        _require(isinstance(content, dict), "a dict has no keys")
        for value in content.values():
            yield from _leaf_positions(value)
    elif kind in ("list", "tuple"):
        _require(isinstance(content, list), f"a {kind} has no items")
        for value in content:
            yield from _leaf_positions(value)
    elif kind in ("namedtuple", "record"):
        yield from _items(content, kind)
    else:
        raise _UnfitError(f"{kind!r} is no kind of container")


def _items(content: Any, kind: str) -> Iterator[int]:
    fits = isinstance(content, dict) and isinstance(content.get("type"), str)
    fits = fits and isinstance(content.get("fields"), list) and isinstance(content.get("items"), list)
    _require(fits and len(content["fields"]) == len(content["items"]), f"a {kind} has no fields")
    _require(all(isinstance(field, str) for field in content["fields"]), f"a {kind}'s field has no name")
    _require(kind == "namedtuple" or isinstance(content.get("context"), str), "a record has no context")
    try:
        if kind == "namedtuple":
            pytree_structure.namedtuple_type(content["type"], content["fields"])
    except ValueError as error:
        raise _UnfitError(f"{content['type']} is no namedtuple ({error})") from error
    for value in content["items"]:
        yield from _leaf_positions(value)
