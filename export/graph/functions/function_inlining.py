"""A model with its functions put back: the flat graph that runs, whose nodes carry their whole names and paths."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import onnx
from onnx import helper

from export.graph.functions.function_bodies import inside, renamed
from export.graph.functions.function_calls import DOMAIN
from export.graph.node_notes import read_notes

__all__ = ["inline", "is_constant"]

NUMBER = re.compile(r"_\d+$")
"""What tells recorded operations of one kind apart."""


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the body of each repeated block in the place of its calls; the model is changed, and returned.

    A node's name is the call's and its own, as in `layer1.1.conv1.Conv`; so is its path. Its operation is the one
    that the call's metadata names.

    Example:
        >>> from onnx import parser
        >>> from export.graph.functions.function_outline import outline
        >>> model = parser.parse_model('''<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) {
        ...     a = Sin (x) b = Cos (a) c = Tan (b) d = Abs (c) e = Sin (d) f = Cos (e) h = Tan (f) y = Abs (h) }''')
        >>> model = onnx.shape_inference.infer_shapes(model)
        >>> for i, node in enumerate(model.graph.node):
        ...     helper.set_metadata_props(node, {"path": f"blocks.{i // 4}"})
        >>> outline(model)
        >>> [node.op_type for node in model.graph.node]
        ['blocks_block', 'blocks_block']
        >>> [node.op_type for node in inline(model).graph.node]
        ['Sin', 'Cos', 'Tan', 'Abs', 'Sin', 'Cos', 'Tan', 'Abs']
    """
    functions = {function.name: function for function in model.functions if function.domain == DOMAIN}
    if not functions:
        return model
    nodes = onnx.GraphProto(node=model.graph.node)
    names = {tensor.name for tensor in model.graph.initializer}
    del model.graph.node[:], model.functions[:]
    for node in nodes.node:
        if node.domain == DOMAIN:
            _put(model.graph, node, functions[node.op_type], names)
        else:
            model.graph.node.add().CopyFrom(node)
    opsets = onnx.ModelProto(opset_import=[opset for opset in model.opset_import if opset.domain != DOMAIN])
    del model.opset_import[:]
    model.opset_import.extend(opsets.opset_import)
    return model


def _put(graph: onnx.GraphProto, call: onnx.NodeProto, function: onnx.FunctionProto, names: set[str]) -> None:
    """Add the nodes of one call, and the constants of the body that are not among the tensors `names` yet."""
    about = read_notes(call)
    values = {name: f"{call.name}.{name}" for node in function.node for name in inside(node)}
    values.update(zip(function.input, call.input, strict=True))
    values.update(zip(function.output, call.output, strict=True))
    for node in filter(is_constant, function.node):  # the bodies have them under the names that they had in the graph
        name = values[node.output[0]] = node.output[0]
        if name not in names:
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = name
            names.add(name)

    def change(node: onnx.NodeProto) -> None:
        node.name = f"{call.name}.{node.name}"
        own = read_notes(node)
        own["path"] = ".".join(path for path in (about.get("path"), own.get("path")) if path)
        del node.metadata_props[:]
        helper.set_metadata_props(node, own)

    operations = [node for node in function.node if not is_constant(node)]
    origins = _aligned([node.name for node in operations], about.get("fx", "").split())
    for node, origin in zip(operations, origins, strict=True):
        copy = graph.node.add()
        copy.CopyFrom(node)
        renamed(copy, values, change)
        if origin:
            copy.metadata_props.add(key="fx", value=origin)
    there = set(call.output)
    for info in function.value_info:
        name = values[info.name]
        if info.name not in function.input and name not in there:
            graph.value_info.add(name=name).type.CopyFrom(info.type)


def _aligned(names: Sequence[str], origins: Sequence[str]) -> list[str]:
    """Return the operation of each node of a body, "" for a node that another program has added.

    Example:
        >>> _aligned(["fc1.addmm.Gemm", "tanh.Tanh", "added", "add.Add"], ["addmm_3", "tanh_1", "add_2"])
        ['addmm_3', 'tanh_1', '', 'add_2']
    """
    if len(names) == len(origins):
        return list(origins)
    kinds = [NUMBER.sub("", name.split(".")[-2]) if "." in name else name for name in names]
    matches = difflib.SequenceMatcher(None, kinds, [NUMBER.sub("", origin) for origin in origins], autojunk=False)
    found = [""] * len(names)
    for block in matches.get_matching_blocks():
        found[block.a : block.a + block.size] = origins[block.b : block.b + block.size]
    return found


def is_constant(node: onnx.NodeProto) -> bool:
    """Tell whether a node holds one of a body's constants rather than an operation."""
    return node.op_type == "Constant" and not node.metadata_props
