"""A trained network as an ONNX file: written, run on every held-out digit, and judged."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

import export
import pure
from export.app.report.digits import Digits, Network, accuracy, classifier
from export.app.report.settings import Settings
from export.runtime import sessions
from export.verdict.verdict_result import Verdict

__all__ = ["Judged", "judge", "providers_of", "verdict_dict"]


@dataclasses.dataclass(frozen=True)
class Judged:
    """What became of one network's file.

    Attributes:
        file: name of the ONNX file; the parameters are its inputs and the batch is dynamic.
        params_file: name of the safetensors file with the trained parameters.
        nodes: ONNX nodes.
        bytes: size of the ONNX file.
        ran_on: "cpu" or "cuda".
        ran_because: why there.
        providers: {execution provider: nodes it runs}.
        eager_accuracy: part of the held-out digits that the eager function reads rightly.
        onnx_accuracy: the same of the file.
        differing_answers: held-out digits that the two read differently.
        verdict: the judgement, on all held-out digits and at other batch sizes.
        seconds: {"export", "run", "verdict"}.
    """

    file: str
    params_file: str
    nodes: int
    bytes: int
    ran_on: str
    ran_because: str
    providers: dict[str, int]
    eager_accuracy: float
    onnx_accuracy: float
    differing_answers: int
    verdict: Verdict
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**vars(self), "verdict": verdict_dict(self.verdict)}


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain data, with the file's name in place of the folder it was built in."""
    return {**verdict.to_dict(), "path": Path(verdict.path).name}


def providers_of(loaded: Any) -> dict[str, int]:
    """Count the nodes that each execution provider runs."""
    placed = list(loaded.placement.values())
    return {provider: placed.count(provider) for provider in sorted(set(placed))}


def judge(network: Network, params: dict[str, Any], digits: Digits, settings: Settings, folder: Path) -> Judged:
    """Export with the parameters as inputs, run in ONNX Runtime on all held-out digits, and judge."""
    logits = classifier(network.block)
    path, params_path = folder / f"{network.name}.onnx", folder / f"{network.name}.safetensors"
    dynamic = (None, {0: "batch"})
    began = time.perf_counter()
    exported = export.to_onnx(logits, (params, digits.test_x), path, dynamic=dynamic)
    pure.save(params, params_path)
    written = time.perf_counter()
    loaded = export.load(path, device=settings.device)
    found = loaded(params, digits.test_x)
    ran = time.perf_counter()
    with torch.no_grad():
        expected = logits(params, digits.test_x)
    verdict = export.verify(logits, (params, digits.test_x), path, dynamic=dynamic, device=settings.device)
    return Judged(
        file=path.name,
        params_file=params_path.name,
        nodes=exported.nodes,
        bytes=exported.size,
        ran_on=loaded.device,
        ran_because=sessions.choose(settings.device).why,
        providers=providers_of(loaded),
        eager_accuracy=accuracy(expected, digits.test_y),
        onnx_accuracy=accuracy(found, digits.test_y),
        differing_answers=int((found.argmax(1) != expected.argmax(1)).sum()),
        verdict=verdict,
        seconds={"export": written - began, "run": ran - written, "verdict": verdict.seconds},
    )
