"""A model file opened: what it says of itself and its tensors, checked against the digest that it holds."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from export.files import call_schema, digest, protobuf_wire, stored_tensors
from export.files.protobuf_wire import Header
from export.files.stored_tensors import Stored

__all__ = ["ModelFile", "open_model"]


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A model file that was opened.

    Attributes:
        header: its producer and metadata.
        call: the call that `to_onnx` wrote into it, None for a file from elsewhere.
        tensors: the tensors stored with it, by name.
    """

    header: Header
    call: dict[str, Any] | None
    tensors: dict[str, Stored]


def open_model(path: str | os.PathLike[str], *, check: bool = True) -> ModelFile:
    """Read what a model file says of itself and where its tensors lie.

    Args:
        path: the file.
        check: whether the file and its data file are compared with the digest inside, where there is one.

    Raises:
        LoadError: if there is no such file, or a newer version wrote it.
        NotAnOnnxFileError: if it is not an ONNX model.
        DataFileError: if the file that holds its large tensors is missing or cut short.
        DamagedFileError: if it is not as it was written; the message names what differs.
    """
    protobuf_wire.raise_unless_file(path)
    with protobuf_wire.mapped(path) as data:
        try:
            header = protobuf_wire.parse_header(data)
            tensors = list(stored_tensors.each(data, header))
        except protobuf_wire.BrokenError:
            error = digest.broken(path, data)
            if error is None:
                raise
            raise error from None
        if check:
            digest.check(path, data, header, tensors)
    call = call_schema.read_call(header, path)
    if check and call is not None and call.get("digest") and protobuf_wire.DIGEST_KEY not in header.metadata:
        raise digest.damaged(path, ["its digest, which is missing"])
    found = {tensor.name: tensor for tensor in tensors}
    if not check or protobuf_wire.DIGEST_KEY not in header.metadata:
        stored_tensors.check(path, found.values())
    return ModelFile(header, call, found)
