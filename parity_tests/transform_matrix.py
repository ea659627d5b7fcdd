"""Which transforms of which networks export, judged by the float64 verdict: python -m parity_tests.transform_matrix.

One cell is a transform of a network, with fixed sizes or with a dynamic batch. It is right (the verdict passes), or a
typed error says why not; anything else is a fault of this library. After every cell that is not right, a small gradient
exported in the same process must pass. `--json PATH` writes the cells; `--only WORD` takes the cells with that word in
their name. `--executor process` (or mpi, dask, ray) measures `--workers` cells at a time, and `--record FILE.jsonl`
keeps what is measured, so that an interrupted run goes on from there.

The exit status is 1 if a cell is wrong, or fewer than 90 % are right.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import export
import pure
from export.app.sweep import EXECUTORS, Outcome, sweep
from export.errors import ExportError
from pure import nets
from pure.block import Block
from pure.skips import Dynamic, dense_block, pre_norm


@dataclass(frozen=True)
class Subject:
    """A network with an example.

    Attributes:
        make: returns the block.
        x_shape: shape of its input.
        small: name of a leaf that Jacobians and Hessians are taken by, in place of the input, where the input is large.
        control: whether it reads a control signal.
    """

    make: Callable[[], Block]
    x_shape: tuple[int, ...]
    small: str | None = None
    control: bool = False


def conv_net() -> Block:
    """A convolutional network with GroupNorm."""
    layers = [
        pure.Residual(
            pure.Sequential(
                conv=pure.Conv2d(8, 8, 3, padding=1), norm=pure.GroupNorm(2, 8), act=pure.Activation("relu")
            )
        )
        for _ in range(2)
    ]
    return pure.Sequential(
        stem=pure.Conv2d(3, 8, 3, stride=2, padding=1),
        layers=pure.Sequential(*layers),
        pool=pure.GlobalAvgPool(),
        head=pure.Linear(8, 4),
    )


def dense_net() -> Block:
    """A DenseNet block between a stem and a head."""
    return pure.Sequential(
        stem=pure.Conv2d(3, 8, 3, padding=1),
        dense=dense_block(8, 4, 3),
        pool=pure.GlobalAvgPool(),
        head=pure.Linear(8 + 3 * 4, 4),
    )


def transformer() -> Block:
    """A pre-norm transformer block."""
    attention = pure.Attention(16, 4, fused=True)
    mlp = pure.Sequential(fc1=pure.Linear(16, 32), act=pure.Activation("gelu"), fc2=pure.Linear(32, 16))
    return pure.Sequential(attention=pre_norm(attention, pure.LayerNorm(16)), mlp=pre_norm(mlp, pure.LayerNorm(16)))


def dynamic() -> Block:
    """The tutorial's DynamicNet, as it is trained."""
    return nets.dynamic_net(6, 8, 3)


SUBJECTS = {
    "MLP": Subject(lambda: nets.residual_mlp(6, 8, 3, 0.5, "tanh"), (4, 6)),
    "conv GN": Subject(conv_net, (3, 3, 8, 8), small="head.bias"),
    "ResNet-18": Subject(lambda: nets.resnet18(num_classes=5), (2, 3, 32, 32), small="fc.bias"),
    "DenseNet block": Subject(dense_net, (3, 3, 8, 8), small="head.bias"),
    "highway": Subject(lambda: nets.highway_mlp(6, 8, 3, 4), (4, 6)),
    "transformer": Subject(transformer, (3, 5, 16), small="mlp.branch.f.fc2.bias"),
    "DynamicNet": Subject(dynamic, (4, 6), control=True),
}
Built = tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]
BATCH = {0: "batch"}


@cache
def prepared(name: str) -> tuple[Callable[..., Tensor], Any, Tensor]:
    """The network as `f(params, x)` in evaluation, its parameters and an input."""
    subject = SUBJECTS[name]
    block = subject.make()
    generator = torch.Generator().manual_seed(0)
    params, state = block.init(generator)
    x = torch.randn(subject.x_shape, generator=generator)
    extras = {"control": torch.tensor(0.75)} if subject.control else {}

    def network(params: Any, x: Tensor) -> Tensor:
        y: Tensor = block(params, x, state, extras)
        return y

    return network, params, x


def half_mean_square(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def loss(params: Any, x: Tensor) -> Tensor:
        return network(params, x).square().mean() / 2

    return loss


def by_small(name: str) -> tuple[Callable[..., Tensor], tuple[Any, ...], tuple[Any, ...]]:
    """`g(z, x)` with z the small argument of a network, for derivatives that grow with the argument's size."""
    network, params, x = prepared(name)
    leaf = SUBJECTS[name].small
    if leaf is None:
        return (lambda x: network(params, x)), (x,), (BATCH,)
    flat = pure.flatten(params)

    def of_leaf(z: Tensor, x: Tensor) -> Tensor:
        return network(pure.unflatten({**flat, leaf: z}), x)

    return of_leaf, (flat[leaf], x), (None, BATCH)


def tangent(like: Any) -> Any:
    """A fixed direction of the shape of a tensor or tree."""
    return pure.tree.tree_map(
        lambda leaf: torch.cos(torch.arange(leaf.numel()).reshape(leaf.shape).to(leaf.dtype)), like
    )


def grad_by_params(name: str) -> Built:
    network, params, x = prepared(name)
    return grad(half_mean_square(network)), (params, x), (None, BATCH)


def grad_by_input(name: str) -> Built:
    network, params, x = prepared(name)
    return grad(half_mean_square(network), 1), (params, x), (None, BATCH)


def pulled_back(name: str) -> Built:
    network, params, x = prepared(name)
    v = tangent(network(params, x))

    def fn(params: Any, x: Tensor, v: Tensor) -> Any:
        return vjp(network, params, x)[1](v)

    return fn, (params, x, v), (None, BATCH, BATCH)


def pushed_forward(name: str) -> Built:
    network, params, x = prepared(name)

    def fn(params: Any, x: Tensor, v: Tensor) -> Any:
        return jvp(lambda x: network(params, x), (x,), (v,))

    return fn, (params, x, tangent(x)), (None, BATCH, BATCH)


def per_sample(name: str) -> Built:
    network, params, x = prepared(name)
    loss = half_mean_square(network)
    return vmap(grad(lambda p, sample: loss(p, sample[None])), (None, 0)), (params, x), (None, BATCH)


def jacobian(transform: Callable[..., Any]) -> Callable[[str], Built]:
    def build(name: str) -> Built:
        fn, args, axes = by_small(name)
        return transform(lambda *args: fn(*args).sum(0)), args, axes

    return build


def second(name: str) -> Built:
    fn, args, axes = by_small(name)
    if SUBJECTS[name].small is None:  # one sample: a Hessian by a whole batch is mostly zeros
        return hessian(lambda x: fn(x[None]).square().sum()), (args[0][0],), (None,)
    return hessian(lambda *args: fn(*args).square().mean()), args, axes


def hessian_vector(name: str) -> Built:
    network, params, x = prepared(name)
    loss = half_mean_square(network)

    def fn(params: Any, x: Tensor, v: Any) -> Any:
        return jvp(lambda p: grad(loss)(p, x), (params,), (v,))[1]

    return fn, (params, x, tangent(params)), (None, BATCH, None)


def conditional(name: str) -> Callable[..., Tensor]:
    network, _, _ = prepared(name)
    gate = Dynamic(pure.Function(torch.tanh), mode="branch")

    def fn(params: Any, x: Tensor, control: Tensor) -> Tensor:
        y: Tensor = gate({}, network(params, x), {}, {"control": control})
        return y

    return fn


def vmap_cond(name: str) -> Built:
    _, params, x = prepared(name)
    fn = conditional(name)
    control = torch.linspace(0.2, 0.9, x.shape[0])
    return vmap(lambda p, x, c: fn(p, x[None], c)[0], (None, 0, 0)), (params, x, control), (None, BATCH, BATCH)


def grad_cond(name: str) -> Built:
    _, params, x = prepared(name)
    fn = conditional(name)
    return grad(lambda p, x, c: fn(p, x, c).square().mean()), (params, x, torch.tensor(0.75)), (None, BATCH, None)


TRANSFORMS: dict[str, Callable[[str], Built]] = {
    "grad by params": grad_by_params,
    "grad by input": grad_by_input,
    "vjp": pulled_back,
    "jvp": pushed_forward,
    "vmap(grad)": per_sample,
    "jacrev": jacobian(jacrev),
    "jacfwd": jacobian(jacfwd),
    "hessian": second,
    "Hessian-vector": hessian_vector,
    "vmap(cond)": vmap_cond,
    "grad(cond)": grad_cond,
}


@dataclass(frozen=True)
class Cell:
    """The outcome of one cell: "right", "refused" by a typed error, or "wrong"."""

    transform: str
    sizes: str
    network: str
    outcome: str
    ratio: float | None
    message: str
    seconds: float


RIGHT_AT_LEAST = 0.9
"""Share of the cells that must be right."""


def next_export_passes() -> bool:
    """Whether the process still exports as it should: a small gradient with a dynamic size, judged."""
    return bool(export.verify(grad(lambda x: torch.tanh(x).sum()), (torch.ones(3),), dynamic=({0: "n"},)))


def measure(transform: str, sizes: str, network: str) -> Cell:
    """Export one cell and judge it."""
    start = time.perf_counter()
    fn, args, axes = TRANSFORMS[transform](network)
    dynamic = axes if sizes == "dynamic" and any(axes) else None
    try:
        verdict = export.verify(fn, args, dynamic=dynamic)
        outcome, ratio = ("right" if verdict.passed else "wrong"), verdict.worst
        message = "" if verdict.passed else verdict.table()
    except ExportError as error:
        outcome, ratio, message = "refused", None, f"{type(error).__name__}: {error}"
    if outcome != "right" and not next_export_passes():
        outcome, message = "wrong", f"the next export in the process fails, after: {message}"
    return Cell(transform, sizes, network, outcome, ratio, message, time.perf_counter() - start)


def show(cells: list[Cell]) -> None:
    """Print the matrix: the ratio where a cell is right."""
    table = Table("transform", "sizes", *SUBJECTS, title="largest error in rounding scales (passes at 8)")
    by = {(cell.transform, cell.sizes, cell.network): cell for cell in cells}
    for transform in TRANSFORMS:
        for sizes in ("static", "dynamic"):
            row = [by.get((transform, sizes, network)) for network in SUBJECTS]
            if any(row):
                shown = [(c and (f"{c.ratio:.2g}" if c.outcome == "right" else c.outcome)) or "-" for c in row]
                table.add_row(transform, sizes, *map(str, shown))
    console = Console(width=140)
    console.print(table)
    counts = {word: sum(cell.outcome == word for cell in cells) for word in ("right", "refused", "wrong")}
    console.print(f"{len(cells)} cells: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    for cell in cells:
        if cell.outcome != "right":
            console.print(f"{cell.transform}, {cell.sizes}, {cell.network}: {cell.message[:1500]}", markup=False)


def measure_named(name: str) -> dict[str, Any]:
    """Export and judge one cell, by its name "transform, sizes, network"."""
    return vars(measure(*name.split(", ")))


def _cell(outcome: Outcome) -> Cell:
    """What became of a cell; one whose process died is wrong."""
    if outcome.error:
        return Cell(*outcome.cell.split(", "), "wrong", None, outcome.error, 0.0)
    return Cell(**outcome.value)


def main(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="python -m parity_tests.transform_matrix", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--executor", choices=EXECUTORS, default="serial")
    parser.add_argument("--workers", type=int, metavar="N", help="default: as many as there are processors")
    parser.add_argument("--record", type=Path, metavar="FILE.jsonl")
    options = parser.parse_args(arguments)
    names = [f"{t}, {s}, {n}" for t in TRANSFORMS for s in ("static", "dynamic") for n in SUBJECTS]
    names = [name for name in names if options.only in name]
    with Progress() as bar:
        task = bar.add_task("exporting", total=1.0)
        found = sweep(
            measure_named,
            names,
            executor=options.executor,
            workers=options.workers,
            record=options.record,
            tick=lambda name, share: bar.update(task, completed=share, description=name),
        )
    cells = list(map(_cell, found))
    show(cells)
    if options.json:
        options.json.write_text(json.dumps([vars(cell) for cell in cells], indent=1) + "\n", encoding="utf-8")
    right = sum(cell.outcome == "right" for cell in cells)
    return int(any(cell.outcome == "wrong" for cell in cells) or right < RIGHT_AT_LEAST * len(cells))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
