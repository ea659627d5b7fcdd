"""Example inputs: read from files, drawn as a file declares them, and of the size that a network takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from export.errors import ArgumentError, NotAnOnnxFileError
from export.files import protobuf_wire
from export.graph.model_file import read_model
from export.graph.onnx_types import ONNX_TYPES
from export.verdict.foreign.samples import read_sample
from pure import nets
from pure.block import Block
from pure.errors import PureError

__all__ = ["Given", "declared", "network_input", "read"]

BATCH = 2
"""Samples in an example that is drawn here: one would hide a size that is broadcast."""
TOKENS, VOCABULARY = 16, 256
"""Length of a sequence, and the token indices below which every network's vocabulary reaches."""
DYNAMIC_SIDE = 64
"""Height and width of an image whose sides a file leaves open."""
SMALL_IMAGES = ("cifar", "fixup", "tutorial")
"""Files of `pure.nets` whose networks take 32×32 images; so do the DenseNets for CIFAR."""

TORCH_TYPES = {int(kind): dtype for dtype, kind in ONNX_TYPES.items()}


@dataclasses.dataclass(frozen=True)
class Given:
    """Arrays that are given as inputs.

    Attributes:
        arrays: by the names of arguments (`x`, `extras.control`, `input_ids`).
        in_order: whether arrays whose names are no arguments may be taken in the order of the arguments.
        origin: what they are, for messages.
    """

    arrays: Mapping[str, Tensor]
    in_order: bool = False
    origin: str = "arrays given"


def read(path: Path) -> Given:
    """Return the arrays of an .npz file, or the tensors of a .safetensors file.

    Raises:
        ArgumentError: neither kind of file, or a file that cannot be read as one.
        SaveError: a damaged or missing safetensors file.
    """
    found = read_sample(path)
    assert isinstance(found, Mapping)
    kind = "tensors" if path.suffix == ".safetensors" else "arrays"
    return Given(found, origin=f"{kind} of {path}")


def declared(path: Path, seed: int) -> dict[str, Tensor]:
    """Draw an array for every input that an ONNX file declares, in its order.

    Floats are standard normal, booleans either; integers lie below the length of the table that they index, and are 0
    or 1 elsewhere, all 1 but the last of a mask. A size that the file leaves open is 2 on the first axis, and the same
    wherever it has the same name.

    Raises:
        LoadError: there is no such file.
        NotAnOnnxFileError: it is not an ONNX file.
        ArgumentError: an input that is no tensor, or of a dtype that PyTorch lacks.
    """
    protobuf_wire.read_header(path)
    try:
        graph = read_model(path).graph
    except (OSError, ValueError) as error:
        raise NotAnOnnxFileError(f"{path} cannot be read as an ONNX file: {error}") from error
    generator = torch.Generator().manual_seed(seed)
    inside = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    sizes: dict[str, int] = {}
    found: dict[str, Tensor] = {}
    for value in graph.input:
        if value.name in inside:
            continue
        if not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type not in TORCH_TYPES:
            raise ArgumentError(f"input {value.name!r} of {path} is no tensor that PyTorch has: give --inputs")
        dims = value.type.tensor_type.shape.dim
        shape = [_size(dim, axis, len(dims), sizes) for axis, dim in enumerate(dims)]
        dtype = TORCH_TYPES[value.type.tensor_type.elem_type]
        found[value.name] = _drawn(value.name, shape, dtype, _table_length(value.name, graph, inside), generator)
    return found


def _size(dim: Any, axis: int, rank: int, sizes: dict[str, int]) -> int:
    """Return a declared size, or one for a size that the file leaves open."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    open_size = BATCH if axis == 0 else DYNAMIC_SIDE if rank == 4 and axis >= 2 else BATCH + axis
    return sizes.setdefault(dim.dim_param, open_size) if dim.dim_param else open_size


def _table_length(name: str, graph: onnx.GraphProto, inside: dict[str, list[int]]) -> int | None:
    """Return how many entries the tables have that an input indexes; None if it indexes none."""
    alias = {name}
    for node in graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in alias:
            alias.add(node.output[0])
    lengths = []
    for node in graph.node:
        if node.op_type == "Gather" and node.input[1] in alias and inside.get(node.input[0]):
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            lengths.append(inside[node.input[0]][axis])
    return min(lengths, default=None)


def _drawn(name: str, shape: list[int], dtype: torch.dtype, below: int | None, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.complex64 if dtype.is_complex else torch.float32
        return torch.randn(shape, generator=generator, dtype=wide).to(dtype)
    if below is None and "mask" in name.lower():
        mask = torch.ones(shape, dtype=dtype)
        if shape and shape[-1] > 1:
            mask[..., -1] = 0
        return mask
    return torch.randint(2 if below is None else below, shape, generator=generator).to(dtype)


def network_input(name: str, block: Block, seed: int) -> Tensor:
    """Return an input of the size that a network of `pure.nets` was published for.

    Raises:
        ArgumentError: the network takes neither such tokens nor such images.
    """
    generator = torch.Generator().manual_seed(seed)
    home = nets.NETWORKS[name].__module__
    if home.rpartition(".")[2] in ("gpt2", "bert", "llama", "gemma"):
        return torch.randint(VOCABULARY, (BATCH, TOKENS), generator=generator)
    small = home.endswith(SMALL_IMAGES) or name in ("densenet40_12", "densenet_bc100_12")
    for channels in (3, 1):
        shape = (BATCH, channels, *((32, 32) if small else (224, 224)))
        try:
            block.out_shape(shape)
        except PureError:
            continue
        return torch.randn(shape, generator=generator)
    raise ArgumentError(f"the input of network {name!r} is not known here: give --inputs FILE.npz with an array x")
