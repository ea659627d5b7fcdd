"""Pytree structure as JSON: the file alone rebuilds the call.

A structure is a nested JSON value. Containers are `{"dict": {key: structure}}`, `{"list": [...]}`,
`{"tuple": [...]}`, `{"namedtuple": {"type": "module:Name", "fields": [...], "items": [...]}}`, `{"none": true}`;
`{"record": {"type": ..., "context": ..., "fields": [...], "items": [...]}}` is a dataclass, or another class that is
registered as a pytree of PyTorch's, such as a key-value cache of transformers;
a tensor is `{"leaf": i}` with i its position in tree order; a static number or string is `{"static": value}`.
Needs neither torch nor numpy, because a file is loaded where neither has to be there.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from export.errors import ArgumentError, nearest

__all__ = ["Structure", "describe", "leaf_names", "match", "rebuild", "walk"]

Structure = dict[str, Any]


def describe(tree: object, is_leaf: Callable[[object], bool], root: str) -> tuple[Structure, list[Any], list[str]]:
    """Split a pytree into structure, leaves and dotted names.

    Args:
        tree: nested dict, list, tuple, namedtuple or None, with tensors or static Python values at the ends.
        is_leaf: tells a tensor leaf from everything else.
        root: the name in front, for example `params`.

    Returns:
        The JSON structure, the tensor leaves in tree order and their names, such as `params.fc1.weight`.

    Raises:
        ArgumentError: for a value that is neither a container, a tensor nor a static value, with its path.
    """
    leaves: list[Any] = []
    names: list[str] = []

    def visit(node: object, path: str) -> Structure:
        if is_leaf(node):
            leaves.append(node)
            names.append(path)
            return {"leaf": len(leaves) - 1}
        if node is None:
            return {"none": True}
        if isinstance(node, (bool, int, float, str)):
            return {"static": node}
        if isinstance(node, Mapping):
            bad = [key for key in node if not isinstance(key, str)]
            if bad:
                raise ArgumentError(f"{path}: a dict's keys must be strings, got {bad[0]!r}; rename the key")
            return {"dict": {key: visit(value, f"{path}.{key}") for key, value in node.items()}}
        if isinstance(node, tuple):
            fields = getattr(node, "_fields", None)
            if fields is not None:
                kind = type(node)
                items = [visit(value, f"{path}.{field}") for field, value in zip(fields, node, strict=True)]
                name = f"{kind.__module__}:{kind.__qualname__}"
                return {"namedtuple": {"type": name, "fields": list(fields), "items": items}}
            return {"tuple": [visit(value, f"{path}.{i}") for i, value in enumerate(node)]}
        if isinstance(node, list):
            return {"list": [visit(value, f"{path}.{i}") for i, value in enumerate(node)]}
        record = opened(node)
        if record is not None:
            name, context, fields, held = record
            items = [visit(value, f"{path}.{field}") for field, value in zip(fields, held, strict=True)]
            return {"record": {"type": name, "context": context, "fields": list(fields), "items": items}}
        raise ArgumentError(
            f"{path}: a {type(node).__name__} is neither a tensor, a container (dict, list, tuple, namedtuple, "
            "dataclass, None) nor a static number or string; pass it in by closure (functools.partial), turn it into a "
            "dict, or register its class by torch.utils._pytree.register_pytree_node"
        )

    return visit(tree, root), leaves, names


def rebuild(structure: Structure, leaves: Sequence[Any]) -> Any:
    """Put leaves back into the containers that `describe` saw."""
    (kind, content), *_ = structure.items()
    if kind == "leaf":
        return leaves[content]
    if kind == "none":
        return None
    if kind == "static":
        return content
    if kind == "dict":
        return {key: rebuild(value, leaves) for key, value in content.items()}
    if kind == "list":
        return [rebuild(value, leaves) for value in content]
    if kind == "tuple":
        return tuple(rebuild(value, leaves) for value in content)
    items = [rebuild(value, leaves) for value in content["items"]]
    if kind == "record":
        return closed(content["type"], content["context"], content["fields"], items)
    return namedtuple_type(content["type"], content["fields"])(*items)


_closers: dict[tuple[str, str], Callable[[list[Any]], Any]] = {}
"""{(class, context): how this process puts a record together}."""


def opened(node: object) -> tuple[str, str, list[str], list[Any]] | None:
    """Return the class, context, field names and fields of a dataclass or registered class; None for others."""
    kind = type(node)
    name = f"{kind.__module__}:{kind.__qualname__}"
    registered = getattr(sys.modules.get("torch.utils._pytree"), "SUPPORTED_NODES", {}).get(kind)
    if registered is not None:
        items, context = registered.flatten_fn(node)
        named = registered.flatten_with_keys_fn
        keys = [key for key, _ in named(node)[0]] if named is not None else range(len(items))
        fields = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys]
        _closers[name, repr(context)] = lambda held: registered.unflatten_fn(held, context)
        return name, repr(context), fields, list(items)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return None
    fields = [field.name for field in dataclasses.fields(node)]
    return name, "", fields, [getattr(node, field) for field in fields]


def closed(name: str, context: str, fields: Sequence[str], items: list[Any]) -> Any:
    """Put a record together; where its class is not known to this process, as a namedtuple of the same fields."""
    closer = _closers.get((name, context))
    if closer is not None:
        return closer(items)
    found = _imported(name)
    given = dict(zip(fields, items, strict=True))
    known = isinstance(found, type) and dataclasses.is_dataclass(found)
    if known and [field.name for field in dataclasses.fields(found)] == list(fields):
        result = object.__new__(found)  # as copy.copy does: __init__ may not take all fields
        for key, value in given.items():
            object.__setattr__(result, key, value)
        return result
    return namedtuple_type(name, [f if f.isidentifier() else f"field_{f}" for f in fields])(*items)


def _imported(name: str) -> Any:
    """Return what "module:Name" names, if that module is imported already."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


_made: dict[tuple[str, tuple[str, ...]], type] = {}


def namedtuple_type(name: str, fields: Sequence[str]) -> type:
    """Return the namedtuple class if its module is already imported, otherwise one made of the same fields.

    A file never causes an import: it may come from anywhere.
    """
    found = _imported(name)
    if isinstance(found, type) and issubclass(found, tuple) and list(getattr(found, "_fields", ())) == list(fields):
        return found
    key = (name, tuple(fields))
    if key not in _made:
        _made[key] = collections.namedtuple(name.rpartition(":")[2].rpartition(".")[2], fields)
    return _made[key]


def leaf_names(structure: Structure, root: str) -> Iterator[tuple[int, str]]:
    """Yield (leaf position, dotted name) in tree order."""
    for path, node in walk(structure, root):
        if "leaf" in node:
            yield node["leaf"], path


def walk(structure: Structure, root: str) -> Iterator[tuple[str, Structure]]:
    """Yield (dotted path, structure) of the root and of everything below it, in tree order."""
    yield root, structure
    (kind, content), *_ = structure.items()
    if kind == "dict":
        for key, value in content.items():
            yield from walk(value, f"{root}.{key}")
    elif kind in ("list", "tuple"):
        for position, value in enumerate(content):
            yield from walk(value, f"{root}.{position}")
    elif kind in ("namedtuple", "record"):
        for field, value in zip(content["fields"], content["items"], strict=True):
            yield from walk(value, f"{root}.{field}")


def match(structure: Structure, tree: object, path: str, found: dict[int, Any], problems: list[str]) -> None:
    """Collect a tree's leaves by position, and every way in which it differs from the structure.

    Args:
        structure: what is expected.
        tree: what was given.
        path: the dotted name of this place.
        found: filled with {leaf position: value}.
        problems: filled with one line a problem.
    """
    (kind, content), *_ = structure.items()
    if kind == "leaf":
        if tree is None or isinstance(tree, (Mapping, list, tuple, str)):
            problems.append(f"{path}: expected a tensor, got {_kind(tree)}")
        else:
            found[content] = tree
    elif kind == "none":
        if tree is not None:
            problems.append(f"{path}: expected None, as at the export, got {_kind(tree)}")
    elif kind == "static":
        if tree != content or isinstance(tree, bool) != isinstance(content, bool):
            problems.append(
                f"{path}: was exported with the constant {content!r}, got {tree!r}; export again to change it"
            )
    elif kind == "dict":
        if not isinstance(tree, Mapping):
            problems.append(f"{path}: expected a dict with keys {list(content)}, got {_kind(tree)}")
            return
        extra = [key for key in tree if key not in content]
        for key, value in content.items():
            if key in tree:
                match(value, tree[key], f"{path}.{key}", found, problems)
            else:
                problems.append(f"{path}.{key}: missing{nearest(key, extra)}")
        problems.extend(f"{path}.{key}: not expected{nearest(str(key), content)}" for key in extra)
    elif kind == "record" and not isinstance(tree, tuple):
        given = tree if isinstance(tree, Mapping) else _fields_of(tree)
        if given is None:
            problems.append(f"{path}: expected a {content['type'].rpartition(':')[2]}, got {_kind(tree)}")
            return
        match({"dict": dict(zip(content["fields"], content["items"], strict=True))}, given, path, found, problems)
    else:
        items = content["items"] if kind in ("namedtuple", "record") else content
        names = content["fields"] if kind in ("namedtuple", "record") else range(len(items))
        wanted: type = list if kind == "list" else tuple
        if not isinstance(tree, (list, tuple)) or not isinstance(tree, wanted) or len(tree) != len(items):
            problems.append(f"{path}: expected a {kind} of {len(items)}, got {_kind(tree)}")
        else:
            for name, value, given in zip(names, items, tree, strict=True):
                match(value, given, f"{path}.{name}", found, problems)


def _fields_of(node: object) -> dict[str, Any] | None:
    record = opened(node)
    return None if record is None else dict(zip(record[2], record[3], strict=True))


def _kind(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return f"a dict with keys {list(value)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
