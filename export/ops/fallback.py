"""Operators without a lowering here: onnxscript's functions, so that nothing torch.onnx can do is lost.

They are called with PyTorch's op recorder, which is private; where it is missing or raises, the operation counts as
unsupported, as it would without this file.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnxscript
import torch
from torch.fx import Node

from export.graph.builder import Builder
from export.graph.onnx_types import ONNX_TYPES

__all__ = ["NO_WHILE", "lower"]

try:
    from torch.onnx._internal.exporter import _building, _dispatching, _errors, _registration, _tensors
except ImportError:  # another PyTorch: do without
    _building = None  # type: ignore[assignment]

LIBRARY_OPSET = 18
"""The opset that onnxscript's functions are written for."""

NEVER = frozenset({"aten::as_strided", "aten::as_strided_copy", "aten::as_strided_scatter", "aten::resize"})
"""Operators that read memory by strides, which an ONNX tensor does not have."""


NO_WHILE = (
    "a loop whose end depends on values has no form here; pure.scan runs a fixed number of steps, in which torch.where "
    "keeps a state that is done"
)
"""What to do instead of `while_loop`."""


def _integers(node: Node) -> str:
    example = node.args[0].meta["val"] if isinstance(node.args[0], Node) else None
    wrong = isinstance(example, torch.Tensor) and not example.is_floating_point()
    return "onnxscript's function for it takes floating point alone: cast the argument" if wrong else ""


WRONG: dict[str, Callable[[Node], str]] = {
    "aten::angle": _integers,
}
"""{operator: says why onnxscript's function is wrong for a node's arguments, or nothing where it is right}."""


LAYOUT_ARGUMENTS = {
    *("C", "HxW", "cudnn_enable", "cudnn_enabled", "device", "implicit", "layout", "memory_format", "non_blocking"),
    *(
        "output_size",
        "path",
        "pin_memory",
        "return_debug_mask",
        "scale_grad_by_freq",
        "sparse",
        "sparse_grad",
        "stride",
    ),
}
"""Arguments that a forward result does not depend on: where and how it is stored, and sizes that others imply."""


@functools.cache
def _unread(function: Any) -> frozenset[str]:
    """Return the names of the parameters that the body of one of onnxscript's functions never reads."""
    inner = inspect.unwrap(getattr(function, "func", None) or getattr(function, "function", None) or function)
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(inner))).body
    except (OSError, TypeError, SyntaxError):
        return frozenset()
    parameters = {argument.arg for part in ast.walk(tree) if isinstance(part, ast.arguments) for argument in part.args}
    parameters |= {arg.arg for part in ast.walk(tree) if isinstance(part, ast.arguments) for arg in part.kwonlyargs}
    read = {name.id for name in ast.walk(tree) if isinstance(name, ast.Name)}
    return frozenset(parameters - read - LAYOUT_ARGUMENTS)


def _ignored(function: Any, node: Node) -> list[str]:
    """Return the arguments that a node gives, other than their defaults, and onnxscript's function leaves unread."""
    schema = getattr(node.target, "_schema", None)
    unread = _unread(function)
    if schema is None or not unread:
        return []
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    defaults = {argument.name: argument.default_value for argument in schema.arguments}
    return [name for name, value in given.items() if name in unread and value != defaults[name]]


@functools.cache
def _registry() -> Any:
    return _registration.ONNXRegistry.from_torchlib()


def lower(g: Builder, node: Node, *_: Any, **__: Any) -> Any:
    """Translate by onnxscript's function for the overload.

    Raises:
        UnsupportedOpError: if it has none, or its function refuses the arguments.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.name in NEVER:
        raise g.unsupported("it reads memory by strides; write it with indexing or views")
    if node.target is torch.ops.higher_order.while_loop:
        raise g.unsupported(NO_WHILE)
    wrong = WRONG[schema.name](node) if schema is not None and schema.name in WRONG else ""
    if wrong:
        raise g.unsupported(wrong)
    if _building is None:
        raise g.unsupported("this package has no ONNX form for it")
    function, _reason = _dispatching.dispatch(node, _registry())
    if function is None:
        raise g.unsupported("neither this package nor onnxscript has an ONNX form for it")
    if ignored := _ignored(function, node):
        raise g.unsupported(
            f"onnxscript's function for it ignores what is given as {', '.join(ignored)}; leave that at its default, "
            "or write the operation with others (F.interpolate: size= instead of scale_factor=)"
        )
    opset = onnxscript.values.Opset("", LIBRARY_OPSET)
    given: dict[ir.Value, ir.Value] = {}

    def convert(arg: Any) -> Any:
        if isinstance(arg, Node):
            return _stand_in(g, g.tensor(arg), arg, opset, given)
        if isinstance(arg, (list, tuple)):
            return [convert(item) for item in arg]
        if isinstance(arg, torch.dtype):
            return int(ONNX_TYPES[arg])
        return str(arg) if isinstance(arg, (torch.device, torch.layout, torch.memory_format)) else arg

    recorder = _building.OpRecorder(opset, {})  # type: ignore[abstract]
    try:
        with onnxscript.evaluator.default_as(recorder):
            results = function(*map(convert, node.args), **{key: convert(value) for key, value in node.kwargs.items()})
    except (_errors.GraphConstructionError, TypeError, ValueError, KeyError, NotImplementedError) as error:
        raise g.unsupported(f"onnxscript's function for it refuses these arguments ({error})") from error
    if recorder.functions:
        raise g.unsupported("onnxscript's form of it needs local functions")
    for recorded in recorder.nodes:
        _adopt(g, node, recorded, given)
    results = tuple(results) if isinstance(results, (list, tuple)) else results
    examples = node.meta["val"] if isinstance(results, tuple) else (node.meta["val"],)
    if isinstance(results, tuple) and len(results) != len(examples):
        raise g.unsupported(f"onnxscript's function for it gives {len(results)} results instead of {len(examples)}")
    if any(isinstance(example, torch.Tensor) and example.dtype not in ONNX_TYPES for example in examples):
        raise g.unsupported("an exported file cannot hold complex numbers; write it with real and imaginary parts")
    for value, example in zip(results if isinstance(results, tuple) else (results,), examples, strict=True):
        g.dtypes[value] = example.dtype
        value.type = ir.TensorType(ONNX_TYPES[example.dtype])
    return results


def _stand_in(g: Builder, value: ir.Value, arg: Node, opset: Any, given: dict[ir.Value, ir.Value]) -> ir.Value:
    """Wrap a value in the type that onnxscript's functions compute with."""
    example = arg.meta.get("val")
    shape = g.recorded_shape(example) if isinstance(example, torch.Tensor) else ir.Shape([])
    kind = ir.TensorType(ONNX_TYPES[g.dtypes[value]])
    symbol: ir.Value = _tensors.SymbolicTensor(opset, name=value.name, shape=shape, type=kind)
    given[symbol] = value
    return symbol


def _adopt(g: Builder, node: Node, recorded: ir.Node, given: dict[ir.Value, ir.Value]) -> None:
    """Add a recorded ONNX node to the graph, with this graph's values, names and metadata."""
    for i, value in enumerate(recorded.inputs):
        if value in given:
            recorded.replace_input_with(i, given[value])
    recorded.name = g.unique(f"{node.name}.{recorded.op_type}")
    for i, output in enumerate(recorded.outputs):
        output.name = g.unique(f"{recorded.name}:{i}")
        output.shape = None
        if output.dtype is not None:
            g.dtypes[output] = next((key for key, kind in ONNX_TYPES.items() if kind == output.dtype), torch.float32)
    notes = {"path": node.meta.get("path"), "source": node.meta.get("source"), "fx": g.prefix + node.name}
    recorded.metadata_props.update({name: text for name, text in notes.items() if text})
    g.scopes[-1].nodes.append(recorded)
