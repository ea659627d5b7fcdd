"""What onnx's checker says about a model, as a typed error where a user can do something about it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator

import onnx

from export.errors import UnsupportedOpError
from export.graph.node_notes import CAST_HINT, read_notes, unsupported

__all__ = ["check", "skeleton"]

_MIN_OMITTED_BYTES = 2**10
"""Bytes from which a tensor's values are of no use to shape inference: it reads axes, sizes and the like."""

_MISTYPED = re.compile(
    r"op_type:(\w+), node name: ([^)]*)\): \w+ typestr: (\w+), has unsupported type: tensor\((\w+)\)"
)


def check(model: onnx.ModelProto, path: str | os.PathLike[str] | None = None) -> None:
    """Check a model, or the file that it was written to, which has to be seen with the data file beside it.

    The values of large tensors are left out of what is checked, because the checker copies all that it is given.

    Raises:
        UnsupportedOpError: if an operator does not exist for the dtype that it gets in the model's opset, or the
            model's dtypes or shapes contradict each other.
    """
    try:
        onnx.checker.check_model(skeleton(model) if path is None else os.fspath(path), full_check=True)
    except onnx.shape_inference.InferenceError as error:
        found = _MISTYPED.search(str(error))
        if found is None:
            raise _refused(model, error) from error
        kind, name, parameter, dtype = found.groups()
        opset = next(entry.version for entry in model.opset_import if not entry.domain)
        later = _first_opset(kind, parameter, dtype, opset)
        way = f"opset {later} has it (to_onnx(…, opset={later})), or " if later else ""
        message = f"ONNX opset {opset} has no {kind} for {dtype} (node {name!r}); {way}{CAST_HINT}"
        raise unsupported(message, kind, _notes_of(model, name), dtype) from error


def _refused(model: onnx.ModelProto, error: Exception) -> UnsupportedOpError:
    """Return the error for a model whose dtypes or shapes contradict each other."""
    named = re.search(r"op_type:(\w+)(?:, node name: ([^)]*))?\)", str(error))
    kind, name = named.groups("") if named else ("", "")
    return unsupported(
        f"the translation is no valid ONNX at node {name!r} ({kind}), a fault of this package or of onnxscript: report "
        f"it with the function, or write the operation with others. onnx says: {error}".rstrip(),
        kind,
        _notes_of(model, name) if name else {},
    )


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its large tensors, and those not in it, as inputs of the same name, dtype and shape.

    Raises:
        onnx.checker.ValidationError: if a large tensor holds more or fewer bytes than its shape takes.
    """
    graph = model.graph
    inside = [tensor for tensor in graph.initializer if len(tensor.raw_data) >= _MIN_OMITTED_BYTES]
    large = [*inside, *(tensor for tensor in graph.initializer if tensor.external_data)]
    if not large:
        return model
    for tensor in inside:
        if onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * math.prod(tensor.dims) != len(
            tensor.raw_data
        ):
            raise onnx.checker.ValidationError(
                f"tensor {tensor.name} of shape {list(tensor.dims)} has {len(tensor.raw_data)} bytes"
            )
    light = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        metadata_props=model.metadata_props,
    )
    names = {tensor.name for tensor in large}
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in names)
    light.graph.input.extend(graph.input)
    light.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in large
    )
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    return light


def _notes_of(model: onnx.ModelProto, name: str) -> dict[str, str]:
    """Return the notes of the node of that name, none if there is no such node."""
    node = next((node for node in _nodes(model) if node.name == name), onnx.NodeProto())
    return read_notes(node)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _first_opset(kind: str, parameter: str, dtype: str, above: int) -> int | None:
    """Return the first opset above one in which an operator takes a dtype."""
    for opset in range(above + 1, onnx.defs.onnx_opset_version() + 1):
        constraints = onnx.defs.get_schema(kind, opset).type_constraints
        if any(c.type_param_str == parameter and f"tensor({dtype})" in c.allowed_type_strs for c in constraints):
            return opset
    return None
