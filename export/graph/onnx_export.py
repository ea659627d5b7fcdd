"""`to_onnx`: an ONNX file that is a pure function, with its names and pytree structure inside."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from export.devices.cuda_builder import CudaBuilder
from export.devices.cuda_check import raise_unless_on_cuda
from export.errors import ArgumentError, UnsupportedOpError, WriteError
from export.files import data_file, digest, saving, splicing
from export.files.data_file import DataFile
from export.files.protobuf_wire import CALL_KEY
from export.graph.builder import Builder
from export.graph.call_metadata import decided_branches, describe_call
from export.graph.checking import check as check_model
from export.graph.functions.function_calls import DOMAIN
from export.graph.functions.function_inlining import is_constant
from export.graph.functions.function_outline import outline
from export.graph.lowering import lower_graph, reads, swept
from export.graph.older_opsets import IR_VERSIONS, OLDEST, WRITTEN, convert_to_older
from export.graph.onnx_types import ONNX_TYPES, dtype_name
from export.ops.registry import LOWERINGS, lowering
from export.runtime.environment import version_of
from export.trace import isolation
from export.trace.aten_graph import Traced, trace
from export.trace.neutral_factors import drop_neutral_factors
from pure_export_shared import HtmlText, replacing

if TYPE_CHECKING:  # as in `Exported.load`
    from export.runtime.loaded_file import Loaded

__all__ = ["DEFAULT_OPSET", "OPSETS", "Exported", "build", "count_nodes", "to_onnx", "translate"]

DEFAULT_OPSET = 20
OPSETS = range(OLDEST, 24)
"""The opsets that a file may have; those below 18 are converted, node by node, from 18."""

TARGETS = (None, "cpu", "cuda")
TARGET_KEY = "pure_export.target"
"""The metadata entry that names the device whose forms were chosen."""


@dataclasses.dataclass(frozen=True)
class Exported(HtmlText):
    """What an export wrote.

    Attributes:
        path: the file.
        inputs: names of the graph's inputs, in order.
        outputs: names of its outputs, in order.
        fixed: names of the tensors that are inside the file: baked arguments and captured tensors.
        nodes: number of ONNX nodes, those of branches included, and those of a function for each of its calls.
        opset: the ONNX opset.
        size: bytes of the file, and of the data file if there is one.
        data: the data file beside it that holds its large tensors, None if there is none.
        functions: names of the ONNX functions that stand for repeated blocks.
        decided: Python branches on tensors' values that an installed package takes, each with its line and what the
            file does there: it computes both outcomes, or takes one after whose opposite the package raises an error.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fixed: tuple[str, ...]
    nodes: int
    opset: int
    size: int
    data: Path | None = None
    functions: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()

    def load(self, device: str = "auto") -> Loaded:
        """Load the file; see `export.load`."""
        from export.runtime.loading import load  # an export needs no ONNX Runtime

        return load(self.path, device=device)

    def __str__(self) -> str:
        branches = "".join(f"\n  branch on a value: {line}" for line in self.decided)
        return (
            f"{self.path} ({self.size / 1024:.1f} KiB): {self.nodes} nodes, opset {self.opset}, "
            f"{len(self.inputs)} inputs, {len(self.outputs)} outputs, {len(self.fixed)} tensors inside{branches}"
        )


def to_onnx(
    fn: Callable[..., Any],
    args: Sequence[Any],
    path: str | os.PathLike[str],
    *,
    bake: Sequence[int] = (),
    dynamic: Sequence[Any] | None = None,
    opset: int | None = None,
    functions: bool = True,
    external: bool | int | None = None,
    target: str | None = None,
) -> Exported:
    """Write a pure function as an ONNX file.

    Args:
        fn: any pure function over pytrees of tensors: a block, a loss, a lambda.
        args: its positional arguments, as examples. Tensors become inputs named by their dotted path
            (`params.fc1.weight`); static Python numbers and strings are fixed at their value.
        path: the file to write. It appears whole or not at all.
        bake: positions of arguments whose tensors are fixed in the file; the loaded function takes the others.
        dynamic: one entry an argument in the style of vmap's `in_dims`: None, `{axis: name}` for all of its leaves,
            or a pytree prefix of such. The same name means the same size.
        opset: the ONNX opset, 13 to 23; 20 by default. Below 18 onnx's version converter takes part.
        functions: whether repeated blocks become ONNX functions, each called once a block; never below opset 18.
        external: whether large tensors go into a data file beside the model, `model.onnx.<digest>.data`: None where
            the model would exceed 2 GB, which no ONNX file may; True for tensors from 1 KiB on; a number for tensors
            of at least so many bytes; False never. Both files belong together; move them together.
        target: the device that the file is for. "cpu" and "cuda" choose forms that are fast there, such as products of
            windows or convolutions for a convolution's derivative, and the metadata says which; any device runs the
            file. With "cuda" no node that computes on data may need the CPU, or nothing is written. None chooses for
            neither.

    Returns:
        What was written.

    Raises:
        ArgumentError: if `args`, `bake`, `dynamic`, `opset` or `external` do not fit.
        WriteError: if the path cannot be written, or the file would exceed 2 GB with `external=False`.
        TracingError: if the function depends on tensor values in Python.
        SpecialisedSizeError: if it works for one value of a dynamic size only.
        MutationError: if it changes an argument.
        RandomOpError: if it draws random numbers.
        UnsupportedOpError: if an operation has no ONNX form, or with `target="cuda"` no kernel there.

    Example:
        >>> import tempfile, torch
        >>> def double(x):
        ...     return {"twice": 2 * x}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = to_onnx(double, (torch.ones(3),), folder + "/double.onnx", dynamic=({0: "n"},))
        ...     exported.inputs, exported.outputs
        (('x',), ('out.twice',))
    """
    aside: dict[str, ir.TensorProtocol] = {}
    with data_file.beside(path) as data, replacing(path, WriteError) as file:
        proto, fixed = build(
            fn,
            args,
            bake=bake,
            dynamic=dynamic,
            opset=opset,
            functions=functions,
            data=data,
            external=external,
            aside=aside,
            target=target,
        )
        place = digest.blank(len(proto.graph.initializer), 0 if data.path is None else 1)
        pieces = [place, *saving.written(proto.SerializeToString(), aside)]
        for piece in pieces:
            file.writelines(piece.chunks())
        if data.path is not None:
            file.flush()
            check_model(proto, file.name)
        digest.stamp(file)
    return Exported(
        path=Path(path),
        inputs=tuple(value.name for value in proto.graph.input),
        outputs=tuple(value.name for value in proto.graph.output),
        fixed=fixed,
        nodes=count_nodes(proto.graph, proto.functions),
        functions=tuple(function.name for function in proto.functions),
        opset=proto.opset_import[0].version,
        size=splicing.total(pieces) + data.size,
        data=data.path,
        decided=decided_branches(proto),
    )


def build(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    bake: Sequence[int] = (),
    dynamic: Sequence[Any] | None = None,
    opset: int | None = None,
    functions: bool = True,
    data: DataFile | None = None,
    external: bool | int | None = None,
    aside: dict[str, ir.TensorProtocol] | None = None,
    target: str | None = None,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Trace, translate and check a function; return the model and the names of the tensors inside it.

    A model with a data file is not checked here, because the checker wants to see both as files.
    """
    saving.threshold(external)
    opset = DEFAULT_OPSET if opset is None else opset
    if opset not in OPSETS:
        raise ArgumentError(f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}, got {opset!r}")
    if target not in TARGETS:
        raise ArgumentError(f"target must be 'cpu', 'cuda' or None, got {target!r}")
    baked = baked_positions(bake, len(args) if isinstance(args, (tuple, list)) else 0)
    with isolation.uncollected():
        traced = trace(fn, args, dynamic, LOWERINGS)
        return translate(
            traced, baked, opset, functions=functions, data=data, external=external, aside=aside, target=target
        )


def baked_positions(bake: Sequence[int], count: int) -> frozenset[int]:
    """Check `bake` and return its positions counted from the front."""
    if isinstance(bake, int) or any(not isinstance(i, int) or not -count <= i < count for i in bake):
        raise ArgumentError(
            f"bake must be a tuple of argument positions from 0 to {count - 1}, got {bake!r}; write bake=(0,)"
        )
    return frozenset(i % count for i in bake)


def translate(
    traced: Traced,
    baked: frozenset[int],
    opset: int,
    *,
    check: bool = True,
    target: str | None = None,
    functions: bool = False,
    data: DataFile | None = None,
    external: bool | int | None = False,
    aside: dict[str, ir.TensorProtocol] | None = None,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Turn a recorded function into an ONNX model, which the checker accepts.

    Where `aside` is given, large tensors go there by their names, and the model holds their descriptions alone.
    """
    arguments = traced.arguments
    if target != "cuda":
        drop_neutral_factors(traced.graph)
    written = max(opset, WRITTEN)
    g = (CudaBuilder if target == "cuda" else Builder)(traced.sizes, written, lowering, target)
    g.reserve([*arguments.leaf_names, *traced.out_names])
    g.captured_names = traced.constants
    placeholders = traced.graph.graph.find_nodes(op="placeholder")
    inputs: list[ir.Value] = []
    fixed_names = {}
    for i, (placeholder, name) in enumerate(zip(placeholders, arguments.leaf_names, strict=True)):
        leaf = arguments.leaves[i]
        if leaf.dtype not in ONNX_TYPES:
            raise UnsupportedOpError(
                f"{name} has dtype {leaf.dtype}, which an exported file cannot hold",
                op="input",
                dtype=dtype_name(leaf.dtype),
            )
        if arguments.owner[i] in baked:
            if arguments.axes[i]:
                raise ArgumentError(f"{name} is both baked and dynamic; a baked tensor's size is fixed")
            g.values[placeholder] = g.initializer(name, leaf)
            fixed_names[i] = name
            continue
        dims = [arguments.axes[i].get(axis, int(size)) for axis, size in enumerate(leaf.shape)]
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(ONNX_TYPES[leaf.dtype]))
        g.dtypes[value] = leaf.dtype
        g.values[placeholder] = value
        inputs.append(value)
    results = lower_graph(g, traced.graph)
    examples = traced.outputs
    outputs = _name_outputs(g, inputs, results, traced.out_names, examples)
    nodes = swept(g.scopes[0].nodes, outputs)
    used = {value for node in nodes for value in reads(node)}
    kept = set(fixed_names.values())  # a file is a checkpoint: baked tensors that nothing reads stay as well
    initializers = [value for name, value in g.initializers.items() if value in used or name in kept]
    graph = ir.Graph(
        inputs, outputs, nodes=nodes, initializers=initializers, opset_imports={"": written}, name=traced.name
    )
    model = ir.Model(
        graph,
        ir_version=IR_VERSIONS[written],
        producer_name="pure-export",
        producer_version=version_of("pure-export") or "unknown",
    )
    call = describe_call(traced, baked)
    model.metadata_props[CALL_KEY] = json.dumps(call, separators=(",", ":"))
    if target is not None:
        model.metadata_props[TARGET_KEY] = target
    if data is not None:
        saving.move_out(model, data, external)
    saving.check_size(model)
    if aside is not None:
        aside.update(saving.set_aside(model))
    proto = ir.to_proto(model)
    if opset < written:
        proto, functions = convert_to_older(proto, opset), False
    if check and target == "cuda":
        raise_unless_on_cuda(proto)
    if functions:
        outline(proto, arguments.leaf_names)
    if check and (data is None or data.path is None):
        check_model(proto)
    return proto, tuple(value.name or "" for value in initializers if not (value.name or "").startswith("constant."))


def _name_outputs(
    g: Builder, inputs: Sequence[ir.Value], results: Sequence[ir.Value], names: Sequence[str], examples: Sequence[Any]
) -> list[ir.Value]:
    """Give the outputs their names; one that is an input, a constant or another output goes through an Identity."""
    own = {output for node in g.scopes[0].nodes for output in node.outputs}
    g.origin = None
    outputs: list[ir.Value] = []
    for result, name, example in zip(results, names, examples, strict=True):
        value = result
        if value not in own or value in outputs:
            g.scopes[0].computed.clear()
            value = g.op("Identity", value)
        value.name = name
        value.shape = ir.Shape([g.sizes.dimension(size) for size in example.shape])
        outputs.append(value)
    return outputs


def count_nodes(graph: onnx.GraphProto, functions: Sequence[onnx.FunctionProto] = ()) -> int:
    """Count nodes, those of branches included, and those of a function for each of its calls."""
    bodies = {function.name: function for function in functions}
    count = 0
    for node in graph.node:
        body = bodies[node.op_type].node if node.domain == DOMAIN else [node]
        for inner in body:
            count += not is_constant(inner)
            count += sum(count_nodes(attribute.g) for attribute in inner.attribute if attribute.HasField("g"))
    return count
