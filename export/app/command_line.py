"""The command ``pure-export``: list, flow, audit, onnx, verify, weights, quantize, report, reference, doctor.

Nothing heavy is imported before a command needs it, so that ``--help`` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from export.app import console, showing
from export.app.console import FAILED, Commands, emit, progress, remember, status, stdout
from export.errors import ArgumentError, ExportError, WriteError, nearest
from pure_export_shared import replacing

if TYPE_CHECKING:
    from export.verdict.verdict_result import Verdict

app = typer.Typer(
    name="pure-export",
    cls=Commands,
    help="Residual networks as pure functions, exported to ONNX and judged against float64.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.", callback=remember)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=remember)]
Seed = Annotated[int, typer.Option(help="Of parameters and inputs.", min=0)]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where ONNX Runtime runs; auto says what it chose.")
]
By = Literal["blocks", "leaves", "activations"]


@app.command("list", short_help="List the catalogue of blocks.")
def list_cases(
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be given several times.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the catalogue: every block with what the tests checked of it.

    `oracle` is the independent implementation that it equals and `difference` the largest relative float64 difference
    from it, over outputs, gradients and new state; `float32` and `float16` are the ratios of the file's verdict.
    A narrow terminal shows fewer columns; --json has them all.
    """
    from export.app.reference import checked
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
        }
        found = recorded.get(case.name)
        if found is not None and found["fingerprint"] == checked.fingerprint(case):
            row["checked"] = {key: value for key, value in found.items() if key != "fingerprint"}
        rows.append(row)
    if as_json:
        emit(rows)
        return
    showing.catalogue(sorted(rows, key=lambda row: FAMILIES.index(row["family"])))


@app.command(short_help="Measure gradient norms by depth.")
def flow(
    name: Annotated[str, typer.Argument(help="A row of the catalogue; see `pure-export list`.")],
    by: Annotated[
        By, typer.Option(help="What the table is by: block, parameter leaf, or tagged activation.")
    ] = "blocks",
    per_sample: Annotated[bool, typer.Option("--per-sample", help="Norms of each sample's own gradient.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the picture into this file (.png, .svg, .pdf).")] = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the gradient norms of a block's half mean square output, at initialisation, on a random input."""
    from export.app import catalogue_examples
    from pure import catalogue
    from pure.flow import gradient_norms, per_sample_norms

    ready = catalogue_examples.call(catalogue.case(name), seed=seed)
    params, *batch = ready.args
    if per_sample:
        if by == "activations":
            raise ArgumentError("--per-sample is by leaves or blocks; leave out --by activations")
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


def _save(found: Any, path: Path) -> None:
    """Draw a measurement into a file, which appears whole or not at all."""
    kind = path.suffix.removeprefix(".") or "png"
    figure = found.plot()
    if kind not in figure.canvas.get_supported_filetypes():
        raise ArgumentError(f"cannot draw {path}: {kind!r} is no picture format; give a name that ends in .png or .svg")
    with replacing(path, WriteError) as file:
        figure.savefig(file, format=kind, dpi=150)


@app.command(short_help="Audit gradient and signal at every depth, with advice.")
def audit(
    name: Annotated[str, typer.Argument(help="A row of the catalogue; see `pure-export list`.")],
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
    bars: Annotated[bool, typer.Option("--progress/--quiet", help="Bars while it runs, on a terminal.")] = True,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Audit a block at initialisation: gradient, signal, branches and gates by depth, and what to change.

    Digits are sorted into ten classes by the networks that can, by cross-entropy; where there are no classes the
    gradients are those of a random direction of the output. --full shows every block of a deep network, not only some.
    """
    from export.app import audit_command
    from pure import catalogue
    from pure.flow import audit as measure
    from pure.flow import save_json

    given = audit_command.subject(catalogue.case(name), data, depth, width, seed)
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
    showing.audit(name, given.about, found, full)
    for path in (save, plot):
        if path is not None:
            console.stderr().print(f"wrote {path}", soft_wrap=True)


@app.command(short_help="Export a block.")
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


@app.command(short_help="Judge exported files against eager functions.")
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
        emit({"passed": passed, "verdicts": {name: showing.plain_verdict(verdict) for name, verdict in judged.items()}})
    else:
        showing.verdicts(judged, full)
    if failed:
        raise typer.Exit(FAILED)
    if refused:
        raise typer.Exit(console.REFUSED)


@app.command(short_help="List the tensors inside a file, or replace them.")
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


@app.command(short_help="Make a file 8-bit, and judge what that lost.")
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


@app.command(short_help="Write the report on real digits and photographs.")
def report(
    out: Annotated[Path, typer.Option(help="The folder to write; only an earlier report is replaced.")] = Path(
        "report"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="A smaller one: fewer steps, narrower, small photographs.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of split, parameters and mini-batches.", min=0)] = 0,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train, measure, export and judge on real digits and photographs, and write it all as one page."""
    from export.app import report_command as reporting
    from export.app.report.page.wording import findings
    from export.app.report.settings import Settings

    settings = Settings(seed=seed, device=device)
    with progress("report") as tick:
        results = reporting.write(out, settings.quick() if quick else settings, tick=tick)
    page = (out / "index.html").absolute()
    if as_json:
        accuracies = {r.network.name: r.accuracy for r in results.networks}
        seconds = {name: round(value, 3) for name, value in results.seconds.items()}
        emit({"passed": results.passed, "page": str(page), "held_out_accuracy": accuracies, "seconds": seconds})
    else:
        for sentence in findings(results):
            stdout().print(f"• {sentence}\n")
        stdout().print(Text.assemble(status("pass" if results.passed else "fail"), f"  {page}"), soft_wrap=True)
    if not results.passed:
        raise typer.Exit(FAILED)


@app.command(short_help="Write the catalogue as one page.")
def reference(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("catalogue.html"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the catalogue as one self-contained page: formula, leaves, call, drawing and checks of every block."""
    from export.app.reference import page

    count = page.write(out)
    if as_json:
        emit({"page": str(out.absolute()), "rows": count})
    else:
        stdout().print(f"{count} rows  {out.absolute()}", soft_wrap=True)


@app.command(short_help="Say what is installed and what really loads.")
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what is installed, which providers really load, and what to install where one does not."""
    from export.runtime.doctor import diagnose

    found = diagnose()
    if as_json:
        emit(found.to_dict())
    else:
        showing.diagnosis(found)
    if not found.healthy:
        raise typer.Exit(FAILED)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
