"""Commands that write, change and quantise ONNX files: onnx, weights, quantize."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from export.app import console
from export.app.console import FAILED, emit, stdout
from export.app.options import Debug, Inputs, Json, Opset, Seed, TargetArgument, Weights
from export.errors import ArgumentError

__all__ = ["onnx", "quantize", "weights"]


def onnx(
    name: TargetArgument,
    path: Annotated[Path, typer.Argument(help="The .onnx file to write.")],
    dynamic: Annotated[bool, typer.Option("--dynamic/--static", help="Let the batch have any size.")] = True,
    bake: Annotated[bool, typer.Option("--bake/--no-bake", help="Fix the parameters in the file.")] = False,
    inputs: Inputs = None,
    checkpoint: Weights = None,
    opset: Opset = None,
    external: Annotated[
        bool, typer.Option("--external", help="Put large tensors into a data file beside it; needed above 2 GB.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a target: see `pure-export verify --help` for what one is."""
    # Imported here, so that the other commands and --help do not wait for it.
    import export
    from export.app import targets
    from export.trace.arguments import take_apart
    from export.trace.symbolic_sizes import sizes_of

    target = targets.resolve(name, seed=seed)
    call = targets.ready(target, seed=seed, given=targets.read(inputs) if inputs else None, weights=checkpoint)
    fixed = call.positions(*call.owned) if bake else ()
    free = call.dynamic if dynamic else None
    with targets.running(target):
        exported = export.to_onnx(
            call.fn, call.args, path, bake=fixed, dynamic=free, opset=opset, external=external or None
        )
        taken = take_apart(call.fn, call.args, free)
        used = export.memory(path, sizes=sizes_of(taken.axes, taken.leaves))
    if as_json:
        data = exported.data and str(exported.data)
        emit({**vars(exported), "path": str(exported.path), "data": data, "peak_bytes": used.peak_bytes})
        return
    left = ", ".join(word for i, word in enumerate(call.names) if i not in fixed)
    stdout().print(str(exported), soft_wrap=True)
    stdout().print(f"memory: {used.summary()}", soft_wrap=True)
    stdout().print(f"call it: export.load({str(path)!r})({left})", soft_wrap=True)


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
    from export.files import stored_tensors
    from export.files.checkpoint import complete
    from export.files.opening import open_model

    if (new is None) != (out is None):
        raise ArgumentError("a checkpoint and --out go together: weights MODEL.onnx NEW.safetensors --out OUT.onnx")
    inside = {name: t for name, t in open_model(path).tensors.items() if not name.startswith(stored_tensors.CONSTANT)}
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
    model: Annotated[
        str, typer.Argument(help="The float .onnx file, with its parameters inside, or a target to be exported.")
    ],
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
    checkpoint: Weights = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Quantise a file by ONNX Runtime, and judge it on held-out samples; exit code 1 if the verdict fails.

    In place of a file a target may stand, as for `pure-export onnx`: it is exported first, its parameters inside.
    """
    # Imported here, so that the other commands and --help do not wait for it.
    import export
    from export.app import targets
    from export.quantization import npz_samples

    with contextlib.ExitStack() as stack:
        path = Path(model)
        if path.suffix != ".onnx" and not path.is_file():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pure-export-"))
            path = targets.write_float_file(targets.resolve(model, seed=seed), Path(folder), data, checkpoint, seed)
        elif checkpoint is not None:
            raise ArgumentError(f"--weights goes with a target; {path} has its own inside: see pure-export weights")
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
