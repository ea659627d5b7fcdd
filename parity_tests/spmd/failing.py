"""A program in which one rank fails in the middle: an error of its own, a kill, or a rank that never comes.

    python -m parity_tests.spmd.failing error|killed|hangs FOLDER
    python -m parity_tests.spmd.failing error|killed FOLDER forward|backward

Every rank goes through guarded steps, and saves its parameters after each; the last one fails in the third, and prints
the time at which it does. Or it audits one network again and again and saves what is found; the rank in the middle
fails in the third audit, on the way up or on the way down.
"""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.func import grad

import pure
from pure import flow, spmd
from pure.flow.shared.result import save_json

__all__ = ["audits", "steps"]

TIMEOUT_SECONDS = 3
"""How long a collective waits for a rank that is alive and does not come."""


def _fail(how: str) -> None:
    print(f"fails at {time.time()}", flush=True)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        time.sleep(TIMEOUT_SECONDS + 3)
    raise ZeroDivisionError("the samples of this rank are broken")


def steps(how: str, folder: str) -> None:
    """Take steps; the last rank fails in the third as `how` says: by an error outside of `shard_map`, or in it."""
    rank, last = spmd.rank(), spmd.size() - 1

    def loss(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        value = spmd.psum((x @ params["weight"]).square().sum())
        if step == 2 and rank == last and how != "error":
            _fail(how)
        return value + spmd.psum(x.sum())

    params = {"weight": torch.ones(3, dtype=torch.float64)}
    x = torch.full((2, 3), 0.1 * (rank + 1), dtype=torch.float64)
    for step in range(5):
        with spmd.guard():
            gradient = grad(spmd.shard_map(loss, sharded=1))(params, x)
            if step == 2 and rank == last and how == "error":
                _fail(how)
            params = {"weight": params["weight"] - 0.01 * gradient["weight"]}
            pure.save(params, Path(folder) / f"rank{rank}.safetensors")


def audits(how: str, folder: str, where: str) -> None:
    """Audit a network; a block of the rank in the middle fails in the third audit, in the forward or the backward."""
    rank, middle = spmd.rank(), spmd.size() // 2

    def tanh(x: torch.Tensor) -> torch.Tensor:
        if rank == middle and step == 2 and torch.is_grad_enabled() == (where == "backward"):
            _fail(how)
        return x.tanh()

    layer = pure.Sequential(pure.Linear(4, 4), pure.Function(tanh))
    net = pure.Sequential(*[pure.Residual(layer) for _ in range(7)])
    params, _ = net.init(torch.Generator().manual_seed(0))
    for step in range(5):  # noqa: B007  # tanh reads it
        found = flow.audit(net, params, torch.ones(3, 4), group="world")
        save_json(found, Path(folder) / f"rank{rank}.json")


def main(how: str, folder: str, *where: str) -> None:
    """Fail as told."""
    timeout = timedelta(seconds=TIMEOUT_SECONDS if how == "hangs" else 60)
    dist.init_process_group("gloo", timeout=timeout)
    audits(how, folder, *where) if where else steps(how, folder)
    print("came to the end")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
