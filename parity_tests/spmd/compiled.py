"""Gradients through `shard_map` inside of compiled functions, on all ranks: prints how far they are from one process.

Python around a collective is compiled; `shard_map` and what runs in it stay eager, as `torch.compile` is told.
"""

import torch
import torch.distributed as dist
from torch.func import grad

from parity_tests.spmd.families import FAMILIES, Problem
from parity_tests.spmd.transforms import difference
from pure import spmd, tree

__all__ = ["COMPILED", "main"]

COMPILED = ("residual", "batch norm")


def main() -> None:
    """Compare the families of `COMPILED`."""
    dist.init_process_group("gloo")
    for name in COMPILED:
        one, ours = Problem.of(FAMILIES[name], None), Problem.of(FAMILIES[name], "world")

        def loss(params, x, target, problem=ours):  # type: ignore[no-untyped-def]
            return spmd.pmean(problem.errors(params, x, target).mean(), weight=len(x))

        gradient = grad(spmd.shard_map(loss, sharded=(1, 2)))

        @torch.compile(backend="aot_eager")
        def step(params, x, target, gradient=gradient):  # type: ignore[no-untyped-def]
            found = gradient(params, x * 2, target)
            return tree.tree_map(lambda p, g: p - 0.1 * g, params, found)

        expected = grad(lambda p, one=one: one.errors(p, one.x * 2, one.target).mean())(one.params)
        expected = tree.tree_map(lambda p, g: p - 0.1 * g, one.params, expected)
        print(f"{name}: {difference(step(ours.params, ours.x, ours.target), expected):.0e}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
