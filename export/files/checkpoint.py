"""A file as a checkpoint: the tensors inside it read back, and replaced without a new export.

Neither torch nor onnx is needed, and nothing but the tensors changes: the graph, the names, the metadata and the
tensors that are not given stay byte for byte.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from export.errors import ArgumentError, LoadError, WriteError, listed, nearest
from export.files import data_file, digest, protobuf_wire, pytree_structure, splicing, stored_tensors
from export.files.call_schema import read_call
from export.files.opening import open_model
from export.files.signature_leaves import Leaf, check_leaves
from export.files.stored_tensors import Stored
from export.files.tensor_values import Kind, from_memory, is_torch
from pure_export_shared import replacing

__all__ = ["complete", "matched", "replace_weights", "weights"]

Inside = dict[str, Any]
"""{argument: tree} for baked arguments, and {"closure": {name: tensor}} for what the function captured."""


def weights(path: str | os.PathLike[str], kind: Literal["numpy", "torch"] = "numpy", *, check: bool = True) -> Inside:
    """Read the tensors inside a file back, bit for bit.

    Args:
        path: a file that `to_onnx` wrote, or any other ONNX file.
        kind: "numpy" or "torch". bfloat16 in numpy is ml_dtypes', or its 16 bits as uint16 where that is missing.
        check: whether the file is compared with the digest inside, as for `load`.

    Returns:
        {argument: tree} for each baked argument, as it was given, and under "closure" {name: tensor} for tensors that
        the function captured; {name: tensor} for a file from elsewhere.

    Raises:
        LoadError: if there is no such file, or a tensor is stored in a way that cannot be read.
        DataFileError: if the file that holds the large tensors is missing or cut short.
        DamagedFileError: if the file is not as it was written; the message names what differs.

    Example:
        >>> import tempfile, torch, export
        >>> def f(params, x):
        ...     return params["scale"] * x
        >>> x = torch.ones(2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export.to_onnx(f, ({"scale": x + x.cumsum(0)}, x), folder + "/f.onnx", bake=(0,))
        ...     weights(exported.path, "torch")
        {'params': {'scale': tensor([2., 3.])}}
    """
    if kind not in ("numpy", "torch"):
        raise ArgumentError(f"kind must be 'numpy' or 'torch', got {kind!r}")
    if kind == "torch":
        importlib.import_module("torch")
    opened = open_model(path, check=check)
    call, tensors = opened.call, opened.tensors

    def read(name: str) -> Any:
        return from_memory(stored_tensors.read(path, tensors[name]), Kind(kind == "torch", "cpu"), tensors[name].dtype)

    if call is None:
        return {name: read(name) for name in tensors}
    quantised = protobuf_wire.QUANTIZED_KEY in opened.header.metadata
    leaves = [read(leaf["name"]) if _there(leaf, tensors, path, quantised) else None for leaf in call["leaves"]]
    inside = {
        argument["name"]: pytree_structure.rebuild(argument["structure"], leaves)
        for argument in call["arguments"]
        if argument["baked"]
    }
    captured = {name.removeprefix("closure."): read(name) for name in _captured(call, tensors)}
    return {**inside, **({"closure": captured} if captured else {})}


def _there(
    leaf: Mapping[str, Any], tensors: Mapping[str, Stored], path: str | os.PathLike[str], quantised: bool
) -> bool:
    if leaf["baked"] and leaf["name"] not in tensors and quantised:
        raise LoadError(
            f"{os.fspath(path)} is quantised, so that {leaf['name']} lies in it in 8 bits under other names; "
            "read the float file that it was made from"
        )
    if leaf["baked"] and leaf["name"] not in tensors:
        raise LoadError(
            f"{os.fspath(path)} does not hold {leaf['name']}, which nothing in it reads: it was written by a version "
            "that left such tensors out; export it again"
        )
    return bool(leaf["baked"])


def _captured(call: Mapping[str, Any], tensors: Mapping[str, Stored]) -> list[str]:
    baked = {leaf["name"] for leaf in call["leaves"] if leaf["baked"]}
    return [name for name in tensors if name not in baked and not name.startswith(stored_tensors.CONSTANT)]


def replace_weights(
    path: str | os.PathLike[str],
    weights: Mapping[str, Any],
    out: str | os.PathLike[str] | None = None,
    *,
    check: bool = True,
) -> Path:
    """Write a file again with other tensors inside; nothing is traced, and nothing else changes.

    Args:
        path: a file that `to_onnx` wrote with `bake`, or any other ONNX file.
        weights: {argument: tree} for some or all baked arguments, numpy or torch, with the names, shapes and dtypes
            of the export; or single tensors by their dotted name, `params.fc1.weight`. For a file from elsewhere
            {tensor name: tensor}. What is left out stays.
        out: the file to write, `path` itself by default. It appears whole or not at all, and so does the data file
            beside it, which it has if `path` has one.
        check: whether the file is compared with the digest inside first, as for `load`; the new file has its own.

    Returns:
        The file that was written.

    Raises:
        ArgumentError: if anything does not fit; the message lists everything that does not.
        LoadError: if there is no such file.
        DamagedFileError: if the file is not as it was written; the message names what differs.
        WriteError: if `out` cannot be written.

    Example:
        >>> import tempfile, torch, export
        >>> def f(params, x):
        ...     return params["scale"] * x
        >>> x = torch.ones(2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = folder + "/f.onnx"
        ...     exported = export.to_onnx(f, ({"scale": x}, x), path, bake=(0,))
        ...     other = replace_weights(path, {"params": {"scale": 3 * x}}, folder + "/g.onnx")
        ...     export.load(other)(x)
        tensor([3., 3.])
    """
    opened = open_model(path, check=check)
    tensors = opened.tensors
    new = matched(path, opened.call, tensors, weights)
    target = Path(path if out is None else out)
    with data_file.beside(target) as data, replacing(target, WriteError) as file, protobuf_wire.mapped(path) as model:
        replaced = {}
        for tensor in tensors.values():
            if tensor.location:
                content = _content(path, tensor, new)
                replaced[tensor.name] = tensor, data.put(content.chunks(), content.size)
        location = data.finish()
        described = {
            name: splicing.message(model, tensor, splicing.outside(location, *place))
            for name, (tensor, place) in replaced.items()
        }
        for name in new:
            if name not in described:
                held = splicing.inside(_content(path, tensors[name], new))
                described[name] = splicing.message(model, tensors[name], held)
        renewed = protobuf_wire.DIGEST_KEY in opened.header.metadata
        if renewed:
            file.writelines(digest.blank(len(tensors), 1 if location else 0).chunks())
        for piece in splicing.spliced(model, tensors, described):
            file.writelines(piece.chunks())
        if renewed:
            digest.stamp(file)
    return target


def complete(path: str | os.PathLike[str], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's tensors under the names that they have in a file, all of which must be there.

    Args:
        path: the file.
        found: {dotted name: tensor}; the argument's name in front may be missing where one argument is inside.

    Raises:
        ArgumentError: if names are missing, or not in the file.
    """
    header = protobuf_wire.read_header(path)
    call = read_call(header, path)
    if call is None:
        wanted, roots = [*stored_tensors.find(path, header)], []
    else:
        wanted = [leaf["name"] for leaf in call["leaves"] if leaf["baked"]]
        roots = [argument["name"] for argument in call["arguments"] if argument["baked"]]
    if len(roots) == 1 and not any(name in wanted for name in found):
        found = {f"{roots[0]}.{name}": value for name, value in found.items()}
    extra = [name for name in found if name not in wanted]
    problems = [f"{name}: missing{nearest(name, extra)}" for name in wanted if name not in found]
    problems += [f"{name}: not in the file{nearest(name, wanted)}" for name in extra]
    if problems:
        raise ArgumentError(f"the checkpoint does not fit {Path(path).name}:" + listed(problems))
    return dict(found)


def _content(path: str | os.PathLike[str], tensor: Stored, new: Mapping[str, Any]) -> splicing.Piece:
    """Return a tensor's new values, or those it has."""
    if tensor.name in new:
        return splicing.values(new[tensor.name], tensor.dtype, tensor.nbytes)
    return splicing.Piece(tensor.nbytes, lambda: iter((splicing.memory(stored_tensors.read(path, tensor)),)))


def matched(
    path: str | os.PathLike[str],
    call: Mapping[str, Any] | None,
    tensors: Mapping[str, Stored],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Return {name in the file: tensor} for given weights.

    Raises:
        ArgumentError: if anything does not fit; the message lists everything that does not.
    """
    if not isinstance(given, Mapping) or not given:
        raise ArgumentError(
            "weights must be a dict of what is inside the file, such as {'params': tree}, got "
            + ("an empty one" if isinstance(given, Mapping) else f"a {type(given).__name__}")
        )
    problems: list[str] = []
    found = _named(tensors, given, problems) if call is None else _in_trees(call, tensors, given, problems)
    plain = {name: value.detach() if is_torch(value) else value for name, value in found.items()}
    order = [name for name in tensors if name in plain]
    leaves = [Leaf(name, tensors[name].dtype, tensors[name].shape) for name in order]
    check_leaves(leaves, {i: plain[name] for i, name in enumerate(order)}, {}, Kind(), problems, strict=True)
    for name in order:
        if isinstance(plain[name], (bool, int, float)) and not isinstance(plain[name], np.generic):
            problems.append(f"{name}: expected a tensor, got the number {plain[name]!r}, which has no dtype")
    if problems:
        raise ArgumentError(f"the weights do not fit {Path(path).name}:" + listed(problems))
    return plain


def _named(tensors: Mapping[str, Stored], given: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    problems += [f"{name}: not in the file{nearest(name, tensors)}" for name in given if name not in tensors]
    return {name: value for name, value in given.items() if name in tensors}


def _in_trees(
    call: Mapping[str, Any], tensors: Mapping[str, Stored], given: Mapping[str, Any], problems: list[str]
) -> dict[str, Any]:
    arguments = {argument["name"]: argument for argument in call["arguments"]}
    baked = [name for name, argument in arguments.items() if argument["baked"]]
    positions = {leaf["name"]: i for i, leaf in enumerate(call["leaves"]) if leaf["baked"]}
    found: dict[int, Any] = {}
    for name, tree in given.items():
        if name in positions:
            pytree_structure.match({"leaf": positions[name]}, tree, name, found, problems)
        elif name in baked:
            pytree_structure.match(arguments[name]["structure"], tree, name, found, problems)
        elif name in arguments:
            problems.append(f"{name}: not inside the file but an argument of the call; give it there, or bind it")
        elif name == "closure" and _captured(call, tensors):
            problems.append(
                "closure: tensors that the function captured stay, because their values may have decided what was "
                "recorded; make them an argument and bake that"
            )
        else:
            there = (
                f"; inside it is {', '.join(baked)}" if baked else "; export it with bake=(0,) to have weights inside"
            )
            problems.append(f"{name}: not in the file{nearest(name, [*baked, *positions])}{there}")
    names = {i: call["leaves"][i]["name"] for i in found}
    problems += [
        f"{name}: not in the file, because nothing in it reads it" for name in names.values() if name not in tensors
    ]
    return {names[i]: value for i, value in found.items() if names[i] in tensors}
