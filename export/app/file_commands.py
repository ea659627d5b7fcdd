"""Commands that write, judge and change ONNX files: onnx, verify, weights, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from export.app import console, printing
from export.app.console import FAILED, emit, progress, stdout
from export.app.options import Debug, Device, Json, Seed
from export.errors import ArgumentError, ExportError

if TYPE_CHECKING:  # the other commands and --help do not wait for it
    from export.verdict.verdict_result import Verdict

__all__ = ["onnx", "quantize", "verify", "weights"]


def onnx(
    name: Annotated[str, typer.Argument(help="A row of the catalogue; see `pure-export list`.")],
    path: Annotated[Path, typer.Argument(help="The .onnx file to write.")],
    dynamic: Annotated[bool, typer.Option("--dynamic/--static", help="Let the batch have any size.")] = True,
    bake: Annotated[bool, typer.Option("--bake/--inputs", help="Fix the parameters in the file.")] = False,
    opset: Annotated[int | None, typer.Option(help="The ONNX opset, 18 to 23; 20 unless given.")] = None,
    external: Annotated[
        bool, typer.Option("--external", help="Put large tensors into a data file beside it; needed above 2 GB.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a block of the catalogue."""
    # Imported here, so that the other commands and --help do not wait for it.
    import export
    from export.app import catalogue_examples
    from pure import catalogue

    ready = catalogue_examples.call(catalogue.case(name), seed=seed)
    fixed = ready.positions("params", "state") if bake else ()
    free = ready.dynamic if dynamic else None
    exported = export.to_onnx(
        ready.fn, ready.args, path, bake=fixed, dynamic=free, opset=opset, external=external or None
    )
    if as_json:
        emit({**vars(exported), "path": str(exported.path), "data": exported.data and str(exported.data)})
        return
    left = ", ".join(word for i, word in enumerate(ready.names) if i not in fixed)
    stdout().print(str(exported), soft_wrap=True)
    stdout().print(f"call it: export.load({str(path)!r})({left})", soft_wrap=True)


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Rows of the catalogue; see `pure-export list`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every row of the catalogue.")] = False,
    path: Annotated[
        Path | None, typer.Option(help="Judge this file; it is written first if it does not exist.")
    ] = None,
    limit: Annotated[float | None, typer.Option(help="The largest ratio that passes; 2 unless given.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Show every comparison.")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export blocks and judge the files against the eager functions; exit code 1 if a verdict fails."""
    if bool(names) == every:
        raise ArgumentError("give the names of blocks, or --all; pure-export list shows them")
    if path is not None and (every or len(names or ()) != 1):
        raise ArgumentError("--path goes with exactly one name")
    if limit is not None and not limit > 0:
        raise ArgumentError(f"--limit must be above 0, got {limit:g}")
    # Imported here, so that the other commands and --help do not wait for it.
    import export
    from export.app import catalogue_examples
    from pure import catalogue

    cases = list(catalogue.CASES) if every else [catalogue.case(name) for name in names or ()]
    judged: dict[str, Verdict | ExportError] = {}
    with progress("verify") as tick:
        for i, case in enumerate(cases):
            tick(case.name, i / len(cases))
            ready = catalogue_examples.call(case, seed=seed)
            try:
                judged[case.name] = export.verify(
                    ready.fn, ready.args, path, dynamic=ready.dynamic, device=device, limit=limit
                )
            except ExportError as error:
                if debug or len(cases) == 1:
                    raise
                judged[case.name] = error
    refused = [name for name, verdict in judged.items() if isinstance(verdict, ExportError)]
    failed = [name for name, verdict in judged.items() if not isinstance(verdict, ExportError) and not verdict.passed]
    if as_json:
        passed = not refused and not failed
        emit(
            {"passed": passed, "verdicts": {name: printing.plain_verdict(verdict) for name, verdict in judged.items()}}
        )
    else:
        printing.verdicts(judged, full)
    if failed:
        raise typer.Exit(FAILED)
    if refused:
        raise typer.Exit(console.REFUSED)


def weights(
    path: Annotated[Path, typer.Argument(help="An .onnx file with its parameters inside.")],
    new: Annotated[Path | None, typer.Argument(help="A .safetensors file with other tensors, by dotted name.")] = None,
    out: Annotated[Path | None, typer.Option(help="The .onnx file to write.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the tensors inside a file; with a checkpoint and --out, write the file again with the checkpoint's tensors.

    Names are those of the list; the argument's name in front may be left out where only one argument is inside.
    """
    # Imported here, so that the other commands and --help do not wait for it.
    import export
    import pure
    from export.files import protobuf_wire, stored_tensors
    from export.files.checkpoint import complete

    if (new is None) != (out is None):
        raise ArgumentError("a checkpoint and --out go together: weights MODEL.onnx NEW.safetensors --out OUT.onnx")
    header = protobuf_wire.read_header(path)
    inside = {
        name: t for name, t in stored_tensors.find(path, header).items() if not name.startswith(stored_tensors.CONSTANT)
    }
    if new is not None and out is not None:
        found = pure.flatten(pure.load(new))
        export.replace_weights(path, complete(path, found), out)
        if as_json:
            emit({"path": str(out), "replaced": len(found)})
        else:
            stdout().print(f"{out}: {path} with the {len(found)} tensors of {new}", soft_wrap=True)
    elif as_json:
        emit([{"name": t.name, "dtype": t.dtype, "shape": t.shape, "file": t.location} for t in inside.values()])
    else:
        rows = [[t.name, t.dtype, " × ".join(map(str, t.shape)), t.location] for t in inside.values()]
        console.table(["name", "dtype", "shape", "data file"], rows)


def quantize(
    path: Annotated[Path, typer.Argument(help="The float .onnx file, with its parameters inside.")],
    data: Annotated[Path, typer.Argument(help="An .npz file: arrays named as the inputs, and `labels` if there are.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    calibration: Annotated[int, typer.Option(help="The first so many samples calibrate; the rest judge.", min=1)] = 256,
    batch: Annotated[int, typer.Option(help="Samples a batch.", min=1)] = 32,
    method: Annotated[
        Literal["minmax", "entropy", "percentile"], typer.Option(help="How ranges are chosen.")
    ] = "minmax",
    exclude: Annotated[list[str] | None, typer.Option(help="A node or block that stays float; several times.")] = None,
    scores: Annotated[str | None, typer.Option(help="The output with the classes' scores.")] = None,
    min_sqnr: Annotated[float | None, typer.Option(help="The least SQNR in dB; 25.84 unless given.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="The least lower end of the agreement's interval; 0.95 unless given.")
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Also measure calls of both files.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Quantise a file by ONNX Runtime, and judge it on held-out samples; exit code 1 if the verdict fails."""
    # Imported here, so that the other commands and --help do not wait for it.
    import export
    from export.quantization import npz_samples

    calibrating, _ = npz_samples.read(data, path, batch, stop=calibration)
    judging, labels = npz_samples.read(data, path, batch, start=calibration)
    export.quantize(path, out, calibrating, method=method, exclude=exclude or ())
    verdict = export.verify_quantized(
        out,
        path,
        judging,
        labels=labels,
        scores=scores,
        min_sqnr_db=min_sqnr,
        min_agreement=min_agreement,
        latency=latency,
    )
    if as_json:
        emit(verdict.to_dict())
    else:
        stdout().print(verdict.table(), soft_wrap=True)
    if not verdict:
        raise typer.Exit(FAILED)
