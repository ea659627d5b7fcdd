"""Where the nodes of a session run, and whether a node that computes on data was left to the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import onnxruntime

from export.errors import ProviderError
from export.graph.node_notes import read_notes
from export.runtime.onnxruntime_errors import ERRORS, translated

if TYPE_CHECKING:
    from export.devices.size_flow import Flow, Seen

__all__ = ["CPU", "CUDA", "assigned", "placement", "raise_unless_on_cuda", "strays"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_SHOWN = 5
"""Nodes that an error names."""


def placement(session: onnxruntime.InferenceSession) -> dict[str, str]:
    """Return {node name: execution provider} for the nodes that the session runs, named as in the file."""
    return {session.readable(name): provider for name, _, provider in assigned(session)}


def assigned(session: onnxruntime.InferenceSession) -> list[tuple[str, str, str]]:
    """Return the name, as ONNX Runtime has it, the operator and the execution provider of each node."""
    try:
        return [
            (node.name, node.op_type, part.ep_name)
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]
    except ERRORS as error:  # such as a name that is no text
        raise translated(error, None) from error


def strays(
    session: onnxruntime.InferenceSession,
    model: bytes | str | os.PathLike[str],
    optimised: Callable[[], Flow],
) -> list[tuple[str, str, Seen | None]]:
    """Return the nodes on the CPU that compute on more than sizes: name, operator, and the node where it is known.

    Args:
        session: the session, which has CUDA.
        model: what it was made from.
        optimised: gives the nodes of the graph that ONNX Runtime made of it, where it has added nodes of its own.
    """
    aside = [(name, kind) for name, kind, provider in assigned(session) if provider == CPU]
    if not aside:
        return []
    from export.devices import size_flow  # brings the onnx package, which sessions do without

    flow = size_flow.data_sources(size_flow.skeleton(model))
    own: Flow | None = None
    found = []
    for name, kind in aside:
        seen = flow.get((session.readable(name), kind))
        if seen is None:
            own = optimised() if own is None else own
            seen = own.get((name, kind))
        if seen is None or seen.source:
            found.append((session.readable(name), kind, seen))
    return found


def raise_unless_on_cuda(
    session: onnxruntime.InferenceSession,
    model: bytes | str | os.PathLike[str],
    optimised: Callable[[], Flow],
) -> None:
    """Raise if a node that computes on more than sizes would run on the CPU.

    Raises:
        ProviderError: naming the nodes, their dtypes, why CUDA does not take them, and what to do.
    """
    found = strays(session, model, optimised)
    if not found:
        return
    from export.devices import size_flow  # as above

    opset = max((one.version for one in size_flow.skeleton(model).opset_import if not one.domain), default=0)
    lines = [_described(name, kind, seen, opset) for name, kind, seen in found[:_SHOWN]]
    raise ProviderError(
        f"device='cuda' was chosen, but ONNX Runtime has no CUDA kernel for {len(found)} of the nodes, which compute "
        f"on data: {'; '.join(lines)}{'; …' if len(found) > _SHOWN else ''}. Load with device='cpu', or write these "
        "operations with others; to_onnx(…, target='cuda') says so before it writes a file."
    )


def _described(name: str, kind: str, seen: Seen | None, opset: int) -> str:
    if seen is None:
        return f"{name} ({kind})"
    from export.devices import cuda_kernels  # as above

    notes = read_notes(seen.node)
    why = cuda_kernels.why_not(seen.node, notes.get("dtype"), opset)
    dtype = f", {notes['dtype']}" if "dtype" in notes else ""
    reason = f": {why[0]}; {why[1]}" if why else ""
    return f"{name} ({kind}{dtype}){reason}"
