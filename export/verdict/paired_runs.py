"""A file and the eager function, run side by side on the same inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from export.errors import ArgumentError, ExportError
from export.files import protobuf_wire
from export.files.pytree_structure import Structure, describe
from export.graph.function_inlining import inline
from export.graph.onnx_export import baked_positions
from export.runtime import loading
from export.runtime.loaded_file import Loaded
from export.trace.arguments import Arguments, is_tensor, take_apart
from export.verdict import branch_forcing
from export.verdict.deciding_operators import has_decisions
from export.verdict.elementary_errors import Kernels, coarser
from export.verdict.error_ratio import Settled, finite
from export.verdict.kinks import Kinks
from export.verdict.reference_runs import Outcome, Results, run, same_sides
from export.verdict.verdict_result import Kink

__all__ = ["REFUSALS", "PairedRuns"]

RELATIVE_JITTER = 2.0**-8
"""How far inputs are varied, relative to each value."""

REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a function raises for inputs that it does not take."""


class PairedRuns:
    """Runs a file, and the eager function as it stands and in float64.

    Args:
        fn: the function.
        args: its example arguments.
        file: the file.
        dynamic: the dynamic axes, as for `to_onnx`.
        bake: the baked positions; what the file itself says is added.
        device: where the file runs.
        tf32: whether the file may round products to TF32 on a GPU.

    Attributes:
        arguments: the example arguments, taken apart.
        loaded: the file as a function.
        model: the file's content without functions and without large tensors.
        baked: positions of the arguments that are inside the file.
        generator: what varied inputs are drawn from; its state says which.
        jumps: whether the file decides something by value.
        coarser: which elementary functions it computes by kernels coarser than PyTorch's.

    Raises:
        ArgumentError: if the file was not written by `to_onnx`, or takes another number of arguments.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        file: Path,
        *,
        dynamic: Sequence[Any] | None = None,
        bake: Sequence[int] = (),
        device: str = "auto",
        tf32: bool = False,
    ) -> None:
        self.fn, self.file, self.device, self.tf32 = fn, file, device, tf32
        self.arguments: Arguments = take_apart(fn, args, dynamic)
        self.loaded = loading.open_file(file, device, spinning=False, tf32=tf32)
        call = protobuf_wire.read_call(protobuf_wire.read_header(file), file)
        count = len(self.arguments.names)
        if call is None:
            raise ArgumentError(
                f"{file} was not written by to_onnx, so its inputs cannot be matched with the function's; "
                "load it and call it by name"
            )
        if len(call["arguments"]) != count:
            raise ArgumentError(f"{file} was exported with {len(call['arguments'])} arguments, got {count}")
        inside = {i for i, argument in enumerate(call["arguments"]) if argument["baked"]}
        self.baked = baked_positions(bake, count) | inside
        self.generator = torch.Generator().manual_seed(0)
        self.model = inline(onnx.load(file, load_external_data=False))
        self.jumps, self.coarser = has_decisions(self.model), coarser(self.model)

    @functools.cached_property
    def kinks(self) -> Kinks | None:
        """What tells the sides that the file takes; None if the function cannot be recorded again."""
        try:
            return Kinks(self.fn, self.arguments, self.model, self.baked, self.variant)
        except ExportError:
            return None

    def found_kinks(self) -> tuple[Kink, ...]:
        """Return where the file left the float64 side, without recording the function for the question's sake."""
        kinks = self.__dict__.get("kinks")
        return kinks.found() if kinks is not None else ()

    def variant(self, model: onnx.ModelProto) -> Loaded:
        """Load a changed copy of the model."""
        content = model.SerializeToString()
        return loading.open_file(self.file, self.device, spinning=False, variant=content, tf32=self.tf32)

    def given(self, leaves: Sequence[torch.Tensor]) -> list[Any]:
        """Return the arguments that the file still takes."""
        return [arg for i, arg in enumerate(self.arguments.rebuild(leaves)) if i not in self.baked]

    def file_result(
        self, loaded: Loaded, leaves: Sequence[torch.Tensor]
    ) -> tuple[Structure, list[torch.Tensor], list[str]]:
        """Run the file, or a variant of it; return the structure, tensors and names of what it gives."""
        with torch.no_grad():
            return describe(loaded(*self.given(leaves)), is_tensor, "out")

    def inner_values(self, names: list[str], leaves: Sequence[torch.Tensor]) -> list[np.ndarray[Any, Any]]:
        """Return values inside the file's graph by their names."""
        loaded = self.variant(branch_forcing.with_outputs(self.model, names))
        with torch.no_grad():
            return loaded.inner_values(names, *self.given(leaves))

    def varied(self, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Multiply every float that is not baked by 1 ± up to `RELATIVE_JITTER`."""
        result = []
        for leaf, owner in zip(leaves, self.arguments.owner, strict=True):
            if leaf.is_floating_point() and owner not in self.baked:
                noise = torch.rand(leaf.shape, generator=self.generator, dtype=torch.float64).to(leaf.device)
                leaf = (leaf.double() * (1 + RELATIVE_JITTER * (2 * noise - 1))).to(leaf.dtype)
            result.append(leaf)
        return result

    def outcomes(
        self, leaves: Sequence[torch.Tensor], forced: Sequence[bool], margins: bool = True
    ) -> tuple[Outcome, Outcome]:
        """Run eager as it stands, and in float64."""
        eager = run(self.fn, self.arguments, leaves, forced=forced, margins=margins)
        return eager, run(self.fn, self.arguments, leaves, to=torch.float64, forced=forced)

    def again(self, leaves: Sequence[torch.Tensor], loaded: Loaded, forced: Sequence[bool]) -> Results | None:
        """Run everything on varied inputs; None where they leave the function's domain or straddle a threshold."""
        try:
            eager, reference = self.outcomes(leaves, forced, margins=self.jumps)
        except REFUSALS:
            return None
        if [decision.taken for decision in eager.decisions] != [decision.taken for decision in reference.decisions]:
            return None
        _, found, _ = self.file_result(loaded, leaves)
        return Results(eager, reference, found)

    def settled(
        self, leaves: Sequence[torch.Tensor], reference: Outcome, found: Sequence[torch.Tensor] | None = None
    ) -> Settled | None:
        """Return the reference on the file's side of decisions within rounding, None where it cannot be had."""
        return self.kinks.settle(leaves, reference.leaves, found) if self.jumps and self.kinks is not None else None

    def kernel_rounding(
        self, leaves: Sequence[torch.Tensor], forced: Sequence[bool], reference: Outcome
    ) -> dict[int, torch.Tensor]:
        """Return the error of eager with ONNX Runtime's elementary functions; nothing if it takes another side."""
        outcome = run(self.fn, self.arguments, leaves, forced=forced, margins=self.jumps, under=Kernels(self.device))
        if not same_sides(outcome, reference):
            return {}
        pairs = enumerate(zip(outcome.leaves, reference.leaves, strict=True))
        return {i: own.double() - exact.double() for i, (own, exact) in pairs if finite(own)}

    def in_float32(self, leaves: Sequence[torch.Tensor], forced: Sequence[bool]) -> Outcome | None:
        """Run the function in float32, to see how much rounding its operations make of a rounding."""
        try:
            return run(self.fn, self.arguments, leaves, to=torch.float32, forced=forced)
        except REFUSALS:
            return None
