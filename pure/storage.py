"""Trees as safetensors files, which are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from pure.errors import SaveError, TreeError
from pure.tree import Tree, flatten, unflatten
from pure.tree.plain import plain_tensor
from pure_export_shared import replacing

__all__ = ["load", "save"]


def save(tree: Tree, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write nested dicts of tensors as one safetensors file, atomically.

    Args:
        tree: nested dicts of tensors; the file holds them under their dotted names, and of a DTensor all of it.
        path: the file to write; an existing one is replaced.
        metadata: text kept in the file's header.

    Raises:
        TreeError: a leaf is not a tensor, or a key cannot be part of a dotted name.
        ArgumentError: a leaf of another tensor class.
        SaveError: the file cannot be written.
    """
    write_tensors(flatten(tree), path, metadata)


def write_tensors(flat: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None) -> None:
    """Write named tensors as one safetensors file, atomically; shared ones each in full."""
    for name, leaf in flat.items():
        if not isinstance(leaf, Tensor):
            raise TreeError(f"save: leaf {name!r} is {type(leaf).__name__}, expected a tensor")
    flat = {name: plain_tensor(leaf, f"save: leaf {name!r}") for name, leaf in flat.items()}
    owned = {name: leaf.detach().clone(memory_format=torch.contiguous_format) for name, leaf in flat.items()}
    write_whole(safetensors_bytes(owned, metadata=dict(metadata) if metadata else None), path)


def write_whole(data: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file in one step: it is whole or it is not there.

    Raises:
        SaveError: the file cannot be written.
    """
    with replacing(path, SaveError) as file:
        file.write(data)


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Tree:
    """Read a safetensors file as nested dicts of tensors; the inverse of `save`.

    On the CPU the file is mapped: a tensor is read from disk when it is used, and the system drops what it needs room
    for. So `flow.audit`, which walks a network block by block, takes networks that are larger than the memory.

    Raises:
        SaveError: the file is not there, is not a safetensors file, or is larger than the address space allowed.
    """
    return unflatten(read_tensors(path, device))


def read_tensors(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return a safetensors file's tensors by name."""
    try:
        with safe_open(os.fspath(path), framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SaveError(f"cannot read {os.fspath(path)!r} as safetensors: {error}") from error
    except RuntimeError as error:  # of PyTorch, which maps the file
        if "mmap" not in str(error):
            raise
        raise SaveError(
            f"cannot map {os.fspath(path)!r} into memory: {error}: a mapped file counts as address space, so lift the "
            "limit of that (ulimit -v, ulimit -d); it takes no memory of its own"
        ) from error
