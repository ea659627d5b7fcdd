"""Predicted against real placement: files of the catalogue, loaded on the device, and the committed record of them."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import export
from export.runtime import sessions
from export.runtime.placement import assigned
from parity_tests.cuda_placement_cases import OPSETS, Subject, subject
from parity_tests.cuda_placement_table import RECORD

__all__ = ["predicted"]

MAX_SECONDS = 60.0
FEW_FILES = 3
"""Files that are tried where there is no GPU, or a stand-in for one, to keep this check itself from breaking."""


def each_row_first(known: list[tuple[Subject, Any]]) -> list[tuple[Subject, Any]]:
    """Put one file of every row first, then a second one; which column a row begins with differs from row to row."""
    rows: dict[str, list[tuple[Subject, Any]]] = {}
    for one, found in known:
        rows.setdefault(one.row, []).append((one, found))
    turned = [files[i % len(files) :] + files[: i % len(files)] for i, files in enumerate(rows.values())]
    return [one for turn in itertools.zip_longest(*turned) for one in turn if one is not None]


def predicted(device: str, folder: Path) -> dict[str, Any]:
    """At least 99 % of nodes are where the stand-in said; each file that differs is named."""
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    known = [(Subject(row, *key.split(", ")), found) for row, cells in rows.items() for key, found in cells.items()]
    known = each_row_first([(one, found) for one, found in known if isinstance(found, list)])
    if device == "cpu" or "CUDA_STANDIN_DEVICES" in os.environ:
        known = [(one, found) for one, found in known if one.dtype == "float32"][:FEW_FILES]
    nodes = missed = files = 0
    differing: dict[str, Any] = {}
    end = time.monotonic() + MAX_SECONDS
    for one, (on_cuda, sizes, *_) in known:
        if time.monotonic() > end:
            break
        fn, args, dynamic = subject(one)
        path = folder / "file.onnx"
        export.to_onnx(fn, args, path, dynamic=dynamic, opset=OPSETS.get(one.dtype), target="cuda")
        providers = [provider for _, _, provider in assigned(export.load(path, device=device)._session)]
        real = providers.count(sessions.CUDA), providers.count(sessions.CPU)
        files, nodes = files + 1, nodes + len(providers)
        if real != (on_cuda, sizes):
            missed += max(abs(real[0] - on_cuda), abs(real[1] - sizes))
            differing[f"{one.row}, {one.key}"] = {"predicted": [on_cuda, sizes], "real": real}
    assert files
    assert device == "cpu" or missed <= 0.01 * nodes, differing
    return {"files": files, "nodes": nodes, "nodes elsewhere than predicted": missed, "differing": differing}
