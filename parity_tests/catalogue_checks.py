"""What is checked of each catalogue row beside the contract: its oracle, and its file's verdicts.

`python -m parity_tests.catalogue_checks [NAME …]` runs the checks and writes them into
`export/app/reference/checked.json`, from which `pure-export list` and the reference page read them. Without names it
checks every row; rows that are gone leave the file. With `--executor process` (or mpi, dask, ray) rows are checked on
several processes; with `--record FILE.jsonl` an interrupted run goes on where it was.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

import export
from export.app.reference import checked
from export.app.sweep import EXECUTORS, sweep
from export.app.targets.calls import perturbed
from export.runtime.environment import environment, version_of
from parity_tests.oracles import oracles
from parity_tests.oracles.oracle import differences, shifted
from pure import tree
from pure.block import Block
from pure.catalogue import CASES, Case

PATH = Path(export.__file__).parent / "app" / "reference" / checked.FILE
COMMAND = "python -m parity_tests.catalogue_checks"
DTYPES = {"float32": torch.float32, "float16": torch.float16}
PEERS = ("torchvision", "timm", "transformers", "x-transformers", "hyper-connections", "pytorchcv")


def oracle_differences(row: Case, training: bool) -> dict[str, float]:
    """The relative float64 differences from the row's oracle, with random gains and statistics; by name."""
    block, params, state, x, extras = row.example(dtype=torch.float64)
    module = oracles()[row.name].make().double()
    params, state = shifted(params, 1), shifted(state, 2)
    return differences(oracles()[row.name], module, block, params, state, x, extras, training=training)


SEEDS = {"selective_kernel_split": 1}
"""Of perturbations, for rows some of whose units would otherwise be dead."""

WITHOUT_INFLUENCE = {
    "slimmable": ("branch.norm1.1.",),  # the normalisation of the other width
}
"""Beginnings of parameters and statistics that no output of a row depends on, whatever their values."""

INERT = (".num_batches_tracked", ".k.bias")
"""Ends of such names in every row: counters, and biases that a softmax over the keys takes away."""


def example(row: Case, dtype: torch.dtype = torch.float32) -> tuple[Block, tuple[Any, ...]]:
    """The block and its arguments; parameters and input are cast, statistics are never below float32.

    Parameters are perturbed: at initialisation a gain of 0 would hide the weights behind it.
    """
    block, params, state, x, extras = row.example()
    params = perturbed(params, SEEDS.get(row.name, 0))
    drawn = {name: extras[name].to(dtype) for name, _ in row.extras}
    x = x.to(dtype) if row.tokens is None else x
    return block, (tree.cast(params, dtype), x, perturbed(state, upwards=True), {**extras, **drawn})


def vacuous(row: Case, verdict: export.Verdict) -> list[str]:
    """Names of what no output depended on, though it should."""
    silent = tuple(f"{kind}.{start}" for kind in ("params", "state") for start in WITHOUT_INFLUENCE.get(row.name, ()))
    return [name for name in verdict.unused if not name.endswith(INERT) and not (silent and name.startswith(silent))]


def verdict(row: Case, dtype: torch.dtype, path: Path | None = None) -> export.Verdict:
    """The verdict on the row's file with a dynamic batch."""
    block, (params, x, state, extras) = example(row, dtype)
    extra_axes = {name: {0: "batch"} for name, _ in row.extras} or None
    dynamic = (None, {0: "batch"}, None, extra_axes)
    if path is not None:
        export.to_onnx(block, (params, x, state, extras), path, dynamic=dynamic)
    return export.verify(block, (params, x, state, extras), path, dynamic=dynamic)


def outcome(row: Case, dtype: torch.dtype) -> dict[str, Any]:
    """The verdict as plain data, or the typed error that names the operation which ONNX Runtime lacks."""
    try:
        judged = verdict(row, dtype)
    except export.errors.UnsupportedOpError as error:
        return {"status": "unsupported", "reason": str(error).splitlines()[0]}
    return {"status": judged.status, "ratio": float(f"{judged.worst:.3g}")}


def check(row: Case) -> dict[str, Any]:
    """Everything that is recorded of a row."""
    worst = max(max(oracle_differences(row, training).values()) for training in (False, True))
    found = {"fingerprint": checked.fingerprint(row), "oracle": row.oracle, "difference": float(f"{worst:.2g}")}
    return found | {name: outcome(row, dtype) for name, dtype in DTYPES.items()}


def check_named(name: str) -> dict[str, Any]:
    """Everything that is recorded of the row of this name."""
    return check(next(row for row in CASES if row.name == name))


def main(*names: str, executor: str = "serial", workers: int | None = None, record: str | None = None) -> None:
    """Check the rows and write the record, whole or not at all."""
    old = json.loads(PATH.read_text(encoding="utf-8"))["rows"] if names else {}
    rows = [row for row in CASES if not names or row.name in names]
    with Progress() as bar:
        task = bar.add_task("checking", total=1.0)
        found = sweep(
            check_named,
            [row.name for row in rows],
            executor=executor,
            workers=workers,
            record=record,
            tick=lambda name, share: bar.update(task, completed=share, description=name),
        )
    if failed := [f"{outcome.cell}: {outcome.error}" for outcome in found if outcome.error]:
        raise RuntimeError("nothing was written, since rows failed:\n" + "\n".join(failed))
    new = {outcome.cell: outcome.value for outcome in found}
    ordered = {row.name: {**old, **new}[row.name] for row in CASES if row.name in {**old, **new}}
    where = environment()
    where["packages"] |= {name: version_of(name) for name in PEERS}
    scratch = PATH.with_suffix(".new")
    scratch.write_text(
        json.dumps({"environment": where, "rows": ordered}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    scratch.replace(PATH)
    print(f"wrote {PATH}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--executor", choices=EXECUTORS, default="serial")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--record")
    options = parser.parse_args()
    main(*options.names, executor=options.executor, workers=options.workers, record=options.record)
