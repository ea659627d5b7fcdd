"""Launches and bytes of the derivative of a network in the form for each device: `python -m benchmarks.cuda_forms`.

No time is measured. A node that computes is one launch; views (Reshape and the like) and what ONNX Runtime folds are
none. Each launch reads its inputs and writes its outputs. The best known form of a convolution's derivative, that of
cuDNN, is one launch for each of input, weight and bias; the floor below counts those for every convolution, and for
everything else what PyTorch's recorded gradient does, operator by operator. ONNX has no operator for the derivative
w.r.t. a weight: a Conv for it needs batch and channels of both maps exchanged, and of its result, which is most of what
is above the floor. Transposes that ONNX Runtime joins with a product are counted, so the form's numbers are upper ones.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from onnx import shape_inference
from torch.func import grad

from export.graph.onnx_export import DEFAULT_OPSET, translate
from export.ops.registry import LOWERINGS
from export.trace.aten_graph import Traced, trace
from pure import nets

__all__ = ["counted", "floor", "main", "recorded"]

VIEWS = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Constant", "Shape", "Size"})
ATEN_VIEWS = ("view", "reshape", "unsqueeze", "squeeze", "expand", "permute", "transpose", "t", "alias", "detach")
NETWORKS = {"resnet50": 224, "densenet121": 224}
TARGETS = (None, "cpu", "cuda")


def recorded(network: str, size: int, batch: int = 2) -> Traced:
    """Record the gradient of the mean square with respect to the parameters, with the statistics as they are."""
    block = nets.create(network)
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))

    def loss(params: Any, x: Any, state: Any) -> Any:
        return block(params, x, state).square().mean()

    return trace(grad(loss), (params, x, state), None, LOWERINGS)


def counted(traced: Traced, target: str | None) -> dict[str, int]:
    """Return the launches, bytes and nodes of the file for a device."""
    proto, _ = translate(traced, frozenset(), DEFAULT_OPSET, check=False, target=target)
    graph = shape_inference.infer_shapes(proto, data_prop=True).graph
    sizes = {tensor.name: _bytes(tensor.data_type, tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sizes[value.name] = _bytes(kind.elem_type, [axis.dim_value for axis in kind.shape.dim])
    constants = {tensor.name for tensor in graph.initializer}
    launches = []
    for node in graph.node:
        if all(name in constants for name in node.input if name):  # ONNX Runtime computes it once
            constants.update(node.output)
        elif node.op_type not in VIEWS:
            launches.append(node)
    moved = sum(sizes.get(name, 0) for node in launches for name in (*node.input, *node.output) if name)
    return {"launches": len(launches), "bytes": moved, "nodes": len(graph.node)}


def _bytes(kind: int, dims: Sequence[int]) -> int:
    return 0 if not kind else int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize * math.prod(dims))


def floor(traced: Traced) -> dict[str, int]:
    """Return the launches and bytes of the recorded operators, with one launch for each part of a derivative."""
    launches = moved = 0
    for node in traced.graph.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue  # an item of several results
        values = node.meta.get("val")
        if values is None or node.target.overloadpacket.__name__ in ATEN_VIEWS:
            continue
        results = [value for value in (values if isinstance(values, (tuple, list)) else [values]) if _tensor(value)]
        given = [arg.meta["val"] for arg in node.all_input_nodes if _tensor(arg.meta.get("val"))]
        if "convolution_backward" in str(node.target):
            gradient, x, weight = given[:3]
            parts = [(gradient, weight), (gradient, x), (gradient,)]  # read for input, weight and bias
            pairs = zip(parts, values, node.args[-1], strict=True)
            for read, result, wanted in pairs:
                if wanted:
                    launches += 1
                    moved += sum(map(_size, (*read, result)))
            continue
        if results:
            launches += 1
            moved += sum(map(_size, (*given, *results)))
    return {"launches": launches, "bytes": moved}


def _tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _size(value: torch.Tensor) -> int:
    return int(value.numel()) * value.element_size()


def rows(networks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield one row a network and form."""
    for network in networks:
        traced = recorded(network, NETWORKS[network])
        least = floor(traced)
        yield {"network": network, "form": "recorded operators", **least}
        for target in TARGETS:
            yield {"network": network, "form": target or "neither", **counted(traced, target)}


def main() -> None:
    """Print the rows."""
    warnings.simplefilter("ignore")
    for row in rows(sys.argv[1:] or list(NETWORKS)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
