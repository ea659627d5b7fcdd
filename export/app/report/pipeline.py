"""`pure-export report`: from blocks to judged ONNX files on real digits and photographs, as one page."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from export.app.report import digits, judging, measuring, photographs, training
from export.app.report.folder import DATA, replacing_folder
from export.app.report.page import report_page
from export.app.report.results import NetworkResult, Results
from export.app.report.settings import Settings
from export.runtime import sessions
from export.runtime.environment import environment
from pure_export_shared import json_ready

__all__ = ["compute", "write"]

Tick = Callable[[str, float], None]
"""Called with what is being done and how much of the whole, 0…1, is done."""


def write(
    out: str | os.PathLike[str] = "report", settings: Settings | None = None, *, tick: Tick | None = None
) -> Results:
    """Compute everything and write `index.html`, `report.json`, the `.onnx` files and their parameters.

    The folder appears whole or not at all. An earlier report in it is replaced, anything else is left alone.

    Args:
        out: the folder.
        settings: what to compute.
        tick: told about the progress.

    Returns:
        The results; `results.passed` says whether every verdict passed.

    Raises:
        WriteError: if the folder cannot be written or holds something else.
        ArgumentError: if scikit-learn or Pillow is missing.
        ProviderError: if the device asked for cannot be had.
        ExportError: if an export or a load fails.
    """
    settings = settings or Settings()
    sessions.choose(settings.device)  # refuse a device that cannot be had before any work
    with replacing_folder(out) as folder:
        results = compute(settings, folder, tick or (lambda stage, done: None))
        html = report_page.render(results).replace(str(folder), str(Path(out).absolute()))
        (folder / "index.html").write_text(html, encoding="utf-8")
        written = sorted(entry.name for entry in folder.iterdir())
        data = json_ready({**results.to_dict(), "files": [*written, DATA]})
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
        text = text.replace(str(folder), str(Path(out).absolute()))
        (folder / DATA).write_text(text + "\n", encoding="utf-8")
    return results


def compute(settings: Settings, folder: Path, tick: Tick) -> Results:
    """Compute everything, writing the ONNX files and parameters into a folder."""
    began = time.perf_counter()
    data = digits.load(settings)
    with _one_thread():
        found, spent = _networks(settings, data, folder, tick)
        tick("photographs", 0.8)
        enhanced, spent["photographs"] = _timed(photographs.run, settings, folder)
        where = environment()
    spent["total"] = time.perf_counter() - began
    tick("done", 1.0)
    return Results(settings, data, tuple(found), enhanced, where, spent)


def _networks(
    settings: Settings, data: digits.Digits, folder: Path, tick: Tick
) -> tuple[list[NetworkResult], dict[str, float]]:
    """Put every network through all stages; return what was found and how long each stage took."""
    nets = digits.networks(settings)
    spent = {"gradient flow": 0.0, "training": 0.0, "export and verdicts": 0.0, "photographs": 0.0, "total": 0.0}
    share = 0.8 / len(nets)  # of the bar, a network's; the photographs have the rest
    found = []
    for i, network in enumerate(nets):
        done = functools.partial(_part, tick, network.title, i * share, share)
        found.append(_network(network, settings, data, folder, done, spent))
    return found, spent


def _part(tick: Tick, title: str, start: float, share: float, what: str, part: float) -> None:
    tick(f"{title}: {what}", start + part * share)


def _network(
    network: digits.Network,
    settings: Settings,
    data: digits.Digits,
    folder: Path,
    done: Tick,
    spent: dict[str, float],
) -> NetworkResult:
    """Measure, train, measure again, export and judge one network; the durations are added to `spent`."""
    done("gradient flow", 0.0)
    params = training.initial(network, settings.seed)
    before, seconds = _timed(measuring.measure, network, params, data, settings)
    spent["gradient flow"] += seconds
    rounds = []
    for i in range(settings.repeats):
        done(f"training {i + 1} of {settings.repeats}", 0.1 + 0.7 * i / settings.repeats)
        trained, seconds = _timed(training.train, network, settings.seed + i, data, settings)
        spent["training"] += seconds
        rounds.append(trained)
    after, seconds = _timed(measuring.measure, network, rounds[0].params, data, settings)
    spent["gradient flow"] += seconds
    done("export and verdict", 0.85)
    judged, seconds = _timed(judging.judge, network, rounds[0].params, data, settings, folder)
    spent["export and verdicts"] += seconds
    return NetworkResult(network, before, rounds[0], tuple(rounds[1:]), after, judged)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run PyTorch in one thread: sums, and so results, then do not depend on how many cores there are.

    Layers this narrow gain nothing from more threads, and on a busy machine those wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _timed(fn: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    return fn(*args), time.perf_counter() - began
