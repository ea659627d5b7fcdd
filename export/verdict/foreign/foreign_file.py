"""A file that anyone wrote, beside the function or module that it should compute.

Nothing of this library has to be in the file. Its inputs are matched with the tensors of an example call by name, else
by order, else as the caller says; so are its outputs. Tensors of the call that the file does not take as inputs are
taken to be inside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.fx import GraphModule

from export.files.checkpoint import weights
from export.files.pytree_structure import Structure, describe
from export.graph.functions.function_inlining import inline
from export.graph.model_file import read_model
from export.graph.onnx_types import ONNX_TYPES, dtype_name
from export.ops.registry import LOWERINGS
from export.runtime import loading
from export.runtime.loaded_file import Loaded
from export.trace import isolation
from export.trace.arguments import Arguments, is_tensor
from export.trace.aten_graph import Traced, record
from export.verdict import branch_forcing
from export.verdict.foreign.eager_noise import measure_eager
from export.verdict.foreign.flat_call import FlatCall
from export.verdict.foreign.matching import matched_inputs, matched_outputs, named_axes
from export.verdict.foreign.samples import sample_leaves
from export.verdict.judged_file import JudgedFile, differing
from export.verdict.monte_carlo import RUNS
from export.verdict.reference_runs import run
from export.verdict.sampled import Scales

__all__ = ["ForeignFile"]

UNRECORDABLE = (RuntimeError, TypeError, ValueError, AssertionError, LookupError, AttributeError, NotImplementedError)
"""What recording a function of someone else's may end in."""


class ForeignFile(JudgedFile):
    """A file of any writer beside a function or module.

    Args:
        call: the function or module with its example call.
        file: the file.
        inputs: {file input: position or dotted name of a tensor of the call}; what it leaves out is matched by name,
            else by order.
        dynamic: the dynamic axes: one entry per positional argument, or {tensor's name: {axis: size name}}. None
            takes those that the file names.
        device: where the file runs.
        tf32: whether the file may round products to TF32 on a GPU.

    Attributes:
        notes: what the reader of a verdict should know of how it was made.

    Raises:
        ArgumentError: if the file's inputs cannot be matched with the call's tensors.
    """

    def __init__(
        self,
        call: FlatCall,
        file: Path,
        *,
        inputs: Mapping[str, int | str] | None = None,
        dynamic: Sequence[Any] | Mapping[str, Any] | None = None,
        device: str = "auto",
        tf32: bool = False,
    ) -> None:
        self.fn, self.file, self.device, self.tf32 = call, file, device, tf32
        self.call = call
        self.notes: list[str] = []
        self.loaded = loading.open_file(file, device, spinning=False, tf32=tf32, by_name=True, check=False)
        self.model = inline(read_model(file))
        plain = call.arguments()
        self._taken = matched_inputs(self.loaded.inputs, call, plain.leaf_names, inputs, self.notes)
        self._fed = {name: plain.leaf_names.index(leaf) for name, leaf in self._taken.items()}
        axes, self._size_problems = named_axes(self.model.graph, self._taken, call, dynamic)
        self.arguments = call.arguments(axes)
        self.baked = frozenset({0} if call.weights else ())
        self._example = run(call, self.arguments, self.arguments.leaves)
        names = [name.partition(".")[2] for name in self._example.names]
        self._given, self._output_problems = matched_outputs([o.name for o in self.loaded.outputs], names, self.notes)
        self._graphs: dict[tuple[torch.Size, ...], GraphModule | None] = {}
        self.traced = self._recorded()
        self._conditions = self._matched_conditions()

    def variant(self, model: onnx.ModelProto) -> Loaded:
        """Load a changed copy of the model."""
        content = model.SerializeToString()
        return loading.open_file(
            self.file, self.device, spinning=False, variant=content, tf32=self.tf32, by_name=True, check=False
        )

    def given(self, leaves: Sequence[Tensor]) -> list[Any]:
        """Return the arguments that the file takes: one dictionary by the names of its inputs."""
        return [self.feed(leaves)]

    def sample(self, sample: Sequence[Any] | Mapping[str, Any], named: str) -> list[Tensor]:
        """Return the leaves of further inputs, given as the call's arguments or by the names of either side."""
        if isinstance(sample, Mapping):
            tensors = {self._taken.get(name, name): value for name, value in sample.items()}
        else:
            other = FlatCall(self.call.fn, tuple(sample))
            tensors = dict(zip(other.names, other.leaves, strict=True))
        own = [name for name in self.arguments.leaf_names if name not in self.call.names]
        held = dict(zip(own, self.arguments.leaves, strict=False))
        arguments = dataclasses.replace(self.arguments, owner=(*[0] * len(held), *[1] * len(self.call.names)))
        return sample_leaves(arguments, tensors, named)

    def feed(self, leaves: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return {file input: tensor}."""
        return {name: leaves[position] for name, position in self._fed.items()}

    def output_positions(self) -> dict[str, int]:
        """Return {file output: its position among the function's}."""
        names = [name.partition(".")[2] for name in self._example.names]
        return {output: names.index(name) for name, output in self._given.items()}

    def results(self, loaded: Loaded, leaves: Sequence[Tensor]) -> tuple[Structure, list[Tensor], list[str]]:
        """Run the file, or a variant of it; return the structure, tensors and names of what it gives."""
        with torch.no_grad():
            found = loaded(*self.given(leaves))
        named = {name: found[output] for name, output in self._given.items()}
        return describe(named, is_tensor, self.arguments.out_root)

    def conditions(self) -> list[branch_forcing.Condition]:
        """Return every `If` of the file whose branches the reference can be made to take."""
        return self._conditions

    def scales(
        self,
        leaves: Sequence[Tensor],
        forced: Mapping[str, bool] | None = None,
        *,
        runs: int = RUNS,
        open_decisions: bool = True,
        wanted: Collection[str] = (),
        follow: Mapping[str, Tensor] | None = None,
        unit: float | None = None,
    ) -> Scales:
        """Measure the reference and its rounding scales, by the recorded graph or, where there is none, eagerly."""
        graph = self.graph(leaves)
        if graph is None:
            with isolation.restored():
                return measure_eager(self.call, self.arguments, leaves, runs=runs)
        return super().scales(
            leaves, forced, runs=runs, open_decisions=open_decisions, wanted=wanted, follow=follow, unit=unit
        )

    def graph(self, leaves: Sequence[Tensor]) -> GraphModule | None:
        """Return the function's recorded graph at these sizes, None if it cannot be recorded."""
        if self.traced is not None and not self._fixed and self._only_dynamic(leaves):
            return self.traced.graph
        sizes = tuple(leaf.shape for leaf in leaves)
        if sizes not in self._graphs:
            self._graphs[sizes] = getattr(self._try(self.call.arguments(), leaves), "graph", None)
        return self._graphs[sizes]

    def _only_dynamic(self, leaves: Sequence[Tensor]) -> bool:
        """Tell whether these tensors differ from the example's in their dynamic sizes only."""
        examples = zip(leaves, self.arguments.leaves, self.arguments.axes, strict=True)
        return all(
            leaf.shape[i] == example.shape[i]
            for leaf, example, axes in examples
            for i in range(leaf.dim())
            if i not in axes
        )

    def interface_problems(self) -> list[tuple[str, str]]:
        """Return (name, what is wrong) for the file's inputs and outputs: dtypes, declared sizes, missing and extra."""
        found = list(self._size_problems)
        leaves = dict(zip(self.arguments.leaf_names, self.arguments.leaves, strict=True))
        declared = {value.name: value for value in (*self.model.graph.input, *self.model.graph.output)}
        for name, leaf_name in self._taken.items():
            found += _declared(declared[name], leaves[leaf_name])
        for name, leaf in zip(self._example.names, self._example.leaves, strict=True):
            output = self._given.get(name.partition(".")[2])
            if output is not None:
                found += _declared(declared[output], leaf)
        return found + self._output_problems

    def weight_problems(self) -> list[tuple[str, str]]:
        """Return (name, what is wrong) for a module's tensors inside the file, if it holds every one of them.

        Another writer may fold one tensor into another under the name of the first; then values say nothing.
        """
        inside = self.stored()
        if not self.call.weights or not all(name in inside for name in self.call.weights):
            return []
        return [
            (name, f"{count} of {tensor.numel()} stored values are not the given ones")
            for name, tensor in self.call.weights.items()
            if (count := differing(inside[name], tensor))
        ]

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors inside the file by name."""
        _, tensors, names = describe(weights(self.file, "torch", check=False), is_tensor, "")
        return dict(zip((name.removeprefix(".") for name in names), tensors, strict=True))

    def telling(self) -> list[int]:
        """Return the positions of the leaves whose influence is looked at: not a module's counters."""
        leaves = zip(self.arguments.leaves, self.arguments.owner, strict=True)
        return [i for i, (leaf, owner) in enumerate(leaves) if owner or leaf.is_floating_point()]

    def untaken(self) -> list[str]:
        """Return tensors of the call that a module is given and the file is not."""
        if not self.call.weights:
            return []
        return [name for name in self.call.names if name not in self._taken.values()]

    def _recorded(self) -> Traced | None:
        """Record the function with the file's dynamic sizes, else with fixed ones, else not at all."""
        self._fixed = False
        found = self._try(self.arguments, self.arguments.leaves)
        if found is None and any(self.arguments.axes):
            self._fixed = True
            found = self._try(self.call.arguments(), self.arguments.leaves)
            self._graphs[tuple(leaf.shape for leaf in self.arguments.leaves)] = getattr(found, "graph", None)
        if found is None:
            self.notes.append(
                "the function cannot be recorded: the rounding scales are taken from eager runs in float64 with "
                f"random roundings, and open decisions are not followed ({self._why})"
            )
        return found

    def _try(self, arguments: Arguments, leaves: Sequence[Tensor]) -> Traced | None:
        try:
            return record(self.call, dataclasses.replace(arguments, leaves=tuple(leaves)), LOWERINGS)
        except UNRECORDABLE as error:
            self._why = next(iter(str(error).splitlines()), "") or type(error).__name__
            return None

    def _matched_conditions(self) -> list[branch_forcing.Condition]:
        """Match the file's `If` nodes with the recorded conditions, in order, where there are as many."""
        inside = [node for node in self.model.graph.node if node.op_type == "If"]
        if not inside:
            return []
        cond = torch.ops.higher_order.cond
        nodes = [] if self.traced is None else [n for n in self.traced.graph.graph.nodes if n.target is cond]
        if len(nodes) != len(inside):
            self.notes.append(f"the branches of {len(inside)} If nodes were judged on the given inputs only")
            return []
        for node, recorded in zip(inside, nodes, strict=True):
            node.metadata_props.add(key="fx", value=recorded.name)
        return [c for c in branch_forcing.conditions(self.model.graph) if not c.within]


def _declared(value: onnx.ValueInfoProto, tensor: Tensor) -> list[tuple[str, str]]:
    """Compare what a graph declares of a value with an example of it."""
    kind, found = value.type.tensor_type, []
    if tensor.dtype not in ONNX_TYPES or kind.elem_type != int(ONNX_TYPES[tensor.dtype]):
        declared = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        found.append((value.name, f"declared {declared}, expected {dtype_name(tensor.dtype)}"))
    if kind.HasField("shape"):
        dims = kind.shape.dim
        if len(dims) != tensor.dim():
            found.append((value.name, f"declared with {len(dims)} axes, expected {tensor.dim()}"))
        elif any(d.HasField("dim_value") and d.dim_value != n for d, n in zip(dims, tensor.shape, strict=True)):
            text = [d.dim_param or d.dim_value for d in dims]
            found.append((value.name, f"declared {text}, the example's are {list(tensor.shape)}"))
    return found
