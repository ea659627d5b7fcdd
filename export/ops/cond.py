"""`torch.cond`: an ONNX `If` outside of transforms, a select inside them.

PyTorch's own `torch.cond` runs Dynamo over both branches first. That takes long, loses the source lines, refuses
Python that Dynamo does not know, and fails under `grad`. Tracing therefore replaces it by `traced_cond`:

* The branches are run once with proxies off to find the tensors that they close over; those become operands, and the
  higher-order operator records both branches as subgraphs. An operand keeps its identity in the subgraph, so the
  branch's own closure finds it.
* Under a functorch transform (`vmap`, `grad`…) both branches are computed and `torch.where` selects. A gradient
  through the branch not taken is multiplied by zero, so it must be finite.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch._higher_order_ops.cond import cond_op
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils._python_dispatch import TorchDispatchMode

from export.errors import TracingError
from export.files.pytree_structure import Structure, describe, match, rebuild
from export.graph.builder import Builder, Lowering
from export.graph.lowering import lower_subgraph
from export.trace.arguments import is_tensor
from export.trace.isolation import functorch_depth
from export.trace.source_lines import user_line
from pure.scan_loop import once, taken_by

__all__ = ["LOWERINGS", "Closures", "both_branches", "find_closures", "replaced", "select", "traced_cond"]

Cond = Callable[..., Any]


def condition(g: Builder, node: Node, pred: Any, yes: Any, no: Any, operands: Sequence[Any]) -> tuple[ir.Value, ...]:
    """Lower to If, whose branches read the surrounding graph's values directly."""
    branches = [lower_subgraph(g, node, branch, operands) for branch in (yes, no)]
    predicate = g.op("Reshape", g.tensor(pred), g.constant([]))
    dtypes = [value.dtype for value in node.meta["val"]]
    return g.ops("If", predicate, count=len(dtypes), dtypes=dtypes, then_branch=branches[0], else_branch=branches[1])


LOWERINGS: dict[Any, Lowering] = {torch.ops.higher_order.cond: condition}


class Closures(TorchDispatchMode):
    """Collects the tensors that a function uses without having been given or having made them."""

    def __init__(self, operands: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {id(x): x for x in operands}
        self.found: dict[int, torch.Tensor] = {}

    def see(self, tree: Any) -> None:
        """Note the tensors of a tree."""
        for x in _tensors(tree):
            if id(x) not in self.known and isinstance(x, FakeTensor):
                self.found.setdefault(id(x), x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.see((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        for x in _tensors(result):
            if id(x) not in self.found:
                self.known[id(x)] = x
        return result


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _tensors(value)


def find_closures(fn: Callable[[], Any], operands: Sequence[torch.Tensor]) -> tuple[Any, dict[int, torch.Tensor]]:
    """Run a function; return its result and {id: tensor} of what it neither was given nor made."""
    with both_branches(), Closures(operands) as seen:
        result = fn()
    seen.see(result)
    return result, seen.found


@contextlib.contextmanager
def both_branches() -> Iterator[None]:
    """Run both branches of a condition, and one step of a scan, so that all closures inside are seen."""
    with replaced(_both), taken_by(once):
        yield


@contextlib.contextmanager
def replaced(substitute: Cond) -> Iterator[None]:
    """Replace `torch.cond` in this thread."""
    original = torch.cond
    thread = threading.get_ident()

    def cond(*args: Any, **kwargs: Any) -> Any:
        return (substitute if threading.get_ident() == thread else original)(*args, **kwargs)

    torch.cond = cond
    try:
        yield
    finally:
        torch.cond = original


def traced_cond(
    pred: Any, true_fn: Cond, false_fn: Cond, operands: Sequence[Any] = (), *, symbols: Sequence[Any] = ()
) -> Any:
    """Record a condition.

    Args:
        pred: a Python bool, or a boolean tensor with one element.
        true_fn: called with the operands if `pred` holds.
        false_fn: called with the operands otherwise; returns the same structure, shapes and dtypes.
        operands: tensors, or pytrees of tensors.
        symbols: the trace's symbolic sizes, which a branch may use.

    Returns:
        what the branch returns.

    Raises:
        TracingError: if the branches' outputs differ in structure, shape or dtype.
    """
    if isinstance(pred, (bool, int, float)):
        return true_fn(*operands) if pred else false_fn(*operands)
    if isinstance(pred, torch.SymBool):
        return true_fn(*operands) if bool(pred) else false_fn(*operands)
    if not isinstance(pred, torch.Tensor) or pred.dtype != torch.bool or pred.numel() != 1:
        what = f"{tuple(pred.shape)} {pred.dtype}" if isinstance(pred, torch.Tensor) else repr(pred)
        raise TracingError(
            f"torch.cond needs a boolean tensor with one element as its predicate, got {what}; "
            f"reduce it with .any() or .all(), or use torch.where for one choice a sample\n  source: {user_line()}"
        )
    if functorch_depth():
        return select(pred, true_fn, false_fn, operands)

    structures: list[Structure] = []  # the true branch's, and any that differs from it
    given = list(_tensors(list(operands)))
    found: dict[int, torch.Tensor] = {}

    def flat(branch: Cond) -> Callable[..., tuple[torch.Tensor, ...]]:
        def run(*_: Any) -> tuple[torch.Tensor, ...]:
            result = branch(*operands)
            structure, leaves, _names = describe(result, is_tensor, "out")
            ordered = _in_order(result, structures[0]) if structures else None
            if ordered is None:
                structures.append(structure)
            else:
                leaves = ordered
            outside = {x.untyped_storage()._cdata for x in (*given, *found.values())}
            # The operator allows no output that shares memory with an operand.
            return tuple(x.clone() if x.untyped_storage()._cdata in outside else x for x in leaves)

        return run

    branches = flat(true_fn), flat(false_fn)
    results: list[tuple[torch.Tensor, ...]] = []
    with disable_proxy_modes_tracing():
        for branch in branches:
            result, outside = find_closures(branch, given)
            found.update(outside)
            results.append(result)
    _raise_unless_alike(len(structures) == 1, results[0], results[1])
    flat_operands = (*given, *found.values(), *symbols)
    leaves = cond_op(pred.reshape(()), *branches, flat_operands)
    return rebuild(structures[0], leaves)


def _in_order(result: Any, structure: Structure) -> list[torch.Tensor] | None:
    """Return a branch's leaves in the order of the structure's; None if they differ in more than their keys' order."""
    found: dict[int, Any] = {}
    problems: list[str] = []
    match(structure, result, "out", found, problems)
    leaves = [found[position] for position in sorted(found)]
    return None if problems or not all(map(is_tensor, leaves)) else leaves


def _both(pred: Any, true_fn: Cond, false_fn: Cond, operands: Sequence[Any] = ()) -> Any:
    """Run both branches; the value does not matter."""
    false_fn(*operands)
    return true_fn(*operands)


def select(pred: torch.Tensor, true_fn: Cond, false_fn: Cond, operands: Sequence[Any]) -> Any:
    """Compute both branches and select."""
    structure, yes, _ = describe(true_fn(*operands), is_tensor, "out")
    result = false_fn(*operands)
    ordered = _in_order(result, structure)
    no = describe(result, is_tensor, "out")[1] if ordered is None else ordered
    _raise_unless_alike(ordered is not None, yes, no)
    return rebuild(structure, [torch.where(pred.reshape(()), a, b) for a, b in zip(yes, no, strict=True)])


def _raise_unless_alike(one_structure: bool, true: Sequence[torch.Tensor], false: Sequence[torch.Tensor]) -> None:
    """Raise unless two branches return the same structure, shapes and dtypes."""
    shapes = [[(tuple(x.shape), x.dtype) for x in leaves] for leaves in (true, false)]
    if not one_structure or shapes[0] != shapes[1]:
        raise TracingError(
            "the branches of torch.cond must return the same structure, shapes and dtypes; "
            f"true returns {shapes[0]}, false returns {shapes[1]}\n  source: {user_line()}"
        )
