"""The file that is judged: its inputs matched with the function's arguments, itself and variants of it run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.fx import GraphModule

from export.errors import ArgumentError
from export.files import protobuf_wire, stored_tensors
from export.files.call_schema import read_call
from export.files.checkpoint import weights
from export.files.pytree_structure import Structure, describe
from export.graph.functions.function_inlining import inline
from export.graph.model_file import read_model
from export.graph.node_notes import read_notes
from export.graph.onnx_export import baked_positions
from export.graph.onnx_types import ONNX_TYPES, dtype_name
from export.ops.registry import LOWERINGS
from export.runtime import loading
from export.runtime.loaded_file import Loaded
from export.trace import isolation
from export.trace.arguments import Arguments, is_tensor, take_apart
from export.trace.aten_graph import Traced, record
from export.verdict import branch_forcing
from export.verdict.foreign.samples import sample_leaves
from export.verdict.monte_carlo import RUNS, measure
from export.verdict.sampled import Scales

__all__ = ["JudgedFile", "differing"]


POSITIONS = {"TopK": 1, "ArgMax": 0, "ArgMin": 0}
"""Which output of an operator holds the positions that it picks."""


class JudgedFile:
    """A file beside the function that it should compute; it is compared with its digest before.

    Args:
        fn: the function.
        args: its example arguments.
        file: the file.
        dynamic: the dynamic axes, as for `to_onnx`; None takes those that the file names.
        bake: the baked positions; what the file itself says is added.
        device: where the file runs.
        tf32: whether the file may round products to TF32 on a GPU.

    Attributes:
        arguments: the example arguments, taken apart.
        traced: the function, recorded; None if a file from elsewhere is judged without.
        loaded: the file as a function.
        model: the file's content without functions and without large tensors.
        baked: positions of the arguments that are inside the file.
        notes: what the reader of a verdict should know of how it was made.

    Raises:
        ArgumentError: if the file was not written by `to_onnx`, or takes another number of arguments.
        TracingError: if the function cannot be recorded.
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
        self.notes: list[str] = []
        self.arguments: Arguments = take_apart(fn, args, dynamic)
        self.loaded = loading.open_file(file, device, spinning=False, tf32=tf32, check=False)
        call = read_call(protobuf_wire.read_header(file), file)
        count = len(self.arguments.names)
        if call is None:
            raise ArgumentError(f"{file} was not written by to_onnx; judge it as a ForeignFile")
        if len(call["arguments"]) != count:
            raise ArgumentError(f"{file} was exported with {len(call['arguments'])} arguments, got {count}")
        inside = {i for i, argument in enumerate(call["arguments"]) if argument["baked"]}
        self.baked = baked_positions(bake, count) | inside
        self.model = inline(read_model(file))
        if dynamic is None:
            self.arguments = dataclasses.replace(self.arguments, axes=self._named_axes())
        self.traced: Traced | None = record(fn, self.arguments, LOWERINGS)

    def _named_axes(self) -> tuple[dict[int, str], ...]:
        """Return the dynamic axes that the file names, for each leaf."""
        named = {}
        for value in self.model.graph.input:
            dims = value.type.tensor_type.shape.dim
            named[value.name] = {axis: dim.dim_param for axis, dim in enumerate(dims) if dim.dim_param}
        leaves = zip(self.arguments.leaf_names, self.arguments.leaves, strict=True)
        return tuple(
            {axis: name for axis, name in named.get(leaf_name, {}).items() if axis < leaf.dim()}
            for leaf_name, leaf in leaves
        )

    def variant(self, model: onnx.ModelProto) -> Loaded:
        """Load a changed copy of the model."""
        content = model.SerializeToString()
        return loading.open_file(self.file, self.device, spinning=False, variant=content, tf32=self.tf32, check=False)

    def graph(self, leaves: Sequence[torch.Tensor]) -> GraphModule | None:
        """Return the function's recorded graph for these inputs; None where a function cannot be recorded."""
        return None if self.traced is None else self.traced.graph

    def conditions(self) -> list[branch_forcing.Condition]:
        """Return every `If` of the file whose branches the reference can be made to take."""
        return branch_forcing.conditions(self.model.graph)

    def scales(
        self,
        leaves: Sequence[torch.Tensor],
        forced: Mapping[str, bool] | None = None,
        *,
        runs: int = RUNS,
        open_decisions: bool = True,
        wanted: Collection[str] = (),
        follow: Mapping[str, torch.Tensor] | None = None,
        unit: float | None = None,
    ) -> Scales:
        """Measure the reference and its rounding scales.

        Args:
            leaves: the inputs.
            forced: which branches conditions take, by their keys.
            runs: how many noisy runs are made.
            open_decisions: whether decisions that rounding leaves open are taken at random too.
            wanted: keys of inner values whose scales to keep too.
            follow: positions that operators picked, by key, to take where rounding leaves them open.
            unit: the rounding unit of every operator, in place of its own dtype's.
        """
        graph = self.graph(leaves)
        assert graph is not None
        choose = None if forced is None else lambda key, number: forced.get(key)
        with isolation.restored():
            return measure(
                graph,
                leaves,
                runs=runs,
                open_decisions=open_decisions,
                forced=choose,
                wanted=wanted,
                follow=follow,
                unit=unit,
            )

    def sample(self, sample: Sequence[Any] | Mapping[str, Any], named: str) -> list[torch.Tensor]:
        """Return the leaves of further inputs.

        Args:
            sample: the positional arguments, or tensors by name.
            named: what it is called in messages.
        """
        return sample_leaves(self.arguments, sample, named)

    def given(self, leaves: Sequence[torch.Tensor]) -> list[Any]:
        """Return the arguments that the file still takes."""
        return [arg for i, arg in enumerate(self.arguments.rebuild(leaves)) if i not in self.baked]

    def feed(self, leaves: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return {file input: tensor}."""
        named = zip(self.arguments.leaf_names, leaves, self.arguments.owner, strict=True)
        return {name: leaf for name, leaf, owner in named if owner not in self.baked}

    def output_positions(self) -> dict[str, int]:
        """Return {file output: its position among the function's}."""
        names = [] if self.traced is None else self.traced.out_names
        return {name: i for i, name in enumerate(names)}

    def results(
        self, loaded: Loaded, leaves: Sequence[torch.Tensor]
    ) -> tuple[Structure, list[torch.Tensor], list[str]]:
        """Run the file, or a variant of it; return the structure, tensors and names of what it gives."""
        with torch.no_grad():
            return describe(loaded(*self.given(leaves)), is_tensor, "out")

    def inner_values(self, names: Sequence[str], leaves: Sequence[torch.Tensor]) -> list[np.ndarray[Any, Any]]:
        """Return values inside the file's graph by their names."""
        loaded = self.variant(branch_forcing.with_outputs(self.model, names))
        with torch.no_grad():
            return loaded.inner_values(list(names), *self.given(leaves))

    def picked_positions(self, keys: Collection[str], leaves: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the positions that the file's TopK, ArgMax and ArgMin pick, by the recorded operation's name."""
        found: dict[str, str] = {}
        for node in self.model.graph.node:
            key = read_notes(node).get("fx", "")
            if key in keys and node.op_type in POSITIONS:
                found[key] = node.output[POSITIONS[node.op_type]]
        values = self.inner_values(list(found.values()), leaves) if found else []
        return {key: torch.from_numpy(value) for key, value in zip(found, values, strict=True)}

    def interface_problems(self) -> list[tuple[str, str]]:
        """Return (name, what is wrong) for the file's inputs and outputs: order, names, dtypes, declared sizes."""
        traced, arguments = self.traced, self.arguments
        assert traced is not None
        given = [i for i, owner in enumerate(arguments.owner) if owner not in self.baked]
        wanted_inputs = {
            arguments.leaf_names[i]: (
                arguments.leaves[i].dtype,
                [arguments.axes[i].get(axis, int(size)) for axis, size in enumerate(arguments.leaves[i].shape)],
            )
            for i in given
        }
        wanted_outputs = {
            name: (value.dtype, [int(size) if isinstance(size, int) else None for size in value.shape])
            for name, value in zip(traced.out_names, traced.outputs, strict=True)
        }
        return [
            *_mismatches("inputs", self.model.graph.input, wanted_inputs),
            *_mismatches("outputs", self.model.graph.output, wanted_outputs),
        ]

    def weight_problems(self) -> list[tuple[str, str]]:
        """Return (name, what is wrong) for the tensors inside the file that are not the given ones, bit for bit."""
        found = []
        stored = weights(self.file, "torch", check=False)
        for position in sorted(self.baked):
            name = self.arguments.names[position]
            _, tensors, names = describe(stored.get(name), is_tensor, name)
            inside = dict(zip(names, tensors, strict=True))
            for leaf_name, leaf, owner in zip(
                self.arguments.leaf_names, self.arguments.leaves, self.arguments.owner, strict=True
            ):
                own = inside.get(leaf_name)
                if owner != position or own is None:
                    continue
                if own.shape != leaf.shape:
                    found.append((leaf_name, f"stored with shape {tuple(own.shape)}, given {tuple(leaf.shape)}"))
                elif count := differing(own, leaf):
                    found.append((leaf_name, f"{count} of {leaf.numel()} stored values are not the given ones"))
        return found

    def telling(self) -> list[int]:
        """Return the positions of the leaves whose influence is looked at."""
        return list(range(len(self.arguments.leaves)))

    def untaken(self) -> list[str]:
        """Return the names of tensors that the function is given and the file is not, nor holds."""
        return []

    def stored_data(self) -> list[Path]:
        """Return the data files that the file's tensors lie in."""
        header = protobuf_wire.read_header(self.file)
        return list(stored_tensors.data_files(self.file, stored_tensors.find(self.file, header)))


def differing(stored: torch.Tensor, given: torch.Tensor) -> int:
    """Count the values of a stored tensor that are not the given ones, or the cast of them, bit for bit."""
    if stored.shape != given.shape:
        return given.numel()
    given = given.cpu().to(stored.dtype)
    same = stored == given
    if stored.is_floating_point():
        same |= stored.isnan() & given.isnan()
    return int((~same).sum())


def _mismatches(
    kind: str, values: Sequence[onnx.ValueInfoProto], wanted: dict[str, tuple[torch.dtype, list[Any]]]
) -> list[tuple[str, str]]:
    """Compare what a graph declares with what the function takes or gives; None as a size leaves it open."""
    names = [value.name for value in values]
    if names != list(wanted):
        return [("(all)", f"the file's {kind} are {', '.join(names)}; the function's {', '.join(wanted)}")]
    found = []
    for value in values:
        dtype, sizes = wanted[value.name]
        kind_of = value.type.tensor_type.elem_type
        if kind_of != int(ONNX_TYPES[dtype]):
            declared = onnx.TensorProto.DataType.Name(kind_of).lower()
            found.append((value.name, f"declared {declared}, expected {dtype_name(dtype)}"))
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(dims) != len(sizes):
            found.append((value.name, f"declared with {len(dims)} axes, expected {len(sizes)}"))
        elif any(isinstance(size, (int, str)) and size != dim for size, dim in zip(sizes, dims, strict=True)):
            found.append((value.name, f"declared {dims}, expected {sizes}"))
    return found
