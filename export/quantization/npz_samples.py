"""Samples from an .npz file as batches of a file's call: arrays named as the inputs, with the samples on axis 0."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import ArgumentError, listed, nearest
from export.files import protobuf_wire
from export.files.call_schema import read_call
from export.files.pytree_structure import rebuild

__all__ = ["read"]

LABELS = "labels"
"""The array of right classes, if there is one."""

Array = np.ndarray[Any, Any]


def read(
    data: str | os.PathLike[str], model: str | os.PathLike[str], batch: int, *, start: int = 0, stop: int | None = None
) -> tuple[list[tuple[Any, ...]], Array | None]:
    """Read batches for a model's call, and labels.

    Args:
        data: the .npz file. Inputs whose first size is dynamic hold the samples; others are the same for each batch.
        model: the .onnx file.
        batch: how many samples a batch has; the last one may have fewer.
        start: the first sample.
        stop: one after the last; None for all.

    Returns:
        The batches, as tuples of arguments, and the labels, None if there are none.

    Raises:
        ArgumentError: if it is no .npz file, an array is missing or unknown, or the numbers of samples differ.
    """
    call = read_call(protobuf_wire.read_header(model), model)
    if call is None:
        raise ArgumentError(f"{model} was not written by to_onnx, so arrays cannot be matched with it")
    arrays = _arrays(Path(data))
    labels = arrays.pop(LABELS, None)
    wanted = [leaf for leaf in call["leaves"] if not leaf["baked"]]
    names = [leaf["name"] for leaf in wanted]
    problems = [f"{name}: missing{nearest(name, arrays)}" for name in names if name not in arrays]
    problems += [f"{name}: not expected{nearest(name, names)}" for name in arrays if name not in names]
    if problems:
        raise ArgumentError(f"the arrays of {data} are not the inputs of {model}:{listed(problems)}")
    moving = [leaf["name"] for leaf in wanted if leaf["shape"] and isinstance(leaf["shape"][0], str)]
    if not moving:
        raise ArgumentError(f"no input of {model} has a dynamic axis 0; export it with dynamic={{0: 'batch'}}")
    counts = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in moving}
    if labels is not None:
        counts[LABELS] = labels.size
    if len(set(counts.values())) > 1:
        raise ArgumentError(f"the arrays of {data} have different numbers of samples: {counts}")
    batches = []
    end = min(counts[moving[0]], counts[moving[0]] if stop is None else stop)
    if start >= end:
        raise ArgumentError(f"{data} has {counts[moving[0]]} samples: none is left from number {start} on")
    for first in range(start, end, batch):
        chosen = slice(first, min(first + batch, end))
        given = {name: value[chosen] if name in moving else value for name, value in arrays.items()}
        leaves = [given.get(leaf["name"]) for leaf in call["leaves"]]
        batches.append(tuple(rebuild(a["structure"], leaves) for a in call["arguments"] if not a["baked"]))
    return batches, None if labels is None else labels[start:end]


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.lib.npyio.NpzFile):
                return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArgumentError(f"{path} cannot be read as an .npz file: {error}") from error
    raise ArgumentError(f"{path} holds a single array; write np.savez({str(path.with_suffix('.npz'))!r}, x=array)")
