"""The command `pure-export`: list, flow, audit, onnx, verify, weights, quantize, report, reference, docs, doctor.

Nothing heavy is imported before a command needs it, so that `--help` is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from export.app import catalogue_commands, file_commands, page_commands, printing, verify_command
from export.app.console import FAILED, Commands, emit, stdout
from export.app.options import Debug, Json

__all__ = ["app", "main"]

app = typer.Typer(
    name="pure-export",
    cls=Commands,
    help="Residual networks as pure functions, exported to ONNX and judged against float64.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _versions(wanted: bool) -> None:
    """Print the versions of the project and of what its numbers depend on, and end."""
    if not wanted:
        return
    # Imported here, so that the other commands and --help do not wait for it.
    from export.runtime.environment import version_of

    flavour = next((name for name in ("onnxruntime", "onnxruntime-gpu") if version_of(name)), "onnxruntime")
    for name in ("pure-export", "torch", "onnx", flavour):
        stdout().print(f"{name} {version_of(name) or 'is not installed'}", soft_wrap=True)
    raise typer.Exit


def _example(words: str) -> str:
    """Return the last line of a command's --help."""
    return f"For example: pure-export {words}"


for _command, _short, _words in (
    (catalogue_commands.list_cases, "List the catalogue of blocks.", "list --family gated"),
    (catalogue_commands.flow, "Measure gradient norms by depth.", "flow resnet20"),
    (
        catalogue_commands.audit,
        "Audit gradient and signal at every depth, with advice.",
        "audit timm:resnet18",
    ),
    (file_commands.onnx, "Export a block, a module or a function.", "onnx net.py:Net net.onnx --bake"),
    (verify_command.verify, "Judge a file against what it should compute.", "verify net.onnx --against net.py:Net"),
    (file_commands.weights, "List the tensors inside a file, or replace them.", "weights net.onnx"),
    (
        file_commands.quantize,
        "Make a file 8-bit, and judge what that lost.",
        "quantize net.onnx data.npz --out net8.onnx",
    ),
    (page_commands.report, "Write the report on real digits and photographs.", "report --quick --out report"),
    (page_commands.reference, "Write the catalogue as one page.", "reference --out catalogue.html"),
    (page_commands.docs, "Show the documentation, or build its site.", "docs errors#shapeerror"),
):
    app.command(_words.partition(" ")[0], short_help=_short, epilog=_example(_words))(_command)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the versions that decide numbers.", is_eager=True, callback=_versions),
    ] = False,
) -> None:
    """Residual networks as pure functions, exported to ONNX and judged against float64."""


@app.command(short_help="Say what is installed and what really loads.", epilog=_example("doctor --json"))
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what is installed, which providers really load, and what to install where one does not."""
    # Imported here, so that the other commands and --help do not wait for it.
    from export.runtime.doctor import diagnose

    found = diagnose()
    if as_json:
        emit(found.to_dict())
    else:
        printing.diagnosis(found)
    if not found.healthy:
        raise typer.Exit(FAILED)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
