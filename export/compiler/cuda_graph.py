"""A compiled call on memory of its own, so that a GPU can replay all of its launches as one CUDA graph.

A CUDA graph repeats the same kernels on the same addresses. Arguments are therefore copied to fixed tensors first, and
results copied from fixed tensors after; both copies stay on the GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from export.compiler.compiled_call import Program
from export.graph.node_notes import read_notes, unsupported
from export.graph.onnx_types import ONNX_TYPES
from export.runtime import sessions

__all__ = ["CudaGraphProgram", "check_is_fixed"]

_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


class CudaGraphProgram(Program):
    """A program whose arguments and results lie at fixed addresses; calls from several threads wait for each other.

    Args:
        *known: as for `Program`.
        examples: results of the traced function, for their dtypes and shapes.
    """

    def __init__(self, *known: Any, examples: Sequence[Tensor]) -> None:
        super().__init__(*known)
        device = self.compilation.device
        self._given = [torch.empty(s, dtype=d, device=device) for s, d in zip(self._shapes, self._dtypes, strict=True)]
        self._made = [torch.empty(tuple(map(int, x.shape)), dtype=x.dtype, device=device) for x in examples]
        self._binding = self.session.io_binding()
        for name, tensor in zip(self._names, self._given, strict=True):
            self._binding.bind_input(name, *self._place(tensor))
        for name, tensor in zip(self._outputs, self._made, strict=True):
            self._binding.bind_output(name, *self._place(tensor))
        self._one_at_a_time = threading.Lock()

    def _place(self, tensor: Tensor) -> tuple[str, int, int, list[int], int]:
        address = tensor.data_ptr() or self._placeholder.data_ptr()
        return *self._location, ONNX_TYPES[tensor.dtype].value, list(tensor.shape), address

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """Return the results for the arguments' tensors, in memory that is the caller's."""
        with self._one_at_a_time, torch.no_grad():
            for fixed, position in zip(self._given, self._positions, strict=True):
                fixed.copy_(tensors[position])
            try:
                with self.handed_over():
                    self.session.run_with_iobinding(self._binding)
            except sessions.ERRORS as error:
                raise sessions.translated(error, None) from error
            made = [fixed.clone() for fixed in self._made]
            self._wait()  # another thread's call may write there next, and is queued elsewhere
        return self._assemble(made)

    def _wait(self) -> None:
        if self._stream is not None:
            torch.cuda.current_stream(self._placeholder.device).synchronize()


def check_is_fixed(graph: onnx.GraphProto) -> None:
    """Check that a graph is a fixed list of launches.

    Raises:
        UnsupportedOpError: if it has a branch or a loop, which the host decides on in every call.
    """
    for node in graph.node:
        if node.op_type in _CONTROL_FLOW:
            raise unsupported(
                f"a CUDA graph cannot hold {node.op_type} (node {node.name!r}), which the host decides on in every "
                "call; compile without cuda_graph=True, or write it without control flow, for example by torch.where",
                node.op_type,
                read_notes(node),
                dtype="",
            )
