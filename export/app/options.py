"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from export.app.console import remember

__all__ = ["SYNTAX", "Debug", "Device", "Inputs", "Json", "Opset", "Seed", "TargetArgument", "Weights"]

SYNTAX = (
    "A row of `pure-export list`, a network of pure.nets, MODULE:ATTRIBUTE, FILE.py:ATTRIBUTE, timm:NAME or "
    "torchvision:NAME. An attribute that is a module, a block or a function is taken as it is; a class derived from "
    "nn.Module, or a function without required parameters that returns a module or a block, is called."
)
"""The syntax of targets, as `export.app.targets` reads it."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.", callback=remember)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=remember)]
Seed = Annotated[int, typer.Option(help="Of parameters and inputs.", min=0)]
Device = Annotated[
    str, typer.Option(help="Where ONNX Runtime runs: auto, cpu, cuda or cuda:1; auto says what it chose.")
]
TargetArgument = Annotated[str, typer.Argument(metavar="TARGET", help=SYNTAX)]
Inputs = Annotated[
    Path | None, typer.Option(help="An .npz or .safetensors file with the inputs, by the arguments' names.")
]
Weights = Annotated[Path | None, typer.Option("--weights", help="A .safetensors file with the target's parameters.")]
Opset = Annotated[int | None, typer.Option(help="The ONNX opset, 13 to 23; 20 unless given.")]
