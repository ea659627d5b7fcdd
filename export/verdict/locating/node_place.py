"""Where a node comes from, by the metadata of whoever wrote it: the module and the line of source."""

from __future__ import annotations

import ast
import re
from pathlib import PurePath

import onnx

from export.graph.node_notes import read_notes

__all__ = ["is_rewritten", "place_of", "written_here"]

FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
"""One frame of a stack trace."""


def written_here(node: onnx.NodeProto) -> bool:
    """Tell whether a node's metadata names the recorded operator that it stands for."""
    notes = read_notes(node)
    return bool(notes.get("fx")) and "aten" in notes


def is_rewritten(node: onnx.NodeProto) -> bool:
    """Tell whether an optimiser has made a node of others, so that its stored tensors are not the given ones."""
    return "pkg.onnxscript.rewriter.rule_name" in read_notes(node)


def place_of(node: onnx.NodeProto) -> tuple[str, str]:
    """Return the dotted path of the module that a node belongs to and its line of source, "" where unknown.

    `torch.onnx.export` writes the modules around an operator, outermost first, and the stack of its call.
    """
    notes = read_notes(node)
    path, source = notes.get("path", ""), notes.get("source", "")
    if not path:
        try:
            scopes = [str(scope) for scope in ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))]
        except (ValueError, SyntaxError, TypeError):  # another writer's
            scopes = []
        path = scopes[-2] if len(scopes) > 1 else ""
        owners = {name.rpartition(".")[0] for name in node.input if name.endswith((".weight", ".bias"))}
        if is_rewritten(node) and owners and path not in owners:
            path = ", ".join(sorted(owners | {path} - {""}))
    if not source:
        frames = FRAME.findall(notes.get("pkg.torch.onnx.stack_trace", ""))
        own = [frame for frame in frames if "/torch/nn/" not in frame[0].replace("\\", "/")] or frames
        source = f"{PurePath(own[-1][0]).name}:{own[-1][1]} in {own[-1][2]}" if own else ""
    return path, source
