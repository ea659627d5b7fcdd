"""The graph that a session runs, ONNX Runtime's after its own rewrites, which it only writes to a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime

__all__ = ["MAX_STORED_BYTES", "save_to", "saved_graph"]

MAX_STORED_BYTES = 512 * 2**20
"""Weights inside a model up to which its graph, for which ONNX Runtime writes them out as well, is worth having."""

_MIN_WEIGHT_BYTES = 1024
"""Bytes from which a tensor is no list of sizes."""


@contextmanager
def saved_graph() -> Iterator[Path]:
    """Give the file that a session may write its graph to; it and the data file beside it are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pure-export-", ignore_cleanup_errors=True) as folder:
        yield Path(folder, "optimised.onnx")


def save_to(options: onnxruntime.SessionOptions, path: Path) -> None:
    """Have the session that is made with these options write its graph to a file, weights to one beside it."""
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(_MIN_WEIGHT_BYTES)
    )
