"""Processes that check one model after another, each with a limit of time; one that is late or has died is replaced."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from parity_tests.zoo import checks
from parity_tests.zoo.checks import Stage
from parity_tests.zoo.making import Entry, entries

__all__ = ["Check", "run_all"]

SECONDS = 600.0
"""What a model may take unless told otherwise, all stages together; what is longer counts as hanging."""
MODELS_OF_A_PROCESS = 40
"""After so many a process is replaced, so that what they leave in memory does not add up."""
MODULES = {
    "torchvision": "torchvision.models",
    "x-transformers": "x_transformers",
    "pytorchcv": "pytorchcv.model_provider",
}
"""What is imported of a library, where it is not the library's name."""

Record = dict[str, Any]


class Worker:
    """A process, and the model that it is at.

    Args:
        libraries: what it imports before the first model.
        chosen: the stages, of `STAGES`.
        verdicts: the stages whose files get a verdict.
        limit: seconds that a model may take, all stages together.
    """

    def __init__(
        self, libraries: Sequence[str], chosen: tuple[str, ...], verdicts: tuple[str, ...], limit: float
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.chosen, self.verdicts, self.limit = chosen, verdicts, limit
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, libraries, chosen, verdicts), daemon=True)
        self.process.start()
        theirs.close()
        self.entry: Entry | None = None
        self.done = 0

    def give(self, entry: Entry) -> None:
        """Have it check a model."""
        self.entry, self.began, self.found = entry, time.monotonic(), list[Record]()
        self.pipe.send(entry)

    def record(self) -> Record | None:
        """Return the model's record if it has come to an end, in one way or another."""
        assert self.entry is not None
        try:
            while self.pipe.poll():
                self.found.append(json.loads(self.pipe.recv_bytes()))
            ended, late = len(self.found) == len(self.chosen), time.monotonic() - self.began > self.limit
        except (EOFError, ConnectionResetError):
            ended, late = True, False
        if not (ended or late):
            return None
        if len(self.found) < len(self.chosen):
            self.stop()
            status = "hanging" if late else "crashed"
            why = f"not done in {self.limit:.0f} s" if late else f"the process ended with {self.process.exitcode}"
            seconds = time.monotonic() - self.began
            self.found.append(asdict(Stage(self.chosen[len(self.found)], status, seconds, 0, why)))
        about = {name: value for name, value in vars(self.entry).items() if name not in ("options", "takes")}
        self.entry, self.done = None, self.done + 1
        return {**about, "verdicts": list(self.verdicts), "stages": {stage.pop("name"): stage for stage in self.found}}

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()

    @property
    def spent(self) -> bool:
        """Whether it has to be replaced before the next model."""
        return not self.process.is_alive() or self.done >= MODELS_OF_A_PROCESS


def run_all(
    entries: Sequence[Entry],
    workers: int,
    chosen: tuple[str, ...],
    verdicts: tuple[str, ...],
    limit: float = SECONDS,
) -> Iterator[Record]:
    """Yield one record a model, as they end.

    Args:
        entries: the models.
        workers: how many are checked at the same time.
        chosen: the stages, of `STAGES`.
        verdicts: the stages whose files get a verdict.
        limit: seconds that a model may take, all stages together.
    """
    libraries = sorted({entry.library for entry in entries})
    left = list(entries)[::-1]
    running = [Worker(libraries, chosen, verdicts, limit) for _ in range(min(workers, len(left)))]
    while left or any(worker.entry for worker in running):
        for place, worker in enumerate(running):
            if worker.entry is None and left:
                if worker.spent:
                    worker.stop()
                    worker = running[place] = Worker(libraries, chosen, verdicts, limit)
                worker.give(left.pop())
        wait([worker.pipe for worker in running if worker.entry], timeout=1.0)
        for worker in running:
            record = worker.record() if worker.entry else None
            if record:
                yield record
    for worker in running:
        worker.stop()


@dataclass(frozen=True)
class Check:
    """The check of a model by its label, as a cell of a sweep: in a process beside this one, with the limit of time.

    Attributes:
        libraries: see `Worker`, as what follows.
        chosen: the stages.
        verdicts: the stages whose files get a verdict.
        limit: seconds that a model may take.
    """

    libraries: tuple[str, ...]
    chosen: tuple[str, ...]
    verdicts: tuple[str, ...]
    limit: float

    def __call__(self, label: str) -> Record:
        """Return the model's record; the process beside this one is kept for the next."""
        if _HELD and _HELD[0].spent:
            _HELD.pop().stop()
        if not _HELD:
            _HELD.append(Worker(self.libraries, self.chosen, self.verdicts, self.limit))
        _HELD[0].give(next(entry for entry in entries() if entry.label == label))
        while (record := _HELD[0].record()) is None:
            wait([_HELD[0].pipe], timeout=1.0)
        return record


_HELD: list[Worker] = []
"""The process beside this one, if there is one."""


def _work(pipe: Connection, libraries: Sequence[str], chosen: tuple[str, ...], verdicts: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    for library in libraries:
        importlib.import_module(MODULES.get(library, library))
    # What only the first export of a process does is not counted to a model, of either exporter.
    small = Entry("torchvision", "squeezenet1_1", "squeezenet", {"num_classes": 2}, {"x": [3, 32, 32]})
    for stage in checks.stages(small, ("forward file", "torch.onnx", "gradient file"), verdicts):
        if stage.status != "right":
            raise RuntimeError(f"the warm-up's {stage.name}: {stage.detail}")
    while True:
        try:
            entry = pipe.recv()
        except EOFError:
            return
        for stage in checks.stages(entry, chosen, verdicts):
            pipe.send_bytes(json.dumps(asdict(stage)).encode())
