"""``pure-export report``: from blocks to judged ONNX files on real digits and photographs, as one page."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from export import sessions
from export.demo import digits as digit_data
from export.demo import judging, measuring, page, photographs, training
from export.demo.folder import DATA, replacing_folder
from export.demo.results import NetworkResult, Results
from export.demo.settings import Settings
from export.environment import environment

Tick = Callable[[str, float], None]
"""Called with what is being done and how much of the whole, 0…1, is done."""


def write(
    out: str | os.PathLike[str] = "report", settings: Settings | None = None, *, tick: Tick | None = None
) -> Results:
    """Compute everything and write ``index.html``, ``report.json``, the ``.onnx`` files and their parameters.

    The folder appears whole or not at all. An earlier report in it is replaced, anything else is left alone.

    Args:
        out: The folder.
        settings: What to compute.
        tick: Told about the progress.

    Returns:
        The results; ``results.passed`` says whether every verdict passed.

    Raises:
        WriteError: If the folder cannot be written or holds something else.
        ArgumentError: If scikit-learn or Pillow is missing.
        ProviderError: If the device asked for cannot be had.
        ExportError: If an export or a load fails.
    """
    settings = settings or Settings()
    sessions.choose(settings.device)  # refuse a device that cannot be had before any work
    with replacing_folder(out) as folder:
        results = compute(settings, folder, tick or (lambda stage, done: None))
        html = page.render(results).replace(str(folder), str(Path(out).absolute()))
        (folder / "index.html").write_text(html, encoding="utf-8")
        written = sorted(entry.name for entry in folder.iterdir())
        data = plain({**results.to_dict(), "files": [*written, DATA]})
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
        text = text.replace(str(folder), str(Path(out).absolute()))
        (folder / DATA).write_text(text + "\n", encoding="utf-8")
    return results


def compute(settings: Settings, folder: Path, tick: Tick) -> Results:
    """Compute everything, writing the ONNX files and parameters into a folder."""
    began = time.perf_counter()
    data = digit_data.load(settings)
    with _one_thread():
        found, spent = _networks(settings, data, folder, tick)
    tick("photographs", 0.8)
    enhanced, spent["photographs"] = _timed(photographs.run, settings, folder)
    spent["total"] = time.perf_counter() - began
    tick("done", 1.0)
    return Results(settings, data, tuple(found), enhanced, environment(), spent)


def _networks(
    settings: Settings, data: digit_data.Digits, folder: Path, tick: Tick
) -> tuple[list[NetworkResult], dict[str, float]]:
    """Take every network down the whole road; return what was found and how long each stage took."""
    nets = digit_data.networks(settings)
    spent = {"gradient flow": 0.0, "training": 0.0, "export and verdicts": 0.0, "photographs": 0.0, "total": 0.0}
    share = 0.8 / len(nets)  # of the bar, a network's; the photographs have the rest
    found = []
    for i, network in enumerate(nets):
        start = i * share

        def done(part: float, what: str, start: float = start, title: str = network.title) -> None:
            tick(f"{title}: {what}", start + part * share)

        done(0.0, "gradient flow")
        params = training.initial(network, settings)
        before, seconds = _timed(measuring.measure, network, params, data, settings)
        spent["gradient flow"] += seconds
        epochs = 0

        def epoch(report: Callable[[float, str], None] = done) -> None:
            nonlocal epochs
            epochs += 1
            report(0.1 + 0.6 * epochs / settings.epochs, f"epoch {epochs} of {settings.epochs}")

        trained, seconds = _timed(training.train, network, params, data, settings, epoch)
        spent["training"] += seconds
        after, seconds = _timed(measuring.measure, network, trained.params, data, settings)
        spent["gradient flow"] += seconds
        done(0.75, "export and verdict")
        judged, seconds = _timed(judging.judge, network, trained.params, data, settings, folder)
        spent["export and verdicts"] += seconds
        found.append(NetworkResult(network, before, trained, after, judged))
    return found, spent


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run PyTorch in one thread: layers this narrow gain nothing from more, and more wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _timed(fn: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    return fn(*args), time.perf_counter() - began


def plain(value: Any) -> Any:
    """Return the value with numbers that JSON lacks (NaN, infinities) as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
