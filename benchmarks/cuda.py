"""`export.jit` on a GPU against eager, the nn.Module and `torch.compile`: forward, gradient, per-sample gradients.

A call is timed until its results are there. Every contender computes with TF32 or none does. One cell runs in a
process of its own, which writes what it has after each compiler, so that a slow one loses only itself. The floor beside
each is what the device's peaks allow for the operations and bytes counted (`benchmarks.floor`).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call, grad, vmap

import export
from benchmarks.compilers import comparable, error, forward, from_dict, gradient, per_sample_gradient
from benchmarks.cuda_networks import NETWORKS, both
from benchmarks.floor import floor, operations, traffic
from benchmarks.harness import QUICK, Budget, Comparison, Contender, Measurement, measure
from export.errors import ExportError
from export.verdict.reference_runs import float32_products
from pure import tree

NAME = "cuda"
Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]
LIMIT = 60.0
"""Seconds after which the process of a cell is stopped; a quick one is there to end, on a machine however busy."""

AUTOTUNE_LIMIT = 150.0
"""The same where torch.compile tries every kernel."""

MINUTES = 12.0
"""What all cells together may take; the rest is left out and named."""

TRANSFORMS = {"forward": forward, "gradient": gradient, "per-sample gradient": per_sample_gradient}
MEASURED = ("resnet50", "transformer", "mlp", "densenet121")


@dataclass(frozen=True)
class Cell:
    """One thing to measure: a transform of a network, with or without TF32; `autotune` for the slowest compiler."""

    network: str
    transform: str
    tf32: bool = False
    autotune: bool = False

    @property
    def name(self) -> str:
        rounding = "TF32" if self.tf32 else "float32"
        return f"{self.transform}: {NETWORKS[self.network].name}, {rounding}" + ", max-autotune" * self.autotune

    @property
    def limit(self) -> float:
        """Seconds that it may take."""
        return AUTOTUNE_LIMIT if self.autotune else LIMIT


CELLS = (
    *(Cell(network, transform) for transform in ("gradient", "forward") for network in MEASURED),
    *(Cell(network, "per-sample gradient") for network in MEASURED),
    *(Cell(network, transform, tf32=True) for transform in ("gradient", "forward") for network in MEASURED),
    *(Cell(network, "per-sample gradient", tf32=True) for network in MEASURED),
    *(Cell(network, "gradient", tf32=True, autotune=True) for network in MEASURED),
)
"""What says most comes first: a machine may be lent for a few minutes."""

QUICK_CELLS = (Cell("tiny", "gradient"),)
QUICK_BACKEND = "aot_eager"
"""What stands in for inductor, which takes minutes to start on a busy CPU, where it is only shown that all runs."""


def by_module(transform: str, module: torch.nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """The same by the nn.Module: a call, `backward`, or the tutorial's way to per-sample gradients."""
    weights = dict(module.named_parameters())
    buffers = dict(module.named_buffers())

    def evaluated() -> Any:
        with torch.no_grad():
            return module(x)

    def differentiated() -> Any:
        for weight in weights.values():
            weight.grad = None
        module(x).square().mean().backward()
        return [weight.grad for weight in weights.values()]

    def loss(weights: Any, sample: torch.Tensor) -> torch.Tensor:
        return functional_call(module, (weights, buffers), (sample[None],)).square().mean()

    detached = {name: weight.detach() for name, weight in weights.items()}
    each = vmap(grad(loss), (None, 0))
    return {
        "forward": evaluated,
        "gradient": differentiated,
        "per-sample gradient": lambda: list(each(detached, x).values()),
    }[transform]


def run_cell(cell: Cell, device: str, budget: Budget, quick: bool = False) -> Iterator[Measurement]:
    """Measure with one compiler more each time; what came last says most."""
    block, params, state, module, x = both(NETWORKS[cell.network], device)
    on_gpu = device == "cuda"

    def call(params: Any, x: torch.Tensor) -> Any:
        return block(params, x, tree.cast(state, x.dtype))

    fn, args = TRANSFORMS[cell.transform](call, params, x)
    eager = fn(*args)
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    notes: dict[str, Any] = floor(name, cell.tf32, operations(fn, args), traffic(args, eager))
    truth = fn(*tree.cast(args, torch.float64))
    notes["error of eager"] = error(eager, truth)

    def waiting(call: Callable[[], Any]) -> Callable[[], Any]:
        def waited() -> Any:
            result = call()
            if on_gpu:
                torch.cuda.synchronize()
            return result

        return waited

    contenders = [Contender("eager", waiting(lambda: fn(*args)))]
    theirs = Contender("nn.Module", waiting(by_module(cell.transform, module, x)))
    try:
        theirs.call()
        contenders.append(theirs)
    except RuntimeError as failure:
        notes["nn.Module fails"] = said(failure)
    if quick:
        notes["backend of torch.compile"] = QUICK_BACKEND
    for label, compiler in compilers(device, cell.tf32, quick, cell.autotune).items():
        torch.compiler.reset()
        compiled = compiler(fn)
        start = time.perf_counter()
        try:
            result = compiled(*args)
        except (RuntimeError, ExportError, TypeError, ValueError, NotImplementedError) as failure:
            notes[f"{label} fails"] = said(failure)
            continue
        notes[f"seconds to compile, {label}"] = time.perf_counter() - start
        notes[f"error of {label}"] = error(result, truth)
        contenders.append(Contender(label, waiting(lambda compiled=compiled: compiled(*args))))
        yield measure(Comparison(cell.name, tuple(contenders), agreeing(cell.transform), dict(notes)), budget)


def agreeing(transform: str) -> Callable[[object, object], None]:
    """How results are compared: the module's weights may come in another order than the tree's."""

    def agree(reference: object, result: object) -> None:
        if transform == "forward":
            return comparable(reference, result)
        norms = [sorted(leaf.double().norm().item() for leaf in tree.leaves(part)) for part in (reference, result)]
        assert len(norms[0]) == len(norms[1])
        most = max(norms[0])
        assert all(abs(a - b) <= 0.1 * most for a, b in zip(*norms, strict=True)), "other gradients"

    return agree


def said(failure: Exception) -> str:
    """An error's kind and first line."""
    lines = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0][:200]}"


def compilers(device: str, tf32: bool, quick: bool = False, autotune: bool = False) -> dict[str, Compiler]:
    """Ours first, then the slower ones to compile; CUDA graphs are for GPUs alone, max-autotune takes them as well."""
    found: dict[str, Compiler] = {"export.jit": lambda fn: export.jit(fn, device=device, tf32=tf32)}
    if device == "cuda":
        found["export.jit, CUDA graph"] = lambda fn: export.jit(fn, device=device, tf32=tf32, cuda_graph=True)
    if autotune:
        found["torch.compile, max-autotune"] = lambda fn: torch.compile(fn, fullgraph=True, mode="max-autotune")
        return found
    backend = QUICK_BACKEND if quick else "inductor"
    return found | {"torch.compile": lambda fn: torch.compile(fn, fullgraph=True, backend=backend)}


def isolated(cell: Cell, device: str, quick: bool, limit: float) -> Measurement:
    """Run a cell in a process of its own, and take what it wrote last."""
    with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
        path = Path(folder, "cell.json")
        variables = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TORCHINDUCTOR_CACHE_DIR": folder}
        command = [sys.executable, "-m", "benchmarks.cuda", cell.network, cell.transform, device, str(path)]
        command += ["--tf32"] * cell.tf32 + ["--quick"] * quick + ["--autotune"] * cell.autotune
        stopped = ""
        try:
            done = subprocess.run(
                command, env={**os.environ, **variables}, timeout=limit, capture_output=True, text=True
            )
            if done.returncode:
                stopped = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        except subprocess.TimeoutExpired:
            stopped = f"not all was done within {limit:.0f} s"
        found = (
            from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Measurement(cell.name, {}, ())
        )
    return Measurement(found.name, {**found.notes, "stopped": stopped}, found.timings) if stopped else found


def measurements(
    quick: bool = False, device: str = "cuda", minutes: float = MINUTES, done: Sequence[str] = ()
) -> Iterator[Measurement]:
    """Every cell that is not done yet, as long as there is time."""
    end = time.monotonic() + 60 * minutes
    for cell in QUICK_CELLS if quick else CELLS:
        left = end - time.monotonic()
        if cell.name in done:
            continue
        if left < 20:
            yield Measurement(cell.name, {"left out": f"{minutes:g} minutes were over"}, ())
            continue
        yield isolated(cell, device, quick, left if quick else min(cell.limit, left))


def write(measurement: Measurement, path: Path) -> None:
    """Write a whole file, or leave the last one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(measurement.to_dict()), encoding="utf-8")
    os.replace(partial, path)


def main() -> None:
    """Run one cell, and write it after each compiler."""
    parser = ArgumentParser(prog="python -m benchmarks.cuda", description="One cell, in this process.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("transform", choices=TRANSFORMS)
    parser.add_argument("device", choices=("cpu", "cuda"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--tf32", action="store_true", help="round products to TF32, on every side")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--autotune", action="store_true", help="beside torch.compile's max-autotune alone")
    options = parser.parse_args()
    budget = QUICK if options.quick else Budget(rounds=15, sample_seconds=0.02, warm_up_seconds=0.2)
    with float32_products(options.tf32):
        cell = Cell(options.network, options.transform, options.tf32, options.autotune)
        for found in run_cell(cell, options.device, budget, options.quick):
            write(found, options.path)


if __name__ == "__main__":
    main()
