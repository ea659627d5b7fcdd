"""Strong and weak scaling over processes: an audit with its depth split, and a Hessian product with its samples split.

Each number of processes is started once by torchrun over gloo, with one thread a process, and takes all four tasks in
turn. What is measured stands beside what the counts of messages and of block runs predict. On a machine with fewer
processors than processes the seconds say little; the processor seconds of a rank, memory and bytes still do.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import pure
from benchmarks.harness import Measurement
from benchmarks.memory import MIB, status
from pure import flow, spmd
from pure.block import Block
from pure.flow.auditing.audit_summary import evenly_spaced
from pure.flow.auditing.depth_split import stretches

NAME = "spmd"
COUNTS = (1, 2, 4)
ROUNDS = 3
WIDTH, BATCH, DEPTH = 256, 32, 48
"""Of the audited network: strong scaling has this depth, weak scaling half of it a process."""
ORDERS, DELETIONS, STATIONS = 3, 8, 4
LAYERS, FEATURES, SAMPLES = 4, 512, 512
"""Of the network whose Hessian is taken: strong scaling has these samples, weak scaling half of them a process."""


def network(depth: int) -> Block:
    """Residual blocks of two linear maps, with no parameters but their weights."""
    layer = pure.Sequential(
        pure.Linear(WIDTH, WIDTH, bias=False), pure.Activation("tanh"), pure.Linear(WIDTH, WIDTH, bias=False)
    )
    return pure.Sequential(*[pure.Residual(layer, scale=depth**-0.5) for _ in range(depth)])


def loopback() -> int:
    """Bytes that went over the loopback interface, of all processes of this machine."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[9])


def audit_counts(depth: int, ranks: int) -> dict[str, float]:
    """What an audit's plan says: bytes between ranks, and the share of the rank with most of the block runs.

    A boundary is passed by the stream and by one stream for each deletion below it; back by the cotangent, its parts by
    path length, the probes of the stations above it and the generator's state. A block runs once in the forward, once
    for each deletion below it and once more in the backward; there each thing that is pulled back counts as a run, and
    the gradient of the parameters as one more.
    """
    deleted, stations = evenly_spaced(depth, DELETIONS), evenly_spaced(depth + 1, STATIONS + 1)
    stream, state = BATCH * WIDTH * 4, torch.Generator().get_state().numel()
    sent, runs = 0.0, []
    for start, stop in stretches(depth, ranks):
        if start:
            up = 1 + sum(at < start for at in deleted)
            down = 1 + ORDERS + 1 + sum(at > start for at in stations)
            sent += (up + down) * stream + state
        own = sum(1 + sum(at <= block for at in deleted) for block in range(start, stop))
        back = sum(3 + ORDERS + 1 + sum(at > block for at in stations) for block in range(start, stop))
        runs.append(own + back)
    return {"sent": sent / ranks, "share": max(runs) / sum(runs), "parameters": 8 * WIDTH**2 * depth / ranks}


def audit_task(depth: int, folder: Path) -> tuple[Callable[[], Any], dict[str, float]]:
    """The audit of a network on disk, and its counts."""
    block, path = network(depth), folder / f"{depth}.safetensors"
    if spmd.rank() == 0:
        pure.save(block.init(torch.Generator().manual_seed(0))[0], path)
    dist.barrier()
    params = pure.load(path)
    x = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    options = {"orders": ORDERS, "deletions": DELETIONS, "stations": STATIONS}
    return lambda: flow.audit(block, params, x, group="world", **options), audit_counts(depth, spmd.size())


def hessian_task(samples: int) -> tuple[Callable[[], Any], dict[str, float]]:
    """A product with the Hessian of the mean loss of a batch, and its counts."""
    block = pure.Sequential(*[pure.Linear(FEATURES, FEATURES, bias=False), pure.Activation("tanh")] * LAYERS)
    generator = torch.Generator().manual_seed(0)
    params, _ = block.init(generator)
    x = spmd.shard(torch.randn(samples, FEATURES, generator=generator))

    def loss(params: Any, x: Tensor) -> Tensor:
        return block(params, x).square().mean()

    product = flow.hvp(loss, params, x, group="world")
    size, ranks = pure.count(params) * 4, spmd.size()
    counts = {"sent": 2 * (ranks - 1) / ranks * size, "share": 1 / ranks, "parameters": float(size)}
    return lambda: product(params), counts


def measured(run: Callable[[], Any], counts: dict[str, float]) -> dict[str, Any]:
    """Run a task a few times on all ranks together; return this rank's numbers."""
    run()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    dist.barrier()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    wall, used, sent = [], [], []
    for _ in range(ROUNDS):
        dist.barrier()
        start, spent, moved = time.perf_counter(), time.process_time(), loopback()
        run()
        used.append(time.process_time() - spent)
        dist.barrier()
        wall.append(time.perf_counter() - start)
        sent.append(loopback() - moved)
    peak = status("VmHWM") - before
    return {"seconds": wall, "processor": used, "peak": peak, "sent": min(sent), "counts": counts}


def rank_main(folder: Path) -> None:
    """Take all tasks with the other ranks; rank 0 writes what all found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = spmd.size()
    tasks: dict[str, Callable[[], tuple[Callable[[], Any], dict[str, float]]]] = {
        "audit, strong": lambda: audit_task(DEPTH, folder),
        "audit, weak": lambda: audit_task(DEPTH // 2 * ranks, folder),
        "Hessian product, strong": lambda: hessian_task(SAMPLES),
        "Hessian product, weak": lambda: hessian_task(SAMPLES // 2 * ranks),
    }
    found = {}
    for name, make in tasks.items():
        each: list[Any] = [None] * ranks
        dist.all_gather_object(each, measured(*make()))
        found[name] = each
    if spmd.rank() == 0:
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def measurements(quick: bool = False) -> Iterator[Measurement]:
    """Each task on 1, 2 and 4 processes."""
    runs: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for count in COUNTS[:2] if quick else COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            command += ["-m", "benchmarks.spmd", folder]
            subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
            runs[count] = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
    load = os.getloadavg()[0]
    for name in runs[1]:
        notes: dict[str, Any] = {"processors": os.cpu_count(), "load": load}
        for count, found in runs.items():
            ranks, counts = found[name], found[name][0]["counts"]
            used = [median(rank["processor"]) for rank in ranks]
            notes[f"{count}: seconds"] = median(ranks[0]["seconds"])
            notes[f"{count}: processor seconds, all ranks"] = sum(used)
            notes[f"{count}: share of the busiest rank"] = max(used) / sum(used)
            notes[f"{count}: share, predicted"] = counts["share"]
            notes[f"{count}: peak MiB a rank"] = max(rank["peak"] for rank in ranks) / MIB
            notes[f"{count}: parameters MiB a rank"] = counts["parameters"] / MIB
            notes[f"{count}: sent MiB a rank"] = ranks[0]["sent"] / count / MIB
            notes[f"{count}: sent, predicted"] = counts["sent"] / MIB
        yield Measurement(name, notes, ())


def main() -> None:
    """Be one rank."""
    parser = ArgumentParser(prog="python -m benchmarks.spmd", description="One rank, started by torchrun.")
    parser.add_argument("folder", type=Path)
    rank_main(parser.parse_args().folder)


if __name__ == "__main__":
    main()
