"""Runs of a function: as the user runs it, and in another precision throughout."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from export.files.pytree_structure import Structure, describe
from export.ops import cond as cond_rules
from export.ops.scan.operator import looped, scan_op
from export.ops.shared.eager_derivatives import typed_lack
from export.trace import isolation
from export.trace.arguments import Arguments, is_tensor
from export.trace.signature import function_name

__all__ = ["Outcome", "Replay", "float32_products", "in_any_layout", "precision", "replayed", "replayed_results", "run"]

_BELOW_FLOAT64 = (torch.float32, torch.float16, torch.bfloat16)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run returned: its structure, tensor leaves, and their dotted names."""

    structure: Structure
    leaves: tuple[torch.Tensor, ...]
    names: tuple[str, ...]


class _Precision(TorchDispatchMode):
    """Computes in another precision: float64 for all narrower floats, or a narrower one for float64."""

    def __init__(self, to: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.to = to
        self.replaced = _BELOW_FLOAT64 if to == torch.float64 else (torch.float64,)

    def moved(self, value: Any) -> Any:
        """Return a tensor, dtype or sequence of these in that precision."""
        if isinstance(value, torch.Tensor):
            return value.to(self.to) if value.dtype in self.replaced else value
        if isinstance(value, torch.dtype):
            return self.to if value in self.replaced else value
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)([self.moved(item) for item in value])
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        args = tuple(self.moved(arg) for arg in args)
        kwargs = {key: self.moved(value) for key, value in (kwargs or {}).items()}
        if name in _FACTORIES and kwargs.get("dtype") is None and _makes_float(name, args):
            kwargs["dtype"] = self.to
        return func(*args, **kwargs)


class _Captured(TorchFunctionMode):
    """Makes the tensors that a function captured look as if they had been given in the other precision.

    `_Precision` sees operators only. Before that, a convolution refuses a weight of another dtype than its input's, and
    Python code may compare `weight.dtype` with `x.dtype`.
    """

    def __init__(self, precision: _Precision) -> None:
        super().__init__()
        self.precision = precision

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DTYPE:
            return self.precision.moved(func(*args))
        return func(*map(self._tensors, args), **{key: self._tensors(value) for key, value in (kwargs or {}).items()})

    def _tensors(self, value: Any) -> Any:
        """Move tensors only: what is asked for by a dtype stays so, as `_Precision` sees to it."""
        return value if isinstance(value, torch.dtype) else self.precision.moved(value)


_DTYPE = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]
_FACTORIES = frozenset(
    {"zeros", "ones", "empty", "full", "eye", "linspace", "logspace", "scalar_tensor", "rand", "randn"}
)


def _makes_float(name: str, args: tuple[Any, ...]) -> bool:
    if name in ("full", "scalar_tensor"):
        value = args[1] if name == "full" and len(args) > 1 else args[0]
        return isinstance(value, float)
    return True


@contextlib.contextmanager
def precision(to: torch.dtype | None) -> Iterator[None]:
    """Compute everything in that precision (None: as it stands), tensors that a function captured included."""
    if to is None:
        yield
        return
    mode = _Precision(to)
    with mode, _Captured(mode):
        yield


def run(
    fn: Callable[..., Any],
    arguments: Arguments,
    leaves: Sequence[torch.Tensor],
    *,
    to: torch.dtype | None = None,
) -> Outcome:
    """Run a function eagerly.

    Args:
        fn: the function.
        arguments: its arguments' structure.
        leaves: the tensors to put in.
        to: compute in that precision: float64 lifts every cast to a lower one.

    Returns:
        The outcome. `torch.cond` is taken as a plain choice, which is what it means.
    """

    def cond(pred: Any, true_fn: Any, false_fn: Any, operands: Sequence[Any] = ()) -> Any:
        if isinstance(pred, torch.Tensor) and isolation.functorch_depth():
            return cond_rules.select(pred, true_fn, false_fn, operands)
        return (true_fn if bool(pred) else false_fn)(*operands)

    given = [leaf.to(to) if to is not None and leaf.is_floating_point() else leaf.clone() for leaf in leaves]
    with (
        isolation.tracing_lock,
        isolation.restored(),
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        cond_rules.replaced(cond),
        precision(to),
        typed_lack(function_name(fn)),
    ):
        out = fn(*arguments.rebuild(given))
    structure, found, names = describe(out, is_tensor, arguments.out_root)
    return Outcome(structure, tuple(x.detach() for x in found), tuple(names))


def in_any_layout(target: Any) -> Any:
    """Return the operator that does the same whatever its input's strides are: for a view, a reshape.

    A replay computes in another precision, and by parts, so that a value may lie in another order than where it was
    recorded. A recorded graph writes into nothing, so a copy is as good as a view.
    """
    return torch.ops.aten.reshape.default if target is torch.ops.aten.view.default else target


class Replay(Interpreter):
    """Runs a recorded graph in its own precision, with given branches."""

    def __init__(self, graph: GraphModule, forced: Mapping[str, bool], prefix: str = "") -> None:
        super().__init__(graph)
        self.forced, self.prefix = forced, prefix
        self.node: Node | None = None

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        self.node = n
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator, the branch of a condition, or the steps of a loop."""
        node = self.node
        assert node is not None
        if target is torch.ops.higher_order.cond:
            side = self.forced.get(self.prefix + node.name, bool(args[0]))
            place = 1 if side else 2
            return self.inner(args[place], self._inside(node, place)).run(*args[3])
        if target is scan_op:
            return looped(self.inner(args[0], self._inside(node, 0)).run, *args[1:])
        return self.called(target, args, kwargs)

    def inner(self, graph: GraphModule, prefix: str) -> Replay:
        """Return the interpreter of a subgraph, whose keys begin with this."""
        return Replay(graph, self.forced, prefix)

    def called(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator."""
        return super().call_function(in_any_layout(target), args, kwargs)

    def _inside(self, node: Node, place: int) -> str:
        return f"{self.prefix}{getattr(node.args[place], 'target', node.name)}."


def replayed_results(graph: GraphModule, leaves: Sequence[torch.Tensor], names: Collection[str]) -> dict[str, Any]:
    """Run a recorded graph in its own precision; return what the operations of these names give."""
    found = {}

    class Kept(Replay):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if n.name in names:
                found[n.name] = result
            return result

    with torch.no_grad():
        Kept(graph, {}).run(*leaves)
    return found


def replayed(graph: GraphModule, leaves: Sequence[torch.Tensor], forced: Mapping[str, bool]) -> list[torch.Tensor]:
    """Run a recorded graph in its own precision, with the branches of `forced` (by key) where it says so."""
    with torch.no_grad():
        return list(Replay(graph, forced).run(*leaves))


@contextlib.contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Let PyTorch round float32 products to TF32 on a GPU, or keep it from that; what was set comes back.

    PyTorch's convolutions round their factors to TF32 on a GPU unless told otherwise, which is an error a thousand
    times that of float32. A verdict compares eager with its own recorded graph, so it sets this for both.

    Args:
        tf32: whether it may.
    """
    cudnn: Any = torch.backends.cudnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for backend, found in zip(backends, before, strict=True):
            backend.fp32_precision = found
