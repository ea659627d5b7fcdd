"""The way of a model's large tensors into its file, or into the data file beside it, one at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from export.errors import ArgumentError, WriteError
from export.files import protobuf_wire, splicing, stored_tensors
from export.files.data_file import DataFile

__all__ = ["MIN_ASIDE_BYTES", "check_size", "move_out", "set_aside", "threshold", "written"]

MIN_EXTERNAL_BYTES = 1024
"""Bytes from which a tensor goes into the data file, unless another number is asked for."""

MIN_ASIDE_BYTES = 2**16
"""Bytes from which a tensor is kept out of the model while it is built: protobuf would copy it at every step."""

ASIDE = "kept aside"
"""What stands for the place of such a tensor until the model is written."""

RESERVED_BYTES = 2**24
"""Bytes left in a model file for everything that is no tensor."""


def move_out(model: ir.Model, data: DataFile, external: bool | int | None) -> None:
    """Move a model's large tensors into the data file if that is asked for, or needed.

    Args:
        model: the model, whose moved tensors are replaced by their places.
        data: the data file, which stays empty if nothing is moved.
        external: as for `to_onnx`.

    Raises:
        ArgumentError: if `external` is no number of bytes.
    """
    least = threshold(external)
    if least is None or (external is None and total(model) <= protobuf_wire.MAX_FILE_BYTES - RESERVED_BYTES):
        return
    moved = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        own = (value.name or "").startswith(stored_tensors.CONSTANT)  # a small one always stays
        if tensor is None or tensor.nbytes < (max(least, MIN_EXTERNAL_BYTES) if own else least):
            continue
        moved.append((value, tensor, data.put(_chunks(tensor), tensor.nbytes)))
    name = data.finish()
    for value, tensor, (offset, length) in moved:
        value.const_value = ir.ExternalTensor(
            name, offset, length, tensor.dtype, shape=value.shape or ir.Shape([]), name=value.name or ""
        )


def set_aside(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Take the large tensors that go into the model's own file out of it; `written` puts them back."""
    aside = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor) or tensor.nbytes < MIN_ASIDE_BYTES:
            continue
        aside[name] = tensor
        value.const_value = ir.ExternalTensor(
            ASIDE, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    return aside


def written(content: bytes, aside: Mapping[str, ir.TensorProtocol]) -> list[splicing.Piece]:
    """Return a model file in pieces, with the tensors that were set aside in their places."""
    if not aside:
        return [splicing.plain(content)]
    found = stored_tensors.within(content, protobuf_wire.parse_header(content))
    described = {}
    for name, tensor in aside.items():
        piece = splicing.Piece(tensor.nbytes, functools.partial(_chunks, tensor))
        described[name] = splicing.message(content, found[name], splicing.inside(piece))
    return splicing.spliced(content, found, described)


def threshold(external: bool | int | None) -> int | None:
    """Return from how many bytes on tensors go into the data file, None if none may.

    Raises:
        ArgumentError: if `external` is neither a boolean, None nor a number of bytes above 0.
    """
    if external is None or external is True:
        return MIN_EXTERNAL_BYTES
    if external is False:
        return None
    if not isinstance(external, int) or external < 1:
        raise ArgumentError(
            "external must be None (when needed), True, False, or the least number of bytes of a tensor that goes "
            f"into the data file, got {external!r}"
        )
    return external


def total(model: ir.Model) -> int:
    """Return the bytes of the tensors that lie in the model file itself."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(t.nbytes for t in tensors if t is not None and not isinstance(t, ir.ExternalTensor))


def check_size(model: ir.Model) -> None:
    """Check that the model file can be written.

    Raises:
        WriteError: if it would exceed 2 GB.
    """
    if total(model) > protobuf_wire.MAX_FILE_BYTES - RESERVED_BYTES:
        raise WriteError(
            "the tensors inside the file exceed 2 GB, the most that one ONNX file can hold; bake fewer arguments, or "
            "leave out external=False, so that to_onnx puts them into a data file beside it"
        )


def _chunks(tensor: ir.TensorProtocol) -> Iterator[memoryview]:
    yield splicing.memory(tensor.numpy())
