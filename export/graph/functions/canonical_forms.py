"""Canonical, hashable forms of blocks: blocks that compute the same have equal forms.

A form holds the nodes one by one, in order: operators, attributes, where each value comes from, dtypes, shapes,
constants, branches, and what the metadata says, paths relative to the block. It holds no names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from export.graph.functions.function_bodies import Occurrence, relative
from export.graph.node_notes import read_notes

__all__ = ["Form", "canonical_form"]

Form = Any
"""Nested tuples, which can be compared and hashed."""


def canonical_form(
    block: Occurrence, constants: Mapping[str, onnx.TensorProto], types: Mapping[str, onnx.TypeProto]
) -> Form:
    """Return a block's canonical form, and note in the block the values that it takes from outside.

    Args:
        block: the block, with its nodes.
        constants: constants, without their names, that are part of what it computes.
        types: dtypes and shapes of values.
    """
    known: dict[str, Form] = {"": None}
    count = itertools.count()

    def kind(name: str) -> bytes:
        return types[name].SerializeToString(deterministic=True) if name in types else b""

    def reference(name: str) -> Form:
        if name not in known and name in constants:
            known[name] = constants[name].SerializeToString(deterministic=True)
        elif name not in known:
            known[name] = "given", len(block.given), kind(name)
            block.given.append(name)
        return known[name]

    def make(names: Iterable[str]) -> None:
        for name in filter(None, names):
            known[name] = "made", next(count)

    def seen(node: onnx.NodeProto, own: dict[str, bytes]) -> Form:
        inputs = tuple(reference(name) for name in node.input)
        attributes = tuple(attribute(a) for a in sorted(node.attribute, key=lambda a: a.name))
        make(node.output)
        kinds = tuple((bool(name), own.get(name) or kind(name)) for name in node.output)
        about = {**read_notes(node), "path": relative(read_notes(node).get("path", ""), block.path)}
        about.pop("fx", None)
        return node.domain, node.op_type, inputs, attributes, kinds, tuple(sorted(about.items()))

    def attribute(a: onnx.AttributeProto) -> Form:
        if not a.HasField("g"):
            return a.SerializeToString(deterministic=True)
        values = (*a.g.input, *a.g.value_info, *a.g.output)
        own = {value.name: value.type.SerializeToString(deterministic=True) for value in values}
        make(value.name for value in (*a.g.input, *a.g.initializer))
        held = tuple(tensor.SerializeToString(deterministic=True) for tensor in a.g.initializer)
        nodes = tuple(seen(node, own) for node in a.g.node)
        given = tuple(own[value.name] for value in a.g.input)
        return a.name, given, held, nodes, tuple(reference(value.name) for value in a.g.output)

    return block.order, tuple(seen(node, {}) for node in block.nodes)
