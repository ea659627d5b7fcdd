"""One compiled kind of call: a session that is fed with tensors where they lie, and whose results become tensors."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import OrtValueVector
from torch import Tensor
from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

from export.files.pytree_structure import Structure, rebuild
from export.runtime import sessions

__all__ = ["Compilation", "Program", "Watched"]

Watched = tuple[Callable[[], Tensor | None], int, int]
"""A captured tensor by a weak reference, its version and its address when it was compiled in."""

_NUMPY: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}
"""How ONNX Runtime is told a dtype; it knows no word for the others, which it reads from DLPack."""

_OPTIONS = onnxruntime.RunOptions()


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What was compiled for one kind of arguments.

    Attributes:
        arguments: dtypes and shapes of the tensors that are given, by dotted name.
        baked: names of the tensors that are compiled in, captured ones included.
        nodes: ONNX nodes, before ONNX Runtime's own optimisation.
        trace_seconds: time for recording and translating.
        session_seconds: time for ONNX Runtime's optimisation.
        device: "cpu", "cuda" or "cuda:1".
        replayed: whether a call replays one CUDA graph.
        peak_bytes: bytes alive at once in a call, results included, arguments and weights not; None where that is not
            known, as on a GPU.
    """

    arguments: dict[str, str]
    baked: tuple[str, ...]
    nodes: int
    trace_seconds: float
    session_seconds: float
    device: str
    replayed: bool = False
    peak_bytes: int | None = None


class Program:
    """A session with all that a call needs to know.

    Args:
        session: the session.
        inputs: position among the arguments' tensors, and name, of each that the session takes.
        leaves: the example tensors, for their dtypes and shapes.
        outputs: name, dtype and shape of each result; one that the session returns in another shape is reshaped.
        structure: the containers of the results.
        captured: tensors that are compiled in without being arguments.
        baked: identities of the arguments that are compiled in.
        compilation: what to tell the user.
        stream: the CUDA stream that the session queues its kernels on; None on a CPU.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[tuple[int, str]],
        leaves: Sequence[Tensor],
        outputs: Sequence[tuple[str, torch.dtype, tuple[int, ...]]],
        structure: Structure,
        captured: list[Watched],
        baked: frozenset[int],
        compilation: Compilation,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self._stream = stream
        self.session, self.captured, self.baked, self.compilation = session, captured, baked, compilation
        self._assemble = assembler(structure)
        self._positions = [position for position, _ in inputs]
        self._names = [name for _, name in inputs]
        given = [leaves[position] for position in self._positions]
        self._shapes = [tuple(leaf.shape) for leaf in given]
        self._dtypes = [leaf.dtype for leaf in given]
        self._numpy_dtypes = [_NUMPY.get(dtype) for dtype in self._dtypes]
        self._outputs = [name for name, _, _ in outputs]
        made = {value.name: tuple(value.shape) for value in session.get_outputs()}
        self._views = [(i, shape) for i, (name, _, shape) in enumerate(outputs) if made[name] != shape]
        self._booleans = [i for i, (_, dtype, _) in enumerate(outputs) if dtype == torch.bool]
        name, _, index = compilation.device.partition(":")
        self._location = name, int(index or 0)
        device = onnxruntime.OrtDevice.make(*self._location)._get_c_device()
        self._feeds, self._fetches = [device] * len(inputs), [device] * len(outputs)
        self._placeholder = torch.empty(1, device=compilation.device)  # an address for tensors without values
        self._by_address = None not in self._numpy_dtypes
        self._last_fed: tuple[list[int], OrtValueVector] = [], OrtValueVector()

    def stale(self) -> bool:
        """Tell whether a tensor that the function captured was changed in place since, or got other memory."""
        found = ((find(), version, address) for find, version, address in self.captured)
        return any(
            leaf is not None and (leaf._version != version or leaf.data_ptr() != address)
            for leaf, version, address in found
        )

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """Return the results for the arguments' tensors, of the shapes that this was compiled for."""
        given = [tensors[position] for position in self._positions]
        for i, leaf in enumerate(given):
            if not leaf.is_contiguous() or leaf.is_neg():
                given[i] = leaf.detach().resolve_neg().contiguous()
        results = OrtValueVector()
        try:
            with self.handed_over():
                self.session.run_with_ortvaluevector(
                    _OPTIONS, self._names, self._fed(given), self._outputs, results, self._fetches
                )
        except sessions.ERRORS as error:
            raise sessions.translated(error, None) from error
        made = results.to_dlpacks(torch._C._from_dlpack)
        for i, shape in self._views:
            made[i] = made[i].view(shape)
        for i in self._booleans:
            made[i] = made[i].view(torch.bool)
        return self._assemble(made)

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Queue a run of the session behind what PyTorch has queued, and what PyTorch queues next behind the run.

        The GPU waits, on both sides; the host does not. Each program has a stream of its own, whatever stream is
        PyTorch's current one at a call.
        """
        if self._stream is None:
            yield
            return
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.device(self._stream.device):  # ONNX Runtime leaves its own GPU as the thread's current one
            yield
        current.wait_stream(self._stream)

    def _fed(self, given: Sequence[Tensor]) -> OrtValueVector:
        if self._by_address:
            placeholder = self._placeholder.data_ptr()
            addresses = [leaf.data_ptr() or placeholder for leaf in given]
            last, feed = self._last_fed
            if addresses != last:
                feed = OrtValueVector()
                feed.push_back_batch(given, addresses, self._numpy_dtypes, self._shapes, self._feeds)
                self._last_fed = addresses, feed
            return feed
        feed = OrtValueVector()
        for leaf in given:
            boolean = leaf.dtype == torch.bool
            feed.push_back(to_dlpack(leaf.detach().view(torch.uint8) if boolean else leaf.detach()), boolean)
        return feed


def assembler(structure: Structure) -> Callable[[Sequence[Any]], Any]:
    """Return what `rebuild` does for one structure, as a function of the leaves, for calls that are many."""
    (kind, content), *_ = structure.items()
    if kind == "leaf":
        return operator.itemgetter(content)
    if kind == "dict":
        parts = [(key, assembler(value)) for key, value in content.items()]
        return lambda leaves: {key: part(leaves) for key, part in parts}
    if kind in ("list", "tuple"):
        make = list if kind == "list" else tuple
        items = [assembler(value) for value in content]
        return lambda leaves: make([item(leaves) for item in items])
    return lambda leaves: rebuild(structure, leaves)
