"""Commands that show the catalogue and measure targets: list, flow, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from export.app import console, printing
from export.app.console import emit, stdout
from export.app.options import Debug, Inputs, Json, Seed, TargetArgument, Weights
from export.errors import ArgumentError, WriteError, nearest
from pure_export_shared import replacing

__all__ = ["audit", "flow", "list_cases"]

By = Literal["blocks", "leaves", "activations"]


def list_cases(
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be given several times.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the catalogue: every block with what the tests checked of it.

    `extras` are the keys that it reads of extras; one in brackets may be left out. `oracle` is the independent
    implementation that it equals and `difference` the largest relative float64 difference from it, over outputs,
    gradients and new state; `float32` and `float16` are the ratios of the file's verdict.
    A narrow terminal shows fewer columns; --json has them all.
    """
    # Imported here, so that the other commands and --help do not wait for it.
    from export.app.reference import checked, facts
    from pure import count
    from pure.block import specification
    from pure.catalogue import CASES, FAMILIES

    for wanted in family or ():
        if wanted not in FAMILIES:
            raise ArgumentError(
                f"family {wanted!r} is unknown{nearest(wanted, FAMILIES)}: one of {', '.join(FAMILIES)}"
            )
    recorded = checked.load()["rows"]
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if family and case.family not in family:
            continue
        row: dict[str, Any] = {
            "name": case.name,
            "family": case.family,
            "formula": case.formula,
            "parameters": count(specification(case.make())[0]),
            "source": case.source,
            "extras": list(facts.extras_of(case)),
        }
        found = recorded.get(case.name)
        if found is not None and found["fingerprint"] == checked.fingerprint(case):
            row["checked"] = {key: value for key, value in found.items() if key != "fingerprint"}
        rows.append(row)
    if as_json:
        emit(rows)
        return
    printing.catalogue(sorted(rows, key=lambda row: FAMILIES.index(row["family"])))


def flow(
    name: TargetArgument,
    by: Annotated[
        By, typer.Option(help="What the table is by: block, parameter leaf, or tagged activation.")
    ] = "blocks",
    per_sample: Annotated[bool, typer.Option("--per-sample", help="Norms of each sample's own gradient.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the picture into this file (.png, .svg, .pdf).")] = None,
    inputs: Inputs = None,
    checkpoint: Weights = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the gradient norms of a target's half mean square output, at initialisation, on a random input.

    They are with respect to the parameters; a function's are its first argument.
    """
    # Imported here, so that the other commands and --help do not wait for it.
    from export.app import catalogue_examples, targets
    from pure.flow import gradient_norms, per_sample_norms

    target = targets.resolve(name, seed=seed)
    ready = targets.ready(target, seed=seed, given=targets.read(inputs) if inputs else None, weights=checkpoint)
    params, *batch = ready.args
    if per_sample and by == "activations":
        raise ArgumentError("--per-sample is by leaves or blocks; leave out --by activations")
    if per_sample and target.case is None and (target.kind == "function" or len(batch) - len(ready.owned) > 0):
        raise ArgumentError(f"--per-sample needs one input with a batch axis; {name} takes {', '.join(ready.names)}")
    with targets.running(target):
        if per_sample:
            found: Any = per_sample_norms(catalogue_examples.sample_loss(ready), params, *ready.mapped())
        else:
            found = gradient_norms(catalogue_examples.batch_loss(ready), params, *batch)
    if plot is not None:
        _save(found, plot)
    if as_json:
        emit({"name": name, "seed": seed, **found.to_dict()})
        return
    if getattr(found, by):
        stdout().print(found.table(by), soft_wrap=True)
    else:
        stdout().print(f"{name} has no {'tagged activations' if by == 'activations' else 'parameters'}")
    if plot is not None:
        console.stderr().print(f"wrote {plot}", soft_wrap=True)


def audit(
    name: TargetArgument,
    depth: Annotated[
        int | None, typer.Option(help="A network's depth; any other block is repeated so often.", min=1)
    ] = None,
    width: Annotated[int | None, typer.Option(help="Features of a network's stream.", min=1)] = None,
    data: Annotated[
        Literal["auto", "digits", "example"],
        typer.Option(help="Real handwritten digits, or the row's random example; auto takes digits where they fit."),
    ] = "auto",
    full: Annotated[
        bool, typer.Option("--full", help="Show every block, and paths, deletions and partial Jacobians.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Also write every number into this .json file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the page into this file (.png, .svg, .pdf).")] = None,
    inputs: Inputs = None,
    checkpoint: Weights = None,
    bars: Annotated[bool, typer.Option("--progress/--quiet", help="Bars while it runs, on a terminal.")] = True,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Audit a target at initialisation: gradient, signal, branches and gates by depth, and what to change.

    Digits are sorted into ten classes by the rows that can, by cross-entropy; where there are no classes the
    gradients are those of a random direction of the output. --full shows every block of a deep network, not only some.
    """
    # Imported here, so that the other commands and --help do not wait for it.
    from export.app import audit_subject, targets
    from pure.flow import audit as measure
    from pure.flow import save_json

    target = targets.resolve(name, seed=seed)
    if target.case is not None and inputs is None and checkpoint is None:
        given = audit_subject.subject(target.case, data, depth, width, seed)
    else:
        if depth is not None or width is not None or data == "digits":
            raise ArgumentError("--depth, --width and --data digits go with a row of the catalogue and its own input")
        given = audit_subject.from_target(target, targets.read(inputs) if inputs else None, checkpoint, seed)
    with targets.running(target):
        found = measure(
            given.block,
            given.params,
            given.x,
            given.state,
            given.extras,
            loss=given.loss,
            targets=given.target,
            progress=bars and console.stderr().is_terminal,
        )
    if save is not None:
        save_json(found, save)
    if plot is not None:
        _save(found, plot)
    if as_json:
        emit({"name": name, "seed": seed, "data": given.about, **found.to_dict()})
        return
    printing.audit(name, given.about, found, full)
    for path in (save, plot):
        if path is not None:
            console.stderr().print(f"wrote {path}", soft_wrap=True)


def _save(found: Any, path: Path) -> None:
    """Draw a measurement into a file, which appears whole or not at all."""
    kind = path.suffix.removeprefix(".") or "png"
    figure = found.plot()
    if kind not in figure.canvas.get_supported_filetypes():
        raise ArgumentError(f"cannot draw {path}: {kind!r} is no picture format; give a name that ends in .png or .svg")
    with replacing(path, WriteError) as file:
        figure.savefig(file, format=kind, dpi=150)
