"""A compiled call on memory of its own, so that a GPU can replay all of its launches as one CUDA graph.

A CUDA graph repeats the same kernels on the same addresses. Arguments are therefore copied to fixed tensors first, and
results copied from fixed tensors after; both copies stay on the GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor

from export.compiler.compiled_call import Compilation, Program, Watched
from export.errors import UnsupportedOpError
from export.files.pytree_structure import Structure
from export.graph.onnx_types import ONNX_TYPES
from export.runtime import sessions

__all__ = ["Replay", "check"]

_CONTROL = frozenset({"If", "Loop", "Scan"})


class Replay(Program):
    """A program whose arguments and results lie at fixed addresses; calls from several threads wait for each other.

    Args:
        examples: Results of the traced function, for their dtypes and shapes.
        session, inputs, leaves, outputs, structure, captured, baked, compilation: As for ``Program``.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[tuple[int, str]],
        leaves: Sequence[Tensor],
        outputs: Sequence[tuple[str, torch.dtype]],
        structure: Structure,
        captured: list[Watched],
        baked: frozenset[int],
        compilation: Compilation,
        examples: Sequence[Tensor],
    ) -> None:
        super().__init__(session, inputs, leaves, outputs, structure, captured, baked, compilation)
        device = compilation.device
        self._given = [torch.empty(leaves[i].shape, dtype=leaves[i].dtype, device=device) for i in self._positions]
        self._made = [torch.empty(tuple(map(int, x.shape)), dtype=x.dtype, device=device) for x in examples]
        self._binding = session.io_binding()
        for name, tensor in zip(self._names, self._given, strict=True):
            self._binding.bind_input(name, *self._place(tensor))
        for name, tensor in zip(self._outputs, self._made, strict=True):
            self._binding.bind_output(name, *self._place(tensor))
        self._one_at_a_time = threading.Lock()

    def _place(self, tensor: Tensor) -> tuple[str, int, int, list[int], int]:
        address = tensor.data_ptr() or self._somewhere.data_ptr()
        return self.compilation.device, 0, ONNX_TYPES[tensor.dtype].value, list(tensor.shape), address

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """Return the results for the arguments' tensors, in memory that is the caller's."""
        with self._one_at_a_time, torch.no_grad():
            for fixed, position in zip(self._given, self._positions, strict=True):
                fixed.copy_(tensors[position])
            self._wait()
            try:
                self.session.run_with_iobinding(self._binding)
            except sessions._ERRORS as error:
                raise sessions.translated(error, None) from error
            made = [fixed.clone() for fixed in self._made]
            self._wait()  # another thread's call may write there next, and is queued elsewhere
        return self._assemble(made)

    def _wait(self) -> None:
        if self.compilation.device == "cuda":
            torch.cuda.current_stream(self._somewhere.device).synchronize()


def check(graph: onnx.GraphProto) -> None:
    """Check that a graph is a fixed list of launches.

    Raises:
        UnsupportedOpError: If it has a branch or a loop, which the host decides on in every call.
    """
    for node in graph.node:
        if node.op_type in _CONTROL:
            about = {entry.key: entry.value for entry in node.metadata_props}
            raise UnsupportedOpError(
                f"a CUDA graph cannot hold {node.op_type} (node {node.name!r}), which the host decides on in every "
                "call; compile without cuda_graph=True, or write it without control flow, for example by torch.where",
                op=node.op_type,
                source=about.get("source", ""),
                path=about.get("path", ""),
            )
