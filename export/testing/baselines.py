"""Stored numbers of verdicts, by versions: has the file's output moved since they were stored?

A baseline is one JSON file a test, with one entry a call and versions of PyTorch, ONNX Runtime and provider: each row's
ratio and error, and some output elements with the float64 reference and the rounding scales there. A later run under
other versions is held against the last entry: outputs that differ by more than the limit in units of the rounding
scale, or a ratio that grew to more than twice the old one and above 1, are a shift. Both verdicts may pass.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import ArgumentError, WriteError
from export.runtime.environment import version_of
from export.verdict.verdict_result import OutputSample, Verdict
from pure_export_shared import json_ready, replacing

__all__ = ["GROWTH", "Baseline", "current_versions", "path_for", "shifts"]

FORMAT = 1
MAX_ELEMENTS = 1024
"""Output elements that one call stores."""
MIN_ELEMENTS = 8
"""Elements that each leaf of many keeps."""
GROWTH = 2.0
"""How many times the stored ratio a ratio may be, if it is above 1."""

Entry = dict[str, Any]
Numbers = np.ndarray[Any, np.dtype[np.float64]]


def current_versions(device: str) -> str:
    """Return what an entry is stored under: the versions of PyTorch and ONNX Runtime, and the provider."""
    runtime = version_of("onnxruntime") or version_of("onnxruntime-gpu")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device, device)
    return f"torch {version_of('torch')}, onnxruntime {runtime}, {provider}"


def path_for(folder: Path, node: str) -> Path:
    """Return the file of a test, by its node id; node ids that differ have different files.

    >>> path_for(Path("base"), "tests/test_net.py::test_a[1-x/y]").name
    'tests_test_net.py_test_a_1-x_y-b11a2635.json'
    """
    plain = re.sub(r"[^\w.-]+", "_", node).strip("_")[:100]
    return folder / f"{plain}-{hashlib.sha256(node.encode()).hexdigest()[:8]}.json"


@dataclasses.dataclass
class Baseline:
    """A test's stored numbers.

    Attributes:
        path: the file, which need not exist.
        node: the test's node id.
        calls: for each call of the test, in order, entries by versions, the latest stored last.
    """

    path: Path
    node: str
    calls: list[dict[str, Entry]]

    @classmethod
    def read(cls, folder: Path, node: str) -> Baseline:
        """Read a test's baseline; an empty one where none is stored.

        Raises:
            ArgumentError: the file is no baseline, or one of another test or a newer version.
        """
        path = path_for(folder, node)
        if not path.exists():
            return cls(path, node, [])
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            known = found["format"] == FORMAT and found["node"] == node and isinstance(found["calls"], list)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArgumentError(f"{path} is not a stored baseline ({error}): delete it and store it again") from error
        if not known:
            raise ArgumentError(f"{path} is a baseline of another test or format: delete it and store it again")
        return cls(path, node, found["calls"])

    def stored(self, call: int) -> dict[str, Entry]:
        """Return the entries of a call by versions, none if it is new."""
        return self.calls[call] if call < len(self.calls) else {}

    def put(self, call: int, verdict: Verdict) -> None:
        """Store a verdict's numbers under the current versions, as the latest of its call; the rest stays.

        Raises:
            WriteError: the file cannot be written.
        """
        while len(self.calls) <= call:
            self.calls.append({})
        versions = current_versions(verdict.device)
        self.calls[call].pop(versions, None)
        self.calls[call][versions] = _entry(verdict)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "node": self.node, "calls": self.calls}
        with replacing(self.path, WriteError) as file:
            file.write(json.dumps(json_ready(content), indent=1, allow_nan=False).encode() + b"\n")


def shifts(stored: dict[str, Entry], verdict: Verdict, limit: float) -> list[str]:
    """Return what has shifted since a call's latest entry, one line each; nothing if nothing is stored.

    Numbers stored under the current versions take the place of all others.

    Args:
        stored: entries by versions.
        verdict: the verdict of this run.
        limit: the largest difference of an element that is rounding, in rounding scales.

    Raises:
        ArgumentError: a damaged entry.
    """
    if not stored:
        return []
    versions = current_versions(verdict.device)
    versions = versions if versions in stored else list(stored)[-1]
    entry = stored[versions]
    try:
        found = [*_moved_outputs(entry, verdict, limit), *_grown_ratios(entry, verdict)]
    except (KeyError, TypeError, ValueError) as error:
        raise ArgumentError(f"the baseline stored under {versions} is damaged ({error!r}): store it again") from error
    return [f"{line}, since {versions}" for line in found]


def _entry(verdict: Verdict) -> Entry:
    kept = max(MIN_ELEMENTS, MAX_ELEMENTS // max(len(verdict.outputs), 1))
    return {
        "rows": [[row.leaf, row.case, row.ratio, row.error] for row in verdict.rows],
        "outputs": {sample.leaf: _packed(sample, kept) for sample in verdict.outputs},
    }


def _packed(sample: OutputSample, kept: int) -> dict[str, Any]:
    step = _step(len(sample.values), kept)
    columns = {"values": sample.values, "reference": sample.reference, "scales": sample.scales}
    packed = {name: _text(column[::step]) for name, column in columns.items()}
    return {"largest": sample.largest, "step": step, **packed}


def _step(count: int, kept: int) -> int:
    return max(1, math.ceil(count / kept))


def _text(values: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(values, "<f8").tobytes()).decode("ascii")


def _numbers(text: str) -> Numbers:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f8").astype(np.float64)


def _moved_outputs(entry: Entry, verdict: Verdict, limit: float) -> list[str]:
    """Compare the file's outputs with the stored ones, in units of the larger of both rounding scales."""
    lines = []
    for sample in verdict.outputs:
        old = entry["outputs"].get(sample.leaf)
        if old is None:
            lines.append(f"{sample.leaf}: not stored")
            continue
        step = old["step"]
        new_values, new_reference, new_scales = (
            np.asarray(column[::step], np.float64) for column in (sample.values, sample.reference, sample.scales)
        )
        values, reference, scales = (_numbers(old[name]) for name in ("values", "reference", "scales"))
        if values.shape != new_values.shape:
            lines.append(f"{sample.leaf}: of another size than stored")
            continue
        scale = np.maximum(scales, new_scales)
        ratio, at = _largest(new_values, values, scale)
        if ratio > limit:
            moved, _ = _largest(new_reference, reference, scale)
            about = "so has its float64 reference" if moved > 1 else "its float64 reference has not"
            lines.append(
                f"{sample.leaf}: the output has moved by {ratio:.3g} rounding scales ({values[at]:.6g} → "
                f"{new_values[at]:.6g}), {about}"
            )
    gone = sorted(set(entry["outputs"]) - {sample.leaf for sample in verdict.outputs})
    return lines + [f"{leaf}: no longer an output" for leaf in gone]


def _largest(new: Numbers, old: Numbers, scale: Numbers) -> tuple[float, int]:
    """Return the largest difference in units of a scale and where it is; equal NaN and infinities do not differ."""
    if not new.size:
        return 0.0, 0
    with np.errstate(all="ignore"):
        same = (new == old) | (np.isnan(new) & np.isnan(old))
        ratios = np.where(same, 0.0, np.abs(new - old) / scale)
    ratios = np.where(np.isnan(ratios), np.inf, ratios)
    at = int(ratios.argmax())
    return float(ratios[at]), at


def _grown_ratios(entry: Entry, verdict: Verdict) -> list[str]:
    stored = {(leaf, case): ratio for leaf, case, ratio, _ in entry["rows"]}
    lines = []
    for row in verdict.rows:
        old = stored.get((row.leaf, row.case))
        if row.ratio is None or not isinstance(old, float | int):
            continue
        if row.ratio > max(1.0, GROWTH * old):
            lines.append(f"{row.leaf} [{row.case}]: the ratio has grown from {old:.3g} to {row.ratio:.3g}")
    return lines
