"""The eager runs of a verdict: as the user runs the function, and in float64 throughout (the reference)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from export.files.pytree_structure import Structure, describe
from export.ops import cond as cond_rules
from export.trace import isolation
from export.trace.arguments import Arguments, is_tensor
from export.trace.source_lines import user_line

__all__ = ["Decision", "Outcome", "Results", "float32_products", "precision", "run", "same_sides"]

_BELOW_FLOAT64 = (torch.float32, torch.float16, torch.bfloat16)
_COMPARISONS = frozenset({"gt", "ge", "lt", "le", "eq", "ne"})
_DECIDES = _COMPARISONS | {"sign", "sgn", "argmax", "argmin", "floor", "ceil", "round", "trunc"}
_POSITIONS = frozenset({"max", "min", "sort", "topk", "max_pool2d_with_indices", "max_pool3d_with_indices"})
_VIEWS = frozenset({"view", "reshape", "squeeze", "unsqueeze", "alias", "clone", "detach", "_to_copy", "select"})


@dataclasses.dataclass(frozen=True)
class Decision:
    """One predicate of `torch.cond` as eager saw it.

    Attributes:
        taken: the branch.
        margin: the difference of the two sides of the comparison, None if the predicate is no plain comparison.
        scale: the larger magnitude of the two sides.
        source: the line of the function's source.
        depth: how many conditions it lies inside.
    """

    taken: bool
    margin: float | None
    scale: float
    source: str
    depth: int = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run returned: structure, leaves, names, the branches taken, the downcasts lifted, the sides of kinks."""

    structure: Structure
    leaves: tuple[torch.Tensor, ...]
    names: tuple[str, ...]
    decisions: tuple[Decision, ...]
    lifted: tuple[str, ...]
    sides: tuple[torch.Tensor, ...] = ()


class Results(NamedTuple):
    """What eager, the float64 reference and the file give on the same inputs."""

    eager: Outcome
    reference: Outcome
    file: Sequence[torch.Tensor]


def _side(name: str, args: Sequence[Any], result: Any) -> torch.Tensor | None:
    """Return what an operator decided by value, None if it decides nothing."""
    floats = [x for x in args[:2] if isinstance(x, torch.Tensor) and x.is_floating_point()]
    if not floats:
        return None
    found = result
    if name == "threshold_backward":
        found = args[1] > args[2]
    elif name == "leaky_relu_backward":
        found = args[1] > 0
    elif name == "hardtanh_backward":
        found = (args[1] > args[2]) & (args[1] < args[3])
    elif name in _POSITIONS:
        found = result[1] if isinstance(result, (tuple, list)) else None
    elif name not in _DECIDES:
        return None
    return found if isinstance(found, torch.Tensor) else None


class _Margins(TorchDispatchMode):
    """Remembers what comparisons compared, and computes in another precision if asked to."""

    def __init__(self, to: torch.dtype | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.to = to
        self.replaced = () if to is None else _BELOW_FLOAT64 if to == torch.float64 else (torch.float64,)
        self.lifted: dict[str, None] = {}
        self.margins: dict[int, tuple[torch.Tensor, float, float]] = {}
        self.sides: list[torch.Tensor] = []

    def _moved(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(self.to) if value.dtype in self.replaced else value
        if isinstance(value, torch.dtype):
            return self.to if value in self.replaced else value
        if isinstance(value, (list, tuple)):
            return type(value)([self._moved(item) for item in value]) if not hasattr(value, "_fields") else value
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if self.to is not None:
            source = args[0] if args else None
            wanted = kwargs.get("dtype")
            if (
                wanted in _BELOW_FLOAT64
                and self.to == torch.float64
                and isinstance(source, torch.Tensor)
                and source.dtype == self.to
            ):
                self.lifted.setdefault(user_line())
            args = tuple(self._moved(arg) for arg in args)
            kwargs = {key: self._moved(value) for key, value in kwargs.items()}
            if name in _FACTORIES and kwargs.get("dtype") is None and _makes_float(name, args):
                kwargs["dtype"] = self.to
        result = func(*args, **kwargs)
        side = _side(name, args, result)
        if side is not None:
            self.sides.append(side)
        if name in _COMPARISONS and isinstance(result, torch.Tensor) and result.numel() == 1:
            left, right = (x.double() if isinstance(x, torch.Tensor) else torch.tensor(float(x)) for x in args[:2])
            gap = float((left - right).reshape(-1)[0])
            scale = max(float(left.abs().max()), float(right.abs().max()))
            self.margins[id(result)] = (result, gap, scale)
        elif name in _VIEWS and args and id(args[0]) in self.margins and isinstance(result, torch.Tensor):
            self.margins[id(result)] = (result, *self.margins[id(args[0])][1:])
        return result


class _Captured(TorchFunctionMode):
    """Makes the tensors that a function captured look as if they had been given in the other precision.

    `_Margins` sees operators only. Before that, a convolution refuses a weight of another dtype than its input's, and
    Python code may compare `weight.dtype` with `x.dtype`.
    """

    def __init__(self, margins: _Margins) -> None:
        super().__init__()
        self.to, self.replaced = margins.to, margins.replaced

    def _moved(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(self.to) if value.dtype in self.replaced else value
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)([self._moved(item) for item in value])
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DTYPE:
            dtype = func(*args)
            return self.to if dtype in self.replaced else dtype
        moved = {key: self._moved(value) for key, value in (kwargs or {}).items()}
        return func(*(self._moved(arg) for arg in args), **moved)


_DTYPE = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]
_FACTORIES = frozenset(
    {"zeros", "ones", "empty", "full", "eye", "linspace", "logspace", "scalar_tensor", "rand", "randn"}
)


def _makes_float(name: str, args: tuple[Any, ...]) -> bool:
    if name in ("full", "scalar_tensor"):
        value = args[1] if name == "full" and len(args) > 1 else args[0]
        return isinstance(value, float)
    return True


def same_sides(one: Outcome, other: Outcome) -> bool:
    """Tell whether two runs decided everything alike: comparisons, derivatives of relu, positions of the largest."""
    return len(one.sides) == len(other.sides) and all(
        torch.equal(a.to(b.dtype), b) for a, b in zip(one.sides, other.sides, strict=True)
    )


def precision(to: torch.dtype | None) -> TorchDispatchMode:
    """Return a mode under which everything is computed in that precision (None: as it stands)."""
    return _Margins(to)


def run(
    fn: Callable[..., Any],
    arguments: Arguments,
    leaves: Sequence[torch.Tensor],
    *,
    to: torch.dtype | None = None,
    forced: Sequence[bool] = (),
    margins: bool = True,
    under: TorchDispatchMode | None = None,
) -> Outcome:
    """Run a function eagerly.

    Args:
        fn: the function.
        arguments: its arguments' structure.
        leaves: the tensors to put in.
        to: compute in that precision: float64 lifts every cast to a lower one, float32 lowers every float64.
        forced: which way `torch.cond` goes at each nesting depth; empty to let the predicates decide.
        margins: whether to note how far predicates are from their thresholds, and which sides of kinks are taken.
        under: a mode to compute under.

    Returns:
        The outcome. `torch.cond` is taken as a plain choice, which is what it means.
    """
    mode = _Margins(to)
    decisions: list[Decision] = []
    depth = 0

    def cond(pred: Any, true_fn: Any, false_fn: Any, operands: Sequence[Any] = ()) -> Any:
        nonlocal depth
        if isinstance(pred, torch.Tensor) and isolation.functorch_depth():
            return cond_rules.select(pred, true_fn, false_fn, operands)
        taken = bool(pred)
        if isinstance(pred, torch.Tensor):
            _, margin, scale = mode.margins.get(id(pred), (None, None, 0.0))
            decisions.append(Decision(taken, margin, scale, user_line(), depth))
            if forced:
                taken = forced[min(depth, len(forced) - 1)]
        depth += 1
        try:
            return (true_fn if taken else false_fn)(*operands)
        finally:
            depth -= 1

    given = [leaf.to(to) if to is not None and leaf.is_floating_point() else leaf.clone() for leaf in leaves]
    with contextlib.ExitStack() as stack:
        for context in (
            isolation.tracing_lock,
            isolation.restored(),
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
        ):
            stack.enter_context(context)
        stack.enter_context(cond_rules.replaced(cond))
        if margins or to is not None:
            stack.enter_context(mode)
        if to is not None:
            stack.enter_context(_Captured(mode))
        if under is not None:
            stack.enter_context(under)
        out = fn(*arguments.rebuild(given))
    structure, found, names = describe(out, is_tensor, arguments.out_root)
    return Outcome(
        structure,
        tuple(x.detach() for x in found),
        tuple(names),
        tuple(decisions),
        tuple(line for line in mode.lifted if line),
        tuple(mode.sides),
    )


@contextlib.contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Let PyTorch round float32 products to TF32 on a GPU, or keep it from that; what was set comes back.

    PyTorch's convolutions round their factors to TF32 on a GPU unless told otherwise, which is an error a thousand
    times that of float32. As eager's own error it would pass a file whatever that did, so a verdict sets it for both.

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
