"""Peak memory and time of a whole gradient: eager, `export.jit`, and `export.jit` with every block rematerialised.

Each side of each network runs in a process of its own, in turn: what counts is the most that the process comes to hold
above what stood before the first call, which traces and compiles. Weights are arguments; shapes are static.
"""

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.func import grad

import export
import pure
from benchmarks.harness import Measurement
from pure import nets
from pure.block import Block
from pure.nets.convolutional.unet import unet
from pure.skips import pre_norm
from pure.skips.additive.long_skip import LongSkip

NAME = "memory"
SIDES = ("eager", "export.jit", "export.jit, remat")
MIB = 2**20


def transformer() -> Block:
    """Six pre-norm blocks of width 256 with eight heads."""

    def layer() -> Block:
        attention = pre_norm(pure.Attention(256, 8, fused=True), pure.LayerNorm(256))
        mlp = pure.Sequential(fc1=pure.Linear(256, 1024), act=pure.Activation("gelu"), fc2=pure.Linear(1024, 256))
        return pure.Sequential(attention=attention, mlp=pre_norm(mlp, pure.LayerNorm(256)))

    return pure.Sequential(*[layer() for _ in range(6)])


NETWORKS: dict[str, tuple[Callable[[], Block], tuple[int, ...]]] = {
    "resnet50": (nets.resnet50, (8, 3, 128, 128)),
    "densenet121": (nets.densenet121, (8, 3, 128, 128)),
    "transformer": (transformer, (8, 256, 256)),
    "unet": (lambda: unet(3, 2, (32, 64, 128, 256)), (8, 3, 128, 128)),
}


def rematerialised(block: Block, depth: int = 0, skips: int = 0) -> Block:
    """The same chain with each block in it checkpointed: the elements of chains in chains, or of the chain itself.

    A chain of layers without children, in a chain, is a block. A U-Net's outermost long skip is one too, and so are the
    blocks in it; to checkpoint each of the skips would evaluate the innermost once a level.
    """
    children = block.children()
    if isinstance(block, LongSkip):
        inside = dataclasses.replace(block, branch=rematerialised(block.branch, 1, skips + 1))
        return inside if skips else pure.checkpoint(inside)
    layers = depth > 0 and not any(child.children() for child in children.values())
    if not isinstance(block, pure.Sequential) or layers:
        return pure.checkpoint(block) if children else block
    parts = {name: rematerialised(child, depth + 1, skips) for name, child in children.items()}
    plain = all(name == str(i) for i, name in enumerate(parts))
    return pure.Sequential(*parts.values()) if plain else pure.Sequential(**parts)


def status(key: str) -> int:
    """Bytes of one line of the process's status."""
    with Path("/proc/self/status").open(encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def trim() -> None:
    """Give back to the system what nothing uses."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def one_side(network: str, side: str, calls: int) -> dict[str, Any]:
    """Run one side in this process: the bytes that its calls add at most, what stays after them, and their seconds."""
    make, shape = NETWORKS[network]
    block = make()
    if side.endswith("remat"):
        block = rematerialised(block)
    generator = torch.Generator().manual_seed(0)
    params, state = block.init(generator)
    x = torch.randn(shape, generator=generator)
    fn: Callable[..., Any] = grad(lambda params, x: block(params, x, state).square().mean())
    small = grad(lambda w, x: torch.conv2d(x, w).relu().square().mean())
    if side != "eager":
        fn, small = export.jit(fn, device="cpu"), export.jit(small, device="cpu")
    small(torch.ones(3, 3, 3, 3), torch.ones(2, 3, 8, 8))  # what is imported and started once is not this function's
    trim()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        result = fn(params, x)
        seconds.append(time.perf_counter() - start)
        del result
    found: dict[str, Any] = {"peak": status("VmHWM") - before, "kept": status("VmRSS") - before, "seconds": seconds[1:]}
    if isinstance(fn, export.Jitted):
        found["computed"] = fn.compilations()[0].peak_bytes
    return found


def measurements(
    quick: bool = False, only: Sequence[str] = (), rounds: int = 3, calls: int = 6
) -> Iterator[Measurement]:
    """Every network, its sides interleaved over rounds of fresh processes."""
    for network in NETWORKS:
        if (only and network not in only) or (quick and network != "transformer"):
            continue
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(1 if quick else rounds):
            for side in SIDES:
                command = [sys.executable, "-m", "benchmarks.memory", network, side, "2" if quick else str(calls)]
                done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
                runs[side].append(json.loads(done.stdout.splitlines()[-1]))
        notes: dict[str, Any] = {"load average": list(os.getloadavg())}
        eager = runs["eager"]
        for side, found in runs.items():
            peaks = [run["peak"] / MIB for run in found]
            notes[f"{side}: peak MiB"] = [min(peaks), median(peaks), max(peaks)]
            notes[f"{side}: kept MiB"] = median(run["kept"] / MIB for run in found)
            notes[f"{side}: seconds"] = median(second for run in found for second in run["seconds"])
            if side != "eager":
                notes[f"{side}: peak over eager's"] = median(peaks) / median(run["peak"] / MIB for run in eager)
                notes[f"{side}: live MiB, computed"] = found[0]["computed"] / MIB
        yield Measurement(f"gradient of {network}, {'×'.join(map(str, NETWORKS[network][1]))}", notes, ())


def main() -> None:
    """Run one side of one network and print what was found."""
    parser = ArgumentParser(prog="python -m benchmarks.memory", description="One side, in this process.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("calls", type=int)
    options = parser.parse_args()
    print(json.dumps(one_side(options.network, options.side, options.calls)))


if __name__ == "__main__":
    main()
