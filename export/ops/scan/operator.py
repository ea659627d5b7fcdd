"""The recorded form of a loop, one operator that holds its step as a graph, and its lowering to ONNX Scan.

    scan_op(body, carry, xs, extra, reverse) -> (*carry, *ys)

`body(*carry, *slices of xs, *extra)` returns the next carry and this step's ys. `extra` is the same in every step:
tensors that the step closes over, and symbolic sizes. In reverse, the last slice comes first, and the ys lie in the
order of xs all the same.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch._C import DispatchKey
from torch._higher_order_ops.utils import reenter_make_fx, unique_graph_id
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, disable_proxy_modes_tracing, track_tensor_tree

from export.errors import MutationError
from export.graph.builder import Builder, Lowering
from export.graph.lowering import lower_subgraph
from export.trace import purity
from export.trace.recording import Replay, current_source
from pure.tree import tree_map

__all__ = ["LOWERINGS", "looped", "scan_op"]

Tensors = Sequence[torch.Tensor]
Body = Callable[..., tuple[torch.Tensor, ...]]


class _Scan(HigherOrderOperator):
    def __init__(self) -> None:
        super().__init__("pure_scan")  # type: ignore[no-untyped-call]

    def __call__(self, body: Body, carry: Tensors, xs: Tensors, extra: Sequence[Any], reverse: bool) -> Any:
        return super().__call__(body, carry, xs, extra, reverse)  # type: ignore[no-untyped-call]


scan_op = _Scan()


def looped(
    body: Body, carry: Tensors, xs: Tensors, extra: Sequence[Any], reverse: bool
) -> tuple[torch.Tensor | None, ...]:
    """Run the loop in Python; `body` may be a caller's interpreter of the recorded graph."""
    state = list(carry)
    columns: list[Sequence[torch.Tensor]] = []
    steps = range(xs[0].shape[0])
    for i in reversed(steps) if reverse else steps:
        out = body(*state, *(x[i].contiguous() for x in xs), *extra)
        state = [x.contiguous() for x in out[: len(state)]]
        columns.append(out[len(state) :])
    ys = [torch.stack(column) for column in zip(*(columns[::-1] if reverse else columns), strict=True)]
    return (*state, *ys)


@scan_op.py_impl(DispatchKey.CompositeExplicitAutograd)
def _eager(body: Body, carry: Tensors, xs: Tensors, extra: Sequence[Any], reverse: bool) -> Any:
    return looped(body, carry, xs, extra, reverse)


@scan_op.py_autograd_impl
def _autograd(body: Body, carry: Tensors, xs: Tensors, extra: Sequence[Any], reverse: bool) -> Any:
    raise NotImplementedError("the derivative of a loop is another loop; see export.ops.scan.derivatives")


def _samples(carry: Tensors, xs: Tensors) -> list[torch.Tensor]:
    """Return contiguous tensors like the arguments of one step."""
    shapes = [(x, x.shape) for x in carry] + [(x, x.shape[1:]) for x in xs]
    return [torch.empty(shape, dtype=x.dtype, device=x.device) for x, shape in shapes]


def _results(outs: Sequence[torch.Tensor], carry: Tensors, xs: Tensors) -> tuple[torch.Tensor, ...]:
    """Return tensors like the results of a loop whose step returns `outs`."""
    steps = xs[0].shape[0]
    shapes = [(x, (*((steps,) if i >= len(carry) else ()), *x.shape)) for i, x in enumerate(outs)]
    return tuple(torch.empty(shape, dtype=x.dtype, device=x.device) for x, shape in shapes)


@scan_op.py_impl(FakeTensorMode)  # a loop inside a recorded branch of a condition
def _fake(
    mode: FakeTensorMode, body: Body, carry: Tensors, xs: Tensors, extra: Sequence[Any], reverse: bool
) -> tuple[torch.Tensor, ...]:
    with mode:
        return _results(body(*_samples(carry, xs), *extra), carry, xs)


@scan_op.py_functionalize_impl
def _functional(ctx: Any, body: Body, carry: Tensors, xs: Tensors, extra: Sequence[Any], reverse: bool) -> Any:
    plain_carry, plain_xs, plain_extra = (ctx.unwrap_tensors(tuple(values)) for values in (carry, xs, extra))
    with ctx.redispatch_to_next():
        out = scan_op(ctx.functionalize(_replayed(body)), plain_carry, plain_xs, plain_extra, reverse)
    return ctx.wrap_tensors(out)


def _replayed(body: Body) -> Body:
    """Run a recorded body so that its nodes' notes are kept."""
    return Replay(body).run if isinstance(body, GraphModule) else body


@scan_op.py_impl(ProxyTorchDispatchMode)
def _recorded(
    mode: ProxyTorchDispatchMode, body: Body, carry: Tensors, xs: Tensors, extra: Sequence[Any], reverse: bool
) -> Any:
    with disable_proxy_modes_tracing():
        samples = _samples(carry, xs)
    graph = reenter_make_fx(_replayed(body))(*samples, *extra)
    (output,) = graph.graph.find_nodes(op="output")
    outs = [item.meta["val"] if isinstance(item, Node) else item for item in output.args[0]]
    _raise_unless_pure(graph, outs, carry)
    extra = _needed(graph, extra)
    _, name = unique_graph_id(mode, prefix="scan_body")
    tracer: Any = mode.tracer
    tracer.root.register_module(name, graph)
    args = (graph, tuple(carry), tuple(xs), tuple(extra), reverse)
    proxy = tracer.create_proxy("call_function", scan_op, tree_map(tracer.unwrap_proxy, args), {}, name="scan")
    with disable_proxy_modes_tracing():
        out = _results(outs, carry, xs)
    return track_tensor_tree(out, proxy, constant=None, tracer=tracer)


def _needed(graph: GraphModule, extra: Sequence[Any]) -> list[Any]:
    """Drop the tensors that the step does not read, and their placeholders; sizes stay."""
    places = graph.graph.find_nodes(op="placeholder")[-len(extra) :] if extra else []
    kept = []
    for place, value in zip(places, extra, strict=True):
        if isinstance(value, torch.Tensor) and not place.users:
            graph.graph.erase_node(place)
        else:
            kept.append(value)
    graph.recompile()
    return kept


def _raise_unless_pure(graph: GraphModule, outs: Tensors, carry: Tensors) -> None:
    """Raise for a step that changes its arguments in place."""
    for before, after in zip(carry, outs, strict=False):
        if before.shape != after.shape or before.dtype != after.dtype:
            raise AssertionError(f"a carry {before} became {after}")
    given = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
    memory = {x.untyped_storage()._cdata for x in given if isinstance(x, torch.Tensor)}
    for node in graph.graph.nodes:
        for changed in purity.mutated_arguments(node):
            value = changed.meta.get("val")
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in memory:
                raise MutationError(
                    f"a step of a scan changes a tensor that it did not make ({node.target}): write carry + x, not "
                    f"carry.add_(x)\n  source: {node.meta.get('source') or current_source()}"
                )


def lower_scan(
    g: Builder, node: Node, body: Node, carry: Sequence[Node], xs: Sequence[Node], extra: Sequence[Any], reverse: bool
) -> tuple[ir.Value | None, ...]:
    """Lower to ONNX Scan; stacked results that nothing reads are left out."""
    examples: Sequence[torch.Tensor] = node.meta["val"]
    read = {user.args[1] for user in node.users if user.target is operator.getitem and user.users}
    kept = [i for i in range(len(examples)) if i < len(carry) or i in read]
    taken = [*carry, *xs]
    graph = lower_subgraph(g, node, body, [*taken, *extra], len(taken), kept)
    ys = len(kept) - len(carry)
    outputs = g.ops(
        "Scan",
        *map(g.tensor, taken),
        count=len(kept),
        dtypes=[examples[i].dtype for i in kept],
        body=graph,
        num_scan_inputs=len(xs),
        scan_input_directions=[1] * len(xs) if reverse else None,
        scan_output_directions=[1] * ys if reverse and ys else None,
    )
    found = dict(zip(kept, outputs, strict=True))
    for i, value in found.items():
        g.annotate(value, examples[i])
    producer = outputs[0].producer()
    if producer is not None:
        producer.metadata_props["results"] = " ".join(map(str, kept))
    return tuple(found.get(i) for i in range(len(examples)))


LOWERINGS: dict[Any, Lowering] = {scan_op: lower_scan}
