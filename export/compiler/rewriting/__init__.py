"""Rewrites of the graph that ONNX Runtime has optimised, for what its own optimiser does not do."""

import onnx

from export.compiler.rewriting.batched_products import absorb_operands, turn_products
from export.compiler.rewriting.blocked_convolutions import block_convolutions, channels_in_a_block
from export.compiler.rewriting.broadcasts import delay_expands
from export.compiler.rewriting.product_sums import absorb_factors, absorb_sums, release_sums
from export.compiler.rewriting.reductions import sums_by_products
from export.compiler.rewriting.static_graph import StaticGraph
from export.compiler.rewriting.views import fold_leading_axes, merge_views, return_bases

__all__ = ["rewrite"]


def rewrite(model: onnx.ModelProto) -> bool:
    """Rewrite a model of static shapes in place, after which outputs may have the shape of what they are a view of.

    Returns:
        whether anything changed.
    """
    known = StaticGraph(model.graph)
    before = [(op.kind, *op.inputs) for op in known.ops]
    block = channels_in_a_block()
    if block > 1:
        block_convolutions(known, block)
    delay_expands(known)
    merge_views(known)
    fold_leading_axes(known)
    turn_products(known)
    absorb_operands(known)
    absorb_factors(known)
    absorb_sums(known)
    absorb_factors(known)  # those behind a sum that is inside its product now
    release_sums(known)
    sums_by_products(known)
    merge_views(known)
    return_bases(known)
    if [(op.kind, *op.inputs) for op in known.ops] == before:
        return False
    known.write()
    imported = {entry.domain for entry in model.opset_import}
    for domain in sorted({op.kind.rpartition(".")[0] for op in known.ops} - imported - {""}):
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return True
