"""Checkpoints as safetensors files, whole or sharded; never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pure.errors import SaveError
from pure.storage import read_tensors, write_tensors

__all__ = ["read", "write"]

PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


def read(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of all files that an index lists, by name.

    Args:
        path: `….safetensors`, or `….safetensors.index.json`, whose files are in the same folder.
        device: where the tensors end up.

    Raises:
        SaveError: a file that does not exist, is not a safetensors file, or is a pickle, which could run code.
    """
    source = Path(path)
    if source.suffix in PICKLES:
        raise SaveError(
            f"cannot read {str(source)!r}: a pickle can run code and is never opened here, expected .safetensors: "
            "convert it once, as by pure.interop.write(torch.load(path, weights_only=True), 'model.safetensors')"
        )
    if source.suffix != ".json":
        return read_tensors(source, device)
    try:
        index: dict[str, str] = json.loads(source.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaveError(f"cannot read {str(source)!r} as the index of a sharded checkpoint: {error!r}") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(index.values())):
        if Path(name).name != name:
            raise SaveError(f"index {str(source)!r} points to {name!r}: expected files beside it")
        tensors |= read_tensors(source.with_name(name), device)
    missing = sorted(index.keys() - tensors.keys())
    if missing:
        raise SaveError(f"index {str(source)!r} lists {missing[:5]}, which its files do not hold: fetch them again")
    return tensors


def write(state_dict: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write named tensors as one safetensors file, in one step.

    Tied weights are written under each of their names. The header says `format: pt`, without which transformers
    refuses a file.

    Raises:
        TreeError: a value that is not a tensor.
        SaveError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write({"fc.weight": torch.ones(2, 2)}, Path(folder) / "model.safetensors")
        ...     read(Path(folder) / "model.safetensors")["fc.weight"].shape
        torch.Size([2, 2])
    """
    write_tensors(state_dict, path, {"format": "pt"})
