"""Models of opsets below 18: nodes that the older opset takes stay, onnx's version converter does the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx
from onnx import inliner, version_converter

from export.errors import UnsupportedOpError
from export.graph.functions.function_bodies import branches
from export.graph.node_notes import read_notes, unsupported

__all__ = ["IR_VERSIONS", "OLDEST", "WRITTEN", "convert_to_older"]

OLDEST = 13
"""The oldest opset that a file may have."""

WRITTEN = 18
"""The oldest opset that nodes are written for; older ones are converted from it."""

IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The file format that onnx released with each opset: a runtime that knows the opset reads it, but no later one."""

_KEPT = "pure_export.kept"  # the converter passes over nodes of a domain that it does not know


def convert_to_older(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model of opset 18 without functions as one of an older opset; the given one is changed.

    The converter has no rule for some operators, such as Pad, even where the node has the older form. Nodes that the
    older opset's schema takes as they are therefore do not pass through it. Layer normalisation, which no opset
    below 17 has, is written as its definition.

    Raises:
        UnsupportedOpError: if a node has no form in that opset.
    """
    if opset < 17 and any(node.op_type == "LayerNormalization" for node in _nodes(model.graph)):
        try:
            model = inliner.inline_selected_functions(
                model, [("", "LayerNormalization")], exclude=False, inline_schema_functions=True
            )
        except RuntimeError as error:  # it does not know the types of values inside a loop
            raise unsupported(
                f"opset {opset} has no LayerNormalization, and onnx writes none as its definition inside a loop: "
                "export with opset=17, or put Sequential in the place of Repeat",
                "LayerNormalization",
                {},
            ) from error
    notes = {node.name: node.metadata_props for node in _nodes(model.graph) if node.name}
    constants = {tensor.name: tensor for tensor in model.graph.initializer if not tensor.external_data}
    for node in _nodes(model.graph):
        if node.op_type.startswith("Reduce") and len(node.input) == 2 and node.input[1] in constants:
            _axes_as_attribute(node, constants[node.input[1]], opset)
    for node in _nodes(model.graph):
        if not node.domain and _fits(node, opset):
            node.domain = _KEPT
    model.opset_import.append(onnx.helper.make_opsetid(_KEPT, 1))
    try:
        found = version_converter.convert_version(model, opset)
    except (RuntimeError, version_converter.ConvertError) as error:
        raise _refused(model, opset, error) from error
    for node in _nodes(found.graph):
        if node.domain == _KEPT:
            node.domain = ""
        if node.name in notes and not node.metadata_props:
            node.metadata_props.extend(notes[node.name])
    del found.opset_import[:]
    found.opset_import.append(onnx.helper.make_opsetid("", opset))
    found.ir_version = IR_VERSIONS[opset]
    return found


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for inner in branches(node):
            yield from _nodes(inner)


def _axes_as_attribute(node: onnx.NodeProto, axes: onnx.TensorProto, opset: int) -> None:
    """Turn a reduction's axes into the attribute of older opsets; the converter finds no constant of an outer graph."""
    if "axes" in onnx.defs.get_schema(node.op_type, opset).attributes:
        del node.input[1]
        node.attribute.append(onnx.helper.make_attribute("axes", onnx.numpy_helper.to_array(axes).tolist()))


def _fits(node: onnx.NodeProto, opset: int) -> bool:
    """Tell whether the operator of the older opset takes a node as it is.

    From opset 13 on no operator that is written here changed its meaning under the same inputs and attributes.
    """
    if not all(inner.domain or _fits(inner, opset) for graph in branches(node) for inner in _nodes(graph)):
        return False  # such a node goes through the converter, and so do the graphs that it holds
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return False
    if schema.since_version == onnx.defs.get_schema(node.op_type, WRITTEN).since_version:
        return True
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return (
        all(name in schema.attributes for name in given)
        and len(node.input) <= schema.max_input
        and len(node.output) <= schema.max_output
        and given.get("reduction", b"none") in (b"none", b"add", b"mul")
    )


def _refused(model: onnx.ModelProto, opset: int, error: Exception) -> UnsupportedOpError:
    """Return the error for a model with a node that has no older form."""
    text = str(error).strip().splitlines()[0]
    named = re.search(r"No (?:Adapter \w+ Version \$\d+ for|Previous Version of) (\w+)", text)
    attribute = re.search(r"Attribute (\w+) must", text)
    node = next(
        (
            node
            for node in _nodes(model.graph)
            if not node.domain
            and ((named and node.op_type == named[1]) or (attribute and attribute[1] in _attributes(node)))
        ),
        onnx.NodeProto(op_type=named[1] if named else ""),
    )
    newer = next((later for later in range(opset + 1, WRITTEN) if _fits(node, later)), WRITTEN)
    return unsupported(
        f"opset {opset} has no form of {node.op_type or 'a node'} as node {node.name!r} uses it: export with "
        f"opset={newer}, or write the operation with others. onnx's version converter says: {text}",
        node.op_type,
        read_notes(node),
    )


def _attributes(node: onnx.NodeProto) -> set[str]:
    return {attribute.name for attribute in node.attribute}
