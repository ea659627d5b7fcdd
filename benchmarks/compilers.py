"""`export.jit` against `torch.compile`, on five transforms of four networks: time of a call, time to compile.

One cell is a transform of a network, run in a process of its own: the compilers start cold (inductor's caches are
off). Where torch.compile does not end, the cell is stopped and run again without it. Weights are arguments on every
side. What each compiler's numbers differ by from eager in float64 is noted beside eager's own error in float32.
"""

import dataclasses
import functools
import json
import math
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

import numpy as np
import torch
from torch.func import grad, jvp, vmap

import export
import pure
from benchmarks.harness import QUICK, Budget, Comparison, Contender, Measurement, Timing, measure
from export.errors import ExportError
from pure import nets, tree
from pure.block import Block
from pure.skips import pre_norm

NAME = "compilers"
LIMIT = 600.0
"""Seconds that the process of a cell may take, both compilers and the timing together."""

Call = tuple[Callable[..., Any], tuple[Any, ...]]


def residual_mlp() -> Block:
    """16 residual layers of two linear maps each."""
    return nets.residual_mlp(64, 64, 16, 0.25)


def transformer_block() -> Block:
    """A pre-norm transformer block of width 128 with four heads."""
    attention = pre_norm(pure.Attention(128, 4, fused=True), pure.LayerNorm(128))
    mlp = pure.Sequential(fc1=pure.Linear(128, 512), act=pure.Activation("gelu"), fc2=pure.Linear(512, 128))
    return pure.Sequential(attention=attention, mlp=pre_norm(mlp, pure.LayerNorm(128)))


@dataclass(frozen=True)
class Network:
    """A network and the shape of its input; `quick` ones are run by `--quick` too."""

    name: str
    make: Callable[[], Block]
    x_shape: tuple[int, ...]
    quick: bool = False


NETWORKS = {
    "mlp": Network("residual MLP, 16 layers of width 64, batch 32", residual_mlp, (32, 64), quick=True),
    "transformer": Network("transformer block, 8×32 tokens of width 128", transformer_block, (8, 32, 128)),
    "resnet18": Network("ResNet-18, 8×3×64×64", nets.resnet18, (8, 3, 64, 64)),
    "densenet121": Network("DenseNet-121, 4×3×64×64", nets.densenet121, (4, 3, 64, 64)),
}


def cosine(like: torch.Tensor) -> torch.Tensor:
    """A fixed direction of a tensor's shape."""
    return torch.cos(torch.arange(like.numel()).reshape(like.shape).to(like.dtype))


def forward(network: Callable[..., Any], params: Any, x: torch.Tensor) -> Call:
    """The output."""
    return network, (params, x)


def mean_square(network: Callable[..., Any]) -> Callable[..., Any]:
    """A scalar loss."""
    return lambda params, x: network(params, x).square().mean()


def gradient(network: Callable[..., Any], params: Any, x: torch.Tensor) -> Call:
    """The gradient of the mean square of the output by every weight."""
    return grad(mean_square(network)), (params, x)


def per_sample_gradient(network: Callable[..., Any], params: Any, x: torch.Tensor) -> Call:
    """The gradient of each sample's loss by every weight."""
    loss = mean_square(network)
    return vmap(grad(lambda params, sample: loss(params, sample[None])), (None, 0)), (params, x)


def tangent(network: Callable[..., Any], params: Any, x: torch.Tensor) -> Call:
    """The output and its derivative along a direction of the weights."""

    def pushed(params: Any, direction: Any, x: torch.Tensor) -> Any:
        return jvp(lambda params: network(params, x), (params,), (direction,))

    return pushed, (params, tree.tree_map(cosine, params), x)


def hessian_vector(network: Callable[..., Any], params: Any, x: torch.Tensor) -> Call:
    """The Hessian of the loss times a direction, forward over reverse."""
    loss = mean_square(network)

    def product(params: Any, direction: Any, x: torch.Tensor) -> Any:
        return jvp(lambda params: grad(loss)(params, x), (params,), (direction,))[1]

    return product, (params, tree.tree_map(cosine, params), x)


TRANSFORMS = {
    "forward": forward,
    "gradient": gradient,
    "per-sample gradient": per_sample_gradient,
    "jvp": tangent,
    "Hessian-vector product": hessian_vector,
}


def cell(network: str, transform: str) -> Call:
    """The function of one cell and its arguments."""
    chosen = NETWORKS[network]
    block = chosen.make()
    generator = torch.Generator().manual_seed(0)
    params, state = block.init(generator)
    x = torch.randn(chosen.x_shape, generator=generator)

    def call(params: Any, x: torch.Tensor) -> torch.Tensor:
        return block(params, x, tree.cast(state, x.dtype))

    return TRANSFORMS[transform](call, params, x)


def error(result: Any, truth: Any) -> float:
    """The distance of two trees, relative to the norm of the second."""
    pairs = list(zip(tree.leaves(result), tree.leaves(truth), strict=True))
    difference = sum((a.double() - b).square().sum().item() for a, b in pairs)
    return math.sqrt(difference / sum(b.square().sum().item() for _, b in pairs))


COMPILERS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "export.jit": functools.partial(export.jit, device="cpu"),
    "torch.compile": functools.partial(torch.compile, fullgraph=True),
}


def run_cell(network: str, transform: str, budget: Budget, alone: bool = False) -> Measurement:
    """Compile by both, or by `export.jit` alone, compare with float64, and time."""
    fn, args = cell(network, transform)
    truth = fn(*tree.cast(args, torch.float64))
    notes: dict[str, Any] = {"error of eager": error(fn(*args), truth)}
    contenders = [Contender("eager", lambda: fn(*args))]
    for name, compiler in list(COMPILERS.items())[: 1 if alone else None]:
        compiler(lambda x: x + 1)(torch.ones(1))  # what is imported and started once is not this function's
        torch.compiler.reset()
        compiled = compiler(fn)
        start = time.perf_counter()
        try:
            result = compiled(*args)
        except (RuntimeError, ExportError, TypeError, ValueError, NotImplementedError) as failure:
            notes[f"{name} fails"] = f"{type(failure).__name__}: {str(failure).strip().splitlines()[0][:200]}"
            continue
        notes[f"seconds to compile, {name}"] = time.perf_counter() - start
        notes[f"error of {name}"] = error(result, truth)
        contenders.append(Contender(name, lambda compiled=compiled: compiled(*args)))
    if len(contenders) > 2:
        contenders.insert(0, contenders.pop())  # ratios are to torch.compile
    del truth
    comparison = Comparison(f"{transform}: {NETWORKS[network].name}", tuple(contenders), comparable, notes)
    return measure(comparison, budget)


def comparable(reference: object, result: object) -> None:
    """Raise where two results have other shapes, or differ by more than a relu at its kink explains."""
    assert error(result, tree.cast(reference, torch.float64)) < 0.1


def measurements(quick: bool = False, only: Sequence[str] = ()) -> Iterator[Measurement]:
    """Every cell in a process of its own, then the geometric means."""
    found = []
    for network in NETWORKS:
        for transform in TRANSFORMS:
            if (quick and not NETWORKS[network].quick) or not set(only) <= {network, transform}:
                continue
            found.append(isolated(network, transform, quick))
            yield found[-1]
    yield from summary(found)


def isolated(network: str, transform: str, quick: bool, limit: float = LIMIT) -> Measurement:
    """Run a cell in a process of its own."""
    environment = {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
        path = Path(folder, "cell.json")
        environment["TORCHINDUCTOR_CACHE_DIR"] = folder
        command = [sys.executable, "-m", "benchmarks.compilers", network, transform, str(path)]
        command += ["--quick"] * quick
        name = f"{transform}: {NETWORKS[network].name}"
        late = {}
        try:
            done = subprocess.run(command, env=environment, timeout=limit, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            late = {"torch.compile fails": f"no result within {limit:.0f} s"}
            done = subprocess.run([*command, "--alone"], env=environment, capture_output=True, text=True)
        if done.returncode:
            return Measurement(name, {"stopped": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}, ())
        found = from_dict(json.loads(path.read_text(encoding="utf-8")))
        return dataclasses.replace(found, notes={**found.notes, **late})


def from_dict(data: dict[str, Any]) -> Measurement:
    """The inverse of `Measurement.to_dict`."""
    timings = tuple(
        Timing(t["name"], tuple(t["seconds"]), t["calls_a_sample"], t["ratio"], tuple(t["ratio_interval_95"]))
        for t in data["timings"]
    )
    return Measurement(data["name"], data["notes"], timings)


def summary(found: Sequence[Measurement]) -> Iterator[Measurement]:
    """Geometric means of `export.jit` to `torch.compile` over the cells that both ran."""
    both = [m for m in found if {"export.jit", "torch.compile"} <= {t.name for t in m.timings}]
    if not both:
        return
    ratios, lists = [], []
    for one in both:
        by_name = {t.name: t for t in one.timings}
        lists.append(np.log(np.array(by_name["export.jit"].seconds) / np.array(by_name["torch.compile"].seconds)))
        ratios.append(
            one.notes["seconds to compile, export.jit"] / one.notes["seconds to compile, torch.compile"]  # type: ignore[operator]
        )
    rng = np.random.default_rng(0)
    draws = [np.exp(np.mean([np.median(rng.choice(rounds, len(rounds))) for rounds in lists])) for _ in range(2000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    notes = {
        "cells": len(both),
        "left out": [one.name for one in found if one not in both],
        "run time, geometric mean of the ratios": float(np.exp(np.mean([np.median(rounds) for rounds in lists]))),
        "its 95 % interval": [float(low), float(high)],
        "compile time, geometric mean of the ratios": float(np.exp(np.mean(np.log(ratios)))),
    }
    yield Measurement("export.jit to torch.compile", notes, ())


def main() -> None:
    """Run one cell and write it."""
    parser = ArgumentParser(prog="python -m benchmarks.compilers", description="One cell, in this process.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("transform", choices=TRANSFORMS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--alone", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    budget = QUICK if options.quick else Budget(rounds=20, sample_seconds=0.02, settle_seconds=0.03)
    result = run_cell(options.network, options.transform, budget, options.alone)
    options.path.write_text(json.dumps(result.to_dict()), encoding="utf-8")


if __name__ == "__main__":
    main()
