"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from export.app.console import remember

__all__ = ["Debug", "Device", "Json", "Seed"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.", callback=remember)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=remember)]
Seed = Annotated[int, typer.Option(help="Of parameters and inputs.", min=0)]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where ONNX Runtime runs; auto says what it chose.")
]
