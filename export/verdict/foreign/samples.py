"""Further inputs for a verdict: from memory, .npz or .safetensors."""

from __future__ import annotations

import inspect
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.errors import ArgumentError, nearest
from export.files.pytree_structure import describe
from export.trace.arguments import Arguments, is_tensor, shifted
from export.trace.signature import function_name
from pure import interop

__all__ = ["as_call", "read_sample", "sample_leaves"]

Sample = Sequence[Any] | Mapping[str, Any]
"""Positional arguments, or tensors by name."""


def read_sample(sample: Sample | str | os.PathLike[str]) -> Sample:
    """Return a sample, read from its file if it is one.

    Raises:
        ArgumentError: if it is neither .npz nor .safetensors, or an .npz file that cannot be read.
        SaveError: for a damaged or missing safetensors file.
    """
    if not isinstance(sample, (str, os.PathLike)):
        return sample
    path = Path(sample)
    if path.suffix == ".safetensors":
        return dict(interop.read(path))
    if path.suffix != ".npz":
        raise ArgumentError(f"{path} is no file of inputs: expected .npz or .safetensors, with arrays by name")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.array(file[name], order="C")) for name in file}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ArgumentError(f"{path} cannot be read as an .npz file of numbers: {error}") from error


def as_call(
    fn: Callable[..., Any], sample: Sample, file_inputs: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional arguments and those by name that a sample alone stands for.

    Args:
        fn: the function or module.
        sample: the sample.
        file_inputs: the names of the file's inputs, in order.

    Raises:
        ArgumentError: if its names are neither the function's parameters nor the file's inputs.
    """
    if not isinstance(sample, Mapping):
        return tuple(sample), {}
    target = fn.forward if isinstance(fn, torch.nn.Module) else fn
    try:
        parameters = set(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        parameters = set()
    tensors = {name: torch.as_tensor(value) for name, value in sample.items()}
    if all(name in parameters for name in tensors):
        return (), tensors
    if sorted(tensors) == sorted(file_inputs):
        return tuple(tensors[name] for name in file_inputs), {}
    raise ArgumentError(
        f"the sample has {', '.join(tensors)}; {function_name(fn)} takes {', '.join(parameters)} and the file "
        f"{', '.join(file_inputs)}"
    )


def sample_leaves(arguments: Arguments, sample: Sample, named: str) -> list[Tensor]:
    """Return the leaves of a sample for a function whose arguments are taken apart.

    Args:
        arguments: the example's arguments.
        sample: all positional arguments; or tensors by their dotted names, where arguments that it leaves out stay as
            in the example.
        named: what the sample is called in messages.

    Raises:
        ArgumentError: if it does not fit.
    """
    if isinstance(sample, Mapping):
        return _by_name(arguments, sample, named)
    if len(sample) != len(arguments.names):
        raise ArgumentError(f"{named} has {len(sample)} arguments, the example {len(arguments.names)}")
    leaves: list[Tensor] = []
    for name, structure, value in zip(arguments.names, arguments.structures, sample, strict=True):
        own, found, _ = describe(value, is_tensor, name)
        if shifted(own, len(leaves)) != structure:
            raise ArgumentError(f"{named}: {name} has another structure than in the example")
        leaves += [leaf.detach() for leaf in found]
    return [
        as_leaf(leaf, example, f"{named}: {name}")
        for leaf, example, name in zip(leaves, arguments.leaves, arguments.leaf_names, strict=True)
    ]


def _by_name(arguments: Arguments, sample: Mapping[str, Any], named: str) -> list[Tensor]:
    unknown = [name for name in sample if name not in arguments.leaf_names]
    if unknown:
        raise ArgumentError(
            f"{named} has {', '.join(unknown)}, which the function does not take"
            f"{nearest(unknown[0], arguments.leaf_names)}"
        )
    owners = dict(zip(arguments.leaf_names, arguments.owner, strict=True))
    touched = {owners[name] for name in sample}
    missing = [name for name, owner in owners.items() if owner in touched and name not in sample]
    if missing or not sample:
        raise ArgumentError(f"{named} lacks {', '.join(missing) or 'any tensor'}")
    return [
        as_leaf(sample[name], example, f"{named}: {name}") if name in sample else example
        for name, example in zip(arguments.leaf_names, arguments.leaves, strict=True)
    ]


def as_leaf(value: Any, example: Tensor, named: str) -> Tensor:
    """Return a value of a sample as a tensor like the example's.

    Raises:
        ArgumentError: for another dtype or number of axes.
    """
    tensor = torch.as_tensor(value, device=example.device)
    if tensor.dtype != example.dtype or tensor.dim() != example.dim():
        raise ArgumentError(
            f"{named} is {tensor.dtype} with {tensor.dim()} axes; the example's is {example.dtype} with {example.dim()}"
        )
    return tensor
