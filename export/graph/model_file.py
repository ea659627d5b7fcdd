"""A model file read with the onnx package, which may come from anywhere: whatever is wrong with it is a typed error."""

from __future__ import annotations

import os

import onnx
from google.protobuf.message import DecodeError, Message

from export.errors import NotAnOnnxFileError
from export.files import protobuf_wire

__all__ = ["read_model"]


def read_model(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read a model, without what lies in a data file beside it.

    Raises:
        LoadError: if there is no such file.
        NotAnOnnxFileError: if it is not an ONNX model, or a name in it is no text.
    """
    protobuf_wire.raise_unless_file(path)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise _refused(path, str(error)) from error
    if not _is_text(model):
        raise _refused(path, "a name in it is not in UTF-8")
    return model


def _refused(path: str | os.PathLike[str], reason: str) -> NotAnOnnxFileError:
    return NotAnOnnxFileError(
        f"{os.fspath(path)} is not an ONNX model, or not a whole one: {reason}; give a file that export.to_onnx or "
        "another exporter wrote"
    )


def _is_text(message: Message) -> bool:
    """Tell whether all names and other text can be decoded; protobuf gives bytes for what cannot."""
    if isinstance(message, onnx.TensorProto):
        return isinstance(message.name, str)  # its values, which reading would copy, are no text
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        parts = [value] if isinstance(value, (str, bytes, Message)) else value
        if not all(isinstance(part, str) or (isinstance(part, Message) and _is_text(part)) for part in parts):
            return False
    return True
