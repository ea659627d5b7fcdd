"""What a node's metadata says of its origin: the block, the source line and the dtype, for errors and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from export.errors import UnsupportedOpError

if TYPE_CHECKING:  # sessions are opened without the onnx package
    import onnx

__all__ = ["CAST_HINT", "read_notes", "unsupported"]

CAST_HINT = "cast the arguments, pure.cast(tree, torch.float32): float32 has every operator"
"""What to do where an operator lacks a dtype."""


def read_notes(node: onnx.NodeProto) -> dict[str, str]:
    """Return a node's metadata as a dictionary."""
    return {entry.key: entry.value for entry in node.metadata_props}


def unsupported(message: str, op: str, notes: Mapping[str, str], dtype: str | None = None) -> UnsupportedOpError:
    """Return the error for an operator that is missing, with what a node's metadata says of its origin.

    Args:
        message: what is missing and what to do.
        op: the ONNX operator.
        notes: the node's metadata.
        dtype: the dtype that the operator lacks; None for the one in the metadata.
    """
    dtype = notes.get("dtype", "") if dtype is None else dtype
    return UnsupportedOpError(message, op=op, dtype=dtype, source=notes.get("source", ""), path=notes.get("path", ""))
