"""Commands that write or show a page: report, reference, docs."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.text import Text

from export.app.console import FAILED, emit, progress, status, stdout, table
from export.app.options import Debug, Device, Json
from export.errors import ArgumentError

__all__ = ["docs", "reference", "report"]


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
    # Imported here, so that the other commands and --help do not wait for it.
    from export.app.report import pipeline
    from export.app.report.page.wording import findings
    from export.app.report.settings import Settings

    settings = Settings(seed=seed, device=device)
    with progress("report") as tick:
        results = pipeline.write(out, settings.quick() if quick else settings, tick=tick)
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


def reference(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("catalogue.html"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the catalogue as one self-contained page: formula, leaves, call, drawing and checks of every block."""
    # Imported here, so that the other commands and --help do not wait for it.
    from export.app.reference import catalogue_page

    count = catalogue_page.write(out)
    if as_json:
        emit({"page": str(out.absolute()), "rows": count})
    else:
        stdout().print(f"{count} rows  {out.absolute()}", soft_wrap=True)


def _pages_that_begin(incomplete: str) -> list[str]:
    """Return the pages whose name, or last part of it, begins so; a shell asks for them."""
    # Imported here, so that the other commands and --help do not wait for it.
    from export.app import documentation

    whole = list(documentation.pages())
    last = [name.rpartition("/")[2] for name in whole]
    return [name for name in whole if name.startswith(incomplete)] or [
        name for name in last if name.startswith(incomplete)
    ]


def docs(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[PAGE[#SECTION]]",
            help="What to print; without it the pages are listed.",
            autocompletion=_pages_that_begin,
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Build the site into this folder; needs the extra docs.")] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the site that was built.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the documentation's pages, print one, or build the site."""
    # Imported here, so that the other commands and --help do not wait for it.
    from export.app import documentation

    if html is not None:
        if name is not None:
            raise ArgumentError("--html builds the whole site; leave the page out")
        first = documentation.build(html).absolute()
        if browse:
            webbrowser.open(first.as_uri())
        emit({"page": str(first)}) if as_json else stdout().print(str(first), soft_wrap=True)
    elif browse:
        raise ArgumentError("--open goes with --html FOLDER")
    elif name is None:
        pages = documentation.pages()
        if as_json:
            emit(pages)
        else:
            table(["page", "title"], [[page, title] for page, title in pages.items()])
    else:
        text = documentation.page(name)
        if as_json:
            emit({"page": name, "text": text})
        else:
            stdout().print(Markdown(text) if stdout().is_terminal else text.rstrip("\n"), soft_wrap=True)
