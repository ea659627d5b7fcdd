"""The command verify: a file against what it should compute, or targets exported and judged."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from export.app import console, junit, printing
from export.app.console import FAILED, emit, progress
from export.app.options import SYNTAX, Debug, Device, Json, Opset, Seed, Weights
from export.app.sweep import EXECUTORS, sweep
from export.errors import ArgumentError, ExportError, UnusedInputWarning

if TYPE_CHECKING:  # the other commands and --help do not wait for it
    from export.app.targets.judging import Judged, Settings

__all__ = ["verify"]


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE.onnx --against TARGET | TARGET...]", help=f"A file, or targets. {SYNTAX}"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every row of the catalogue.")] = False,
    against: Annotated[
        str | None, typer.Option(metavar="TARGET", help="What the file should compute; any file, whoever wrote it.")
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            help="An .npz or .safetensors file with inputs, by the names of arguments or of the file's inputs; "
            "several times for several samples. Drawn from --seed unless given."
        ),
    ] = None,
    checkpoint: Weights = None,
    opset: Opset = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare a file of ours with the digest that it holds first.")
    ] = True,
    limit: Annotated[float | None, typer.Option(help="The largest ratio that passes; 8 unless given.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Show every comparison.")] = False,
    report: Annotated[
        Path | None, typer.Option("--junit", help="Also write a JUnit XML report, one test case a comparison.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    executor: Annotated[
        str, typer.Option(help=f"Where targets are judged side by side: {', '.join(EXECUTORS)}.")
    ] = "serial",
    workers: Annotated[
        int | None, typer.Option(help="How many targets are judged at a time; as many as there are processors.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Judge an ONNX file against what it should compute; exit code 1 if a verdict fails.

    Without --against, targets are exported to temporary files and these are judged, at perturbed parameters, so that
    none is without influence. With it, --opset says which opset the file must have.
    """
    if against is None and bool(names) == every:
        raise ArgumentError("give FILE.onnx --against TARGET, names of targets, or --all; pure-export list shows rows")
    if against is not None and (every or len(names or ()) != 1):
        raise ArgumentError("--against goes with exactly one file")
    if limit is not None and not limit > 0:
        raise ArgumentError(f"--limit must be above 0, got {limit:g}")
    # Imported here, so that the other commands and --help do not wait for it.
    from export.app.targets import judging
    from export.verdict.verdict_result import unused_text
    from pure import catalogue

    chosen = [case.name for case in catalogue.CASES] if every else list(names or ())
    settings = judging.Settings(
        inputs=tuple(inputs or ()),
        weights=checkpoint,
        opset=opset,
        check=check,
        limit=limit,
        device=device,
        seed=seed,
    )
    judge = partial(_judged, against, settings, debug or len(chosen) == 1)
    judged: dict[str, Judged] = {}
    with progress("verify") as tick:
        if executor == "serial":
            for i, name in enumerate(chosen):
                tick(name, i / len(chosen))
                judged[name] = judge(name)
        else:
            for outcome in sweep(judge, list(dict.fromkeys(chosen)), executor=executor, workers=workers, tick=tick):
                judged[outcome.cell] = ExportError(outcome.error) if outcome.error else outcome.value
    for name, verdict in judged.items():
        if not isinstance(verdict, ExportError) and verdict.unused:
            console.stderr().print(f"{name}: {unused_text(verdict.unused)}", style="yellow", soft_wrap=True)
    if report is not None:
        junit.write(report, judged)
    if as_json:
        plain = {name: printing.plain_verdict(verdict) for name, verdict in judged.items()}
        emit({"passed": all(_passed(verdict) for verdict in judged.values()), "verdicts": plain})
    else:
        printing.verdicts(judged, full)
    code = max(_codes(judged), default=0)
    if code:
        raise typer.Exit(code)


def _judged(against: str | None, settings: Settings, raises: bool, name: str) -> Judged:
    """Return the verdict on one name, or the error that stands in its place."""
    # Imported here, so that the other commands and --help do not wait for it.
    from export.app.targets import judging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedInputWarning)  # printed for all of them at once
        try:
            if against is not None:
                return judging.judge_file(Path(name), against, settings)
            return judging.judge_export(name, settings)
        except ExportError as error:
            if raises:
                raise
            return error


def _passed(verdict: Judged) -> bool:
    return not isinstance(verdict, ExportError) and verdict.passed


def _codes(judged: dict[str, Judged]) -> Iterator[int]:
    """Yield the exit code; a failed verdict outweighs an error."""
    if any(not isinstance(verdict, ExportError) and not verdict.passed for verdict in judged.values()):
        yield FAILED
    elif any(isinstance(verdict, ExportError) for verdict in judged.values()):
        yield console.REFUSED
