"""One table from recorded operators to ONNX: ``operator overload → function that builds nodes``.

Each family is a file with a literal table; ``TABLE`` is their union. Operators in it are recorded whole, PyTorch's
own decompositions reduce the others to these, and what is left goes to onnxscript's function for that overload.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import GraphModule, Node

from export.errors import UnsupportedOpError
from export.graph.builder import Builder, Rule
from export.ops import (
    activation,
    control,
    conv,
    conv_backward,
    create,
    elementwise,
    fallback,
    index,
    integers,
    matmul,
    norm,
    pool,
    pool_backward,
    reduce,
    resize,
    scan,
    shape,
)

TABLE: dict[Any, Rule] = {
    **elementwise.TABLE,
    **integers.TABLE,
    **activation.TABLE,
    **matmul.TABLE,
    **conv.TABLE,
    **conv_backward.TABLE,
    **norm.TABLE,
    **pool.TABLE,
    **pool_backward.TABLE,
    **reduce.TABLE,
    **shape.TABLE,
    **resize.TABLE,
    **index.TABLE,
    **create.TABLE,
    **control.TABLE,
    **scan.TABLE,
}
"""Every operator that this package translates itself."""


def lower_nodes(g: Builder, module: GraphModule) -> list[ir.Value]:
    """Translate a recorded graph whose placeholders have values already; return its flat outputs.

    Raises:
        UnsupportedOpError: Naming the operation, its dtype, the source line and the block.
    """
    for node in module.graph.nodes:
        g.origin = node
        if node.op == "get_attr":
            attribute = getattr(module, str(node.target))
            if isinstance(attribute, torch.Tensor):
                g.values[node] = g.captured(attribute)
                node.meta.setdefault("val", attribute)
        elif node.op == "call_function":
            g.values[node] = _lower(g, node)
            g.annotate(g.values[node], node.meta.get("val"))
        elif node.op == "output":
            flat = node.args[0] if isinstance(node.args[0], (tuple, list)) else [node.args[0]]
            return [g.tensor(item) for item in flat]
    raise AssertionError("a recorded graph has an output")


def _lower(g: Builder, node: Node) -> Any:
    rule = TABLE.get(node.target)
    if rule is None:
        return fallback.lower(g, node)
    try:
        return rule(g, node, *node.args, **node.kwargs)
    except KeyError as error:
        key = error.args[0]
        if isinstance(key, torch.dtype):
            raise g.unsupported(f"an exported file cannot hold {key}") from error
        raise


__all__ = ["TABLE", "Builder", "UnsupportedOpError", "lower_nodes"]
