"""Convolutions whose weight is computed or given: ONNX Runtime's kernels for maps whose channels lie in blocks.

Those need the weight's values in another order. ONNX Runtime's optimiser reorders weights that are stored in the
model, and leaves a convolution with any other weight to products of unfolded windows, at half of the speed. Here the
graph reorders it, in two transposes and a gather, for maps that are large enough for that to be a small part.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime

from export.compiler.rewriting.static_graph import Op, StaticGraph
from export.compiler.rewriting.views import view
from export.runtime.saved_graph import saved_graph

__all__ = ["BLOCKED", "block_convolutions", "channels_in_a_block"]

BLOCKED = "com.microsoft.nchwc"
"""The domain of the kernels."""

MIN_POSITIONS = 64
"""Positions of all images from which a weight of any size is reordered in less time than the faster kernel saves."""

MAX_SMALL_WEIGHT = 2**16
"""Values of a weight up to which it is for fewer positions as well."""

MAX_WEIGHT = 2**20
"""Values of a weight from which it does not stay in a processor's cache while it is reordered."""


class _Convolution(NamedTuple):
    """A convolution, or a transposed one of stride 1, which is one with its weight turned.

    Attributes:
        x: the map.
        weight: the weight as it is given.
        turned: whether its first two axes are exchanged and its taps reversed.
        kernel: sizes of a window.
        attributes: steps and pads.
        bias: a bias, or "".
    """

    x: str
    weight: str
    turned: bool
    kernel: tuple[int, ...]
    attributes: dict[str, list[int]]
    bias: str


@functools.cache
def channels_in_a_block() -> int:
    """Return how many channels this machine's kernels take together, 1 if there are none."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64, 4, 4]) for name in "xy")
    weight = onnx.numpy_helper.from_array(np.zeros((1, 64, 3, 3), np.float32), "w")
    y.type.tensor_type.shape.dim[1].dim_value = 1
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    graph = onnx.helper.make_graph([node], "one_convolution", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with saved_graph() as path:
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = onnx.load(path)
    blocked = any(node.domain == BLOCKED and node.op_type == "Conv" for node in found.graph.node)
    return max(tensor.dims[0] for tensor in found.graph.initializer) if blocked else 1  # one filter, padded to a block


def block_convolutions(graph: StaticGraph, block: int) -> None:
    """Give convolutions that pay to the blocked kernels, and sums of two of them to the second."""
    makers = graph.makers()
    ordered: dict[tuple[str, bool], str] = {}
    blocked: dict[str, str] = {}  # {map: the same with its channels in blocks}
    plain: dict[str, str] = {}  # {map that a blocked convolution made: the blocked one}
    ops: list[Op] = []
    for op in graph.ops:
        found = _recognised(graph, op, makers)
        if found is None or not _pays(graph, found, op.outputs[0], block):
            ops.append(op)
            continue
        weight = found.weight, found.turned
        if weight not in ordered:
            reordered = list(_reordered(graph, *weight, block))
            ordered[weight] = reordered[-1].outputs[0]
            ops += reordered
        if found.x not in blocked:
            blocked[found.x] = graph.name_for(f"{found.x}.blocked")
            graph.note(blocked[found.x], graph.shapes[found.x], onnx.TensorProto.FLOAT)
            ops.append(Op(f"{BLOCKED}.ReorderInput", [found.x], [blocked[found.x]], {}))
        inputs = [blocked[found.x], ordered[weight], *filter(None, [found.bias])]
        result = op.outputs[0]
        plain[result] = graph.name_for(f"{result}.blocked")
        shape = graph.shapes[result]
        graph.note(plain[result], shape, onnx.TensorProto.FLOAT)
        ops.append(Op(f"{BLOCKED}.Conv", inputs, [plain[result]], found.attributes))
        ops.append(Op(f"{BLOCKED}.ReorderOutput", [plain[result]], [result], {"channels": shape[1]}))
        blocked.setdefault(result, plain[result])
    graph.ops = ops
    if plain:
        _add_inside(graph, plain)
        _drop_unread(graph, plain)


def _recognised(graph: StaticGraph, op: Op, makers: dict[str, Op]) -> _Convolution | None:
    """Return what a node convolves, None where the blocked kernels have no such convolution."""
    if op.kind not in ("Conv", "ConvTranspose") or any(name not in graph.shapes for name in (*op.inputs, *op.outputs)):
        return None
    given, (x, weight, *rest) = op.attributes, op.inputs
    kernel = graph.shapes[weight][2:]
    auto_pad = given.get("auto_pad", b"NOTSET")
    if len(kernel) != 2 or given.get("group", 1) != 1 or auto_pad != b"NOTSET" or graph.is_stored(weight):
        return None
    if graph.kinds[x] != onnx.TensorProto.FLOAT or math.prod(kernel) == 1 or (op.kind == "ConvTranspose" and rest):
        return None
    steps, dilations = list(given.get("strides", [1, 1])), list(given.get("dilations", [1, 1]))
    pads = list(given.get("pads", [0] * 4))
    turned = op.kind == "ConvTranspose"
    if turned:
        if steps != [1, 1] or any(given.get("output_padding", [])) or "output_shape" in given:
            return None
        reach = [step * (size - 1) for step, size in zip(dilations, kernel, strict=True)]
        pads = [r - p for r, p in zip(reach * 2, pads, strict=True)]
        if min(pads) < 0:
            return None
    else:
        source = _turned_source(graph, weight, makers)
        weight, turned = source or weight, source is not None
    attributes = {"kernel_shape": list(kernel), "strides": steps, "dilations": dilations, "pads": pads}
    return _Convolution(x, weight, turned, kernel, attributes, rest[0] if rest else "")


def _turned_source(graph: StaticGraph, weight: str, makers: dict[str, Op]) -> str | None:
    """Return what a weight is made of by exchanging its first two axes and reversing both of its others."""
    reversing = makers.get(weight)
    if reversing is None or reversing.kind != "Slice" or len(reversing.inputs) != 5:
        return None
    starts, _, axes, steps = (graph.constant(name) for name in reversing.inputs[1:])
    exchanging = makers.get(reversing.inputs[0])
    if exchanging is None or exchanging.kind != "Transpose" or exchanging.attributes.get("perm") != [1, 0, 2, 3]:
        return None
    if any(value is None for value in (starts, axes, steps)) or graph.shapes.get(reversing.inputs[0]) is None:
        return None
    whole = graph.shapes[weight] == graph.shapes[reversing.inputs[0]]
    backwards = steps is not None and starts is not None and {*steps.tolist(), *starts.tolist()} == {-1}
    both = axes is not None and sorted(axes.tolist()) == [2, 3]
    return exchanging.inputs[0] if whole and backwards and both else None


def _pays(graph: StaticGraph, found: _Convolution, result: str, block: int) -> bool:
    """Whether the channels fill blocks, and the faster kernel saves more than the weight's new order takes."""
    shape = graph.shapes[result]
    if shape[1] % block or graph.shapes[found.x][1] % block or 0 in shape:
        return False
    values, positions = math.prod(graph.shapes[found.weight]), shape[0] * math.prod(shape[2:])
    return values <= (MAX_WEIGHT if positions >= MIN_POSITIONS else MAX_SMALL_WEIGHT)


def _reordered(graph: StaticGraph, weight: str, turned: bool, block: int) -> Iterator[Op]:
    """Yield what orders a weight by blocks of filters, blocks of channels, taps, channels and filters of a block."""
    kernel = graph.shapes[weight][2:]
    taps = math.prod(kernel)

    def shaped(name: str, shape: Sequence[int]) -> Op:
        return view(graph, name, graph.name_for(f"{weight}.view"), tuple(shape))

    def transposed(name: str, perm: Sequence[int]) -> Op:
        made = graph.name_for(f"{weight}.transposed")
        graph.note(made, [graph.shapes[name][axis] for axis in perm], graph.kinds[name])
        return Op("Transpose", [name], [made], {"perm": list(perm)})

    axes = [1, 0] if turned else [0, 1]
    filters, channels = (graph.shapes[weight][axis] for axis in axes)
    result = [filters, channels, *kernel]
    if turned:  # whole squares of a block's channels and filters are put in their places
        yield (op := shaped(weight, [channels, filters * taps]))
        yield (op := transposed(op.outputs[0], [1, 0]))
        yield (op := shaped(op.outputs[0], [filters // block, block, taps * channels]))
        yield (op := transposed(op.outputs[0], [0, 2, 1]))
        grid = (filters // block, taps, channels // block)
        yield (op := shaped(op.outputs[0], [math.prod(grid), block * block]))
        squares = np.arange(math.prod(grid), dtype=np.int32).reshape(grid)[:, ::-1].transpose(0, 2, 1)
        gathered = graph.name_for(f"{weight}.gathered")
        graph.note(gathered, [math.prod(grid), block * block], graph.kinds[weight])
        places = graph.stored(np.ascontiguousarray(squares.reshape(-1)))
        yield (op := Op("Gather", [op.outputs[0], places], [gathered], {"axis": 0}))
    else:
        yield (op := shaped(weight, [filters, channels * taps]))
        yield (op := transposed(op.outputs[0], [1, 0]))
        yield (op := shaped(op.outputs[0], [channels // block, block, taps, filters // block, block]))
        yield (op := transposed(op.outputs[0], [3, 0, 2, 1, 4]))
    yield shaped(op.outputs[0], result)


def _add_inside(graph: StaticGraph, plain: dict[str, str]) -> None:
    """Let the later of two blocked convolutions start from the other's result, where only their sum is read."""
    makers, readers = graph.makers(), graph.readers()
    place = {id(op): i for i, op in enumerate(graph.ops)}
    gone: set[int] = set()
    for op in graph.ops:
        if op.kind != "Add" or len(set(op.inputs)) < 2 or any(name not in plain for name in op.inputs):
            continue
        early, late = sorted(op.inputs, key=lambda name: place[id(makers[plain[name]])])
        last = makers[plain[late]]
        if len(last.inputs) > 3 or len(readers[late]) > 1 or not graph.is_private(late):
            continue
        if len(readers[plain[late]]) > 1:
            continue
        last.inputs = [*last.inputs, *[""] * (3 - len(last.inputs)), plain[early]]
        reordering = makers[late]
        reordering.outputs[0] = op.outputs[0]
        plain[op.outputs[0]] = plain[late]
        makers[op.outputs[0]] = reordering
        gone.add(id(op))
    graph.ops = [op for op in graph.ops if id(op) not in gone]


def _drop_unread(graph: StaticGraph, plain: dict[str, str]) -> None:
    """Read blocked maps as they are, and leave out what nothing reads any more."""
    again = [op for op in graph.ops if op.kind == f"{BLOCKED}.ReorderInput" and op.inputs[0] in plain]
    graph.replace({op.outputs[0]: plain[op.inputs[0]] for op in again})
    graph.sweep()
