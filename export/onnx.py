"""``to_onnx``: an ONNX file that is a pure function, with its names and pytree structure inside."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from export import writing
from export.errors import ArgumentError, UnsupportedOpError, WriteError
from export.lowering import TABLE, lower_nodes
from export.lowering.builder import ONNX_TYPES, Builder, dtype_name
from export.trace import Traced, trace

if TYPE_CHECKING:
    from export.runtime import Loaded

FORMAT = 1
"""Version of the metadata written into files."""

DEFAULT_OPSET = 20
OPSETS = range(18, 24)
CALL_KEY = "pure_export.call"


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: The file.
        inputs: Names of the graph's inputs, in order.
        outputs: Names of its outputs, in order.
        fixed: Names of the tensors that are inside the file: baked arguments and captured tensors.
        nodes: Number of ONNX nodes, those of branches included.
        opset: The ONNX opset.
        size: Bytes of the file.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fixed: tuple[str, ...]
    nodes: int
    opset: int
    size: int

    def load(self, device: str = "auto") -> Loaded:
        """Load the file; see ``export.load``."""
        from export.runtime import load

        return load(self.path, device=device)

    def __str__(self) -> str:
        return (
            f"{self.path} ({self.size / 1024:.1f} KiB): {self.nodes} nodes, opset {self.opset}, "
            f"{len(self.inputs)} inputs, {len(self.outputs)} outputs, {len(self.fixed)} tensors inside"
        )


def to_onnx(
    fn: Callable[..., Any],
    args: Sequence[Any],
    path: str | os.PathLike[str],
    bake: Sequence[int] = (),
    dynamic: Sequence[Any] | None = None,
    opset: int | None = None,
) -> Exported:
    """Write a pure function as an ONNX file.

    Args:
        fn: Any pure function over pytrees of tensors: a block, a loss, a lambda.
        args: Its positional arguments, as examples. Tensors become inputs named by their dotted path
            (``params.fc1.weight``); static Python numbers and strings are fixed at their value.
        path: The file to write. It appears whole or not at all.
        bake: Positions of arguments whose tensors are fixed in the file; the loaded function takes the others.
        dynamic: One entry an argument in the style of vmap's ``in_dims``: None, ``{axis: name}`` for all of its leaves,
            or a pytree prefix of such. The same name means the same size.
        opset: The ONNX opset, 18 to 23; 20 by default.

    Returns:
        What was written.

    Raises:
        ArgumentError: If ``args``, ``bake``, ``dynamic`` or ``opset`` do not fit.
        WriteError: If the path cannot be written, or the file would exceed 2 GB.
        TracingError: If the function depends on tensor values in Python.
        SpecialisedSizeError: If it works for one value of a dynamic size only.
        MutationError: If it changes an argument.
        RandomOpError: If it draws random numbers.
        UnsupportedOpError: If an operation has no ONNX form.

    Example:
        >>> import tempfile, torch
        >>> def double(x):
        ...     return {"twice": 2 * x}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = to_onnx(double, (torch.ones(3),), folder + "/double.onnx", dynamic=({0: "n"},))
        ...     exported.inputs, exported.outputs
        (('x',), ('out.twice',))
    """
    with writing.replacing(path) as file:
        proto, fixed = build(fn, args, bake=bake, dynamic=dynamic, opset=opset)
        content = proto.SerializeToString()
        file.write(content)
    return Exported(
        path=Path(path),
        inputs=tuple(value.name for value in proto.graph.input),
        outputs=tuple(value.name for value in proto.graph.output),
        fixed=fixed,
        nodes=count_nodes(proto.graph),
        opset=proto.opset_import[0].version,
        size=len(content),
    )


def build(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    bake: Sequence[int] = (),
    dynamic: Sequence[Any] | None = None,
    opset: int | None = None,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Trace, translate and check a function; return the model and the names of the tensors inside it."""
    opset = DEFAULT_OPSET if opset is None else opset
    if opset not in OPSETS:
        raise ArgumentError(f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}, got {opset!r}")
    baked = baked_positions(bake, len(args) if isinstance(args, (tuple, list)) else 0)
    return translate(trace(fn, args, dynamic, TABLE), baked, opset)


def baked_positions(bake: Sequence[int], count: int) -> frozenset[int]:
    """Check ``bake`` and return its positions counted from the front."""
    if isinstance(bake, int) or any(not isinstance(i, int) or not -count <= i < count for i in bake):
        raise ArgumentError(
            f"bake must be a tuple of argument positions from 0 to {count - 1}, got {bake!r}; write bake=(0,)"
        )
    return frozenset(i % count for i in bake)


def translate(
    traced: Traced, baked: frozenset[int], opset: int, *, check: bool = True
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Turn a recorded function into an ONNX model, which the checker accepts."""
    arguments = traced.arguments
    g = Builder(traced.sizes, opset)
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
    results = lower_nodes(g, traced.graph)
    examples = traced.outputs
    outputs = _name_outputs(g, inputs, results, traced.out_names, examples)
    nodes = swept(g.scopes[0].nodes, outputs)
    used = {value for node in nodes for value in _reads(node)}
    initializers = [value for value in g.initializers.values() if value in used]
    if (
        sum(value.const_value.nbytes for value in initializers if value.const_value is not None)
        > writing.LARGEST - 2**24
    ):
        raise WriteError(
            "the tensors inside the file exceed 2 GB, the most that one ONNX file can hold; bake fewer arguments"
        )
    graph = ir.Graph(
        inputs, outputs, nodes=nodes, initializers=initializers, opset_imports={"": opset}, name=traced.name
    )
    model = ir.Model(graph, ir_version=10, producer_name="pure-export", producer_version=_version("pure-export"))
    call = _call(traced, baked, examples, g)
    model.metadata_props[CALL_KEY] = json.dumps(call, separators=(",", ":"))
    proto = ir.to_proto(model)
    if check:
        onnx.checker.check_model(proto, full_check=True)
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


def _reads(node: ir.Node) -> set[ir.Value]:
    """Values that a node uses, those used inside its branches included."""
    found = {value for value in node.inputs if value is not None}
    for attribute in node.attributes.values():
        if isinstance(attribute.value, ir.Graph):
            for inner in attribute.value:
                found |= _reads(inner)
            found |= set(attribute.value.outputs)
    return found


def swept(nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> list[ir.Node]:
    """Drop nodes that no output needs."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            for attribute in node.attributes.values():
                if isinstance(attribute.value, ir.Graph):
                    inner = swept(list(attribute.value), attribute.value.outputs)
                    attribute.value.remove([n for n in attribute.value if n not in set(inner)])
            kept.append(node)
            needed |= _reads(node)
    return kept[::-1]


def _call(traced: Traced, baked: frozenset[int], examples: Sequence[Any], g: Builder) -> dict[str, Any]:
    """Everything that rebuilds the call from the file alone."""
    arguments = traced.arguments
    leaves = [
        {
            "name": name,
            "dtype": dtype_name(leaf.dtype),
            "shape": [arguments.axes[i].get(axis, int(size)) for axis, size in enumerate(leaf.shape)],
            "baked": arguments.owner[i] in baked,
        }
        for i, (name, leaf) in enumerate(zip(arguments.leaf_names, arguments.leaves, strict=True))
    ]
    outputs = [
        {"name": name, "dtype": dtype_name(x.dtype), "shape": [g.sizes.dimension(size) for size in x.shape]}
        for name, x in zip(traced.out_names, examples, strict=True)
    ]
    return {
        "format": FORMAT,
        "function": traced.name,
        "arguments": [
            {"name": name, "structure": structure, "baked": i in baked}
            for i, (name, structure) in enumerate(zip(arguments.names, arguments.structures, strict=True))
        ],
        "leaves": leaves,
        "out": {"structure": traced.out_structure, "leaves": outputs},
        "dynamic": sorted(traced.sizes.named),
        "versions": {name: _version(name) for name in ("pure-export", "torch", "onnx", "onnx-ir")},
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def count_nodes(graph: onnx.GraphProto) -> int:
    """Count nodes, those of branches included."""
    inner = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    return len(graph.node) + sum(count_nodes(branch) for branch in inner)
