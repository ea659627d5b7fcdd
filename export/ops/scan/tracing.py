"""`pure.scan` while tracing: one operator that holds the step once, whatever transforms are active.

The step is run once on tensors like a carry and a slice, outside of all transforms, to find the tensors that it closes
over. Those that a transform tracks become operands, and replace the closed-over ones whenever the step runs again;
derivatives and batches are rules over loops (`derivatives`). Where a step cannot be recorded safely, the loop is
unrolled.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters, temporarily_clear_interpreter_stack
from torch._higher_order_ops.utils import reenter_make_fx
from torch._ops import HigherOrderOperator
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode

from export.ops import cond
from export.ops.scan.derivatives import Loop, run, tracked
from export.ops.scan.operator import scan_op
from export.trace.isolation import functorch_depth
from pure import tags
from pure.scan_loop import Step, carried, check_tensors, flat_xs, returned, taken_by, unrolled
from pure.tree import tree_flatten, tree_unflatten

__all__ = ["recorded_scans"]

_functorch: Any = torch._C._functorch


class _Thread(threading.local):
    """For each step that runs, innermost last: {id of a closed-over tensor: its replacement}."""

    def __init__(self) -> None:
        self.replacements: list[dict[int, torch.Tensor]] = []


_thread = _Thread()


@contextlib.contextmanager
def recorded_scans(symbols: Sequence[Any]) -> Iterator[None]:
    """Record this thread's scans as operators; a step may use `symbols`, the trace's symbolic sizes."""

    def loop(step: Step, carry: Any, xs: Any, length: int | None) -> Any:
        return _scan(step, carry, xs, length, symbols)

    with taken_by(loop):
        yield


def _scan(step: Step, carry: Any, xs: Any, length: int | None, symbols: Sequence[Any]) -> Any:
    flat, whole, steps = flat_xs(xs, length)
    start, spec = tree_flatten(carry)
    check_tensors(start, "carry")
    start, flat = ([_functorch.unwrap_if_dead(_resolved(x)) for x in leaves] for leaves in (start, flat))
    if tags.capturing() or not start or _functionalized():
        return unrolled(step, carry, xs, length)
    if not flat:  # the operator takes at least one tensor apart
        flat = [torch.zeros(steps, dtype=torch.int64, device=start[0].device)]
    counted = xs is None or not tree_flatten(xs)[0]

    def of(leaves: Sequence[torch.Tensor]) -> Any:
        given = tree_unflatten(list(leaves[: len(start)]), spec)
        return returned(step(given, whole([] if counted else list(leaves[len(start) :]))))

    found = _explored(of, [*_like(start), *_like(flat, 1)], carry, symbols)
    if found is None:
        return unrolled(step, carry, xs, length)
    path = tags.current_path()
    named = [x for x, _ in found.shared]
    operands = (*start, *flat, *(actual for _, actual in found.shared))
    # As outside of loops: an If where no transform is active, a select inside one.
    selecting = tracked(operands)
    taken = len(start) + len(flat)

    def stepped(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inside = tags.scope(path) if path and not tags.current_path() else contextlib.nullcontext()
        chosen = cond.replaced(_chosen) if selecting else contextlib.nullcontext()
        with inside, chosen, _replacing({id(x): new for x, new in zip(named, given[taken:], strict=True)}):
            after, y = of(given[:taken])
            leaves = [*carried(carry, after), *tree_flatten(y)[0]]
            return tuple(_resolved(leaf) for leaf in leaves if leaf is not None)

    def record(loop: Loop, operands: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return _record(loop, operands, symbols)

    loop = Loop(stepped, len(start), len(flat), len(found.shared), False, record)
    out = list(run(loop, operands))
    last = tree_unflatten(out[: len(start)], spec)
    ys = iter(out[len(start) :])
    leaves, y_spec = found.y
    return last, tree_unflatten([None if leaf is None else next(ys) for leaf in leaves], y_spec)


def _chosen(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Sequence[Any] = ()) -> Any:
    """Compute both branches of a condition and select; a plain bool takes its branch."""
    if isinstance(pred, torch.Tensor):
        return cond.select(pred, true_fn, false_fn, operands)
    return (true_fn if pred else false_fn)(*operands)


def _functionalized() -> bool:
    """Tell whether `torch.func.functionalize` is active, for which loops have no rule."""
    kinds = (interpreter.key() for interpreter in retrieve_all_functorch_interpreters())
    return _functorch.TransformType.Functionalize in kinds


def _like(tensors: Sequence[torch.Tensor], skipped: int = 0) -> list[torch.Tensor]:
    """Return plain tensors with the shapes that these show under the active transforms."""
    shapes = [(x, tuple(x.shape)[skipped:]) for x in tensors]
    with temporarily_clear_interpreter_stack(), disable_proxy_modes_tracing():
        return [torch.empty(shape, dtype=x.dtype, device=x.device) for x, shape in shapes]


def _record(loop: Loop, operands: Sequence[torch.Tensor], symbols: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """Record a loop where no transform is active."""
    carry, xs, shared = loop.split(operands)
    samples = [*_like(carry), *_like(xs, 1)]
    given = [*samples, *shared]
    count = len(given)
    _, outside = cond.find_closures(lambda: _aside(lambda: loop.step(*given), given, symbols), given)

    def body(*flat: Any) -> tuple[torch.Tensor, ...]:
        return loop.step(*flat[:count])

    return tuple(scan_op(body, carry, xs, (*shared, *outside.values(), *symbols), loop.reverse))


def _aside(fn: Callable[[], Any], tensors: Sequence[torch.Tensor], symbols: Sequence[Any]) -> Any:
    """Run a function in a recording that is thrown away.

    It must be recorded: PyTorch otherwise computes some derivatives with sizes as numbers.
    """
    result: list[Any] = []

    def run_once(*_: Any) -> tuple[()]:
        result.append(fn())
        return ()

    reenter_make_fx(run_once)(*tensors, *symbols)
    return result[0]


@dataclass(frozen=True)
class _Found:
    """What a step's first run found.

    Attributes:
        shared: (tensor that the step closes over, tensor that it stands for under the active transforms).
        y: the leaves and the structure of the step's y.
    """

    shared: list[tuple[torch.Tensor, torch.Tensor]]
    y: tuple[list[Any], Any]


class _LostError(Exception):
    """A closed-over tensor is wrapped by one of the step's own transforms, so that it cannot be replaced."""


def _explored(
    of: Callable[[Sequence[torch.Tensor]], Any],
    samples: Sequence[torch.Tensor],
    carry: Any,
    symbols: Sequence[Any],
) -> _Found | None:
    """Run a step outside of all transforms; None if it uses a tensor in a way that cannot be tracked."""
    depth = functorch_depth()
    with contextlib.ExitStack() as stack:
        stack.enter_context(temporarily_clear_interpreter_stack())
        for _ in range(depth):  # so that transforms inside the step have levels above those outside
            _functorch._vmap_increment_nesting(1, "same")
            stack.callback(_functorch._vmap_decrement_nesting)
        stack.enter_context(torch.no_grad())
        stack.enter_context(cond.both_branches())
        closures = stack.enter_context(cond.Closures(samples))
        exploring = stack.enter_context(_Exploring(closures, depth))
        try:
            after, y = _aside(lambda: of(samples), samples, symbols)
        except _LostError:
            return None
        (leaves, spec), (y_leaves, y_spec) = tree_flatten(after), tree_flatten(y)
        leaves, y_leaves = exploring.replaced(leaves), exploring.replaced(y_leaves)
        closures.see((leaves, y_leaves))
    carried(carry, tree_unflatten(leaves, spec))
    check_tensors((leaf for leaf in y_leaves if leaf is not None), "y")
    if not set(closures.found) <= exploring.plain:
        return None
    return _Found(exploring.shared, (y_leaves, y_spec))


def _resolved(x: torch.Tensor) -> torch.Tensor:
    """Return the replacement of a tensor in the steps that run, or the tensor itself."""
    for replacements in reversed(_thread.replacements):
        x = replacements.get(id(x), x)
    return x


class _Replacing(TorchFunctionMode):
    """Replaces the tensors that operations are given."""

    def replacement(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def replaced(self, value: Any) -> Any:
        """Return a value with its tensors replaced."""
        if isinstance(value, torch.Tensor):
            return self.replacement(value)
        if isinstance(value, (list, tuple)):
            items = [self.replaced(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if type(value) is dict:
            return {key: self.replaced(item) for key, item in value.items()}
        return value

    def _inside(self, value: Any) -> Any:
        """Keep replacing inside the functions that an operator is given, such as the branches of a condition."""
        if not isinstance(value, types.FunctionType):
            return value

        def replacing(*args: Any) -> Any:
            with self:
                return value(*args)

        return replacing

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [self.replaced(arg) for arg in args]
        if isinstance(func, HigherOrderOperator):
            given = [self._inside(arg) for arg in given]
        return func(*given, **{key: self.replaced(value) for key, value in (kwargs or {}).items()})


class _ReplacingById(_Replacing):
    """Replaces tensors by identity."""

    def __init__(self, replacements: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.replacements = replacements

    def replacement(self, x: torch.Tensor) -> torch.Tensor:
        return self.replacements.get(id(x), x)


@contextlib.contextmanager
def _replacing(replacements: dict[int, torch.Tensor]) -> Iterator[None]:
    if not replacements:
        yield
        return
    _thread.replacements.append(replacements)
    try:
        with _ReplacingById(replacements):
            yield
    finally:
        _thread.replacements.pop()


class _Exploring(_Replacing):
    """Finds the tensors that a step closes over, and replaces those that a transform tracks by plain ones.

    Args:
        closures: notes the tensors that operators are given in the end; is told of the replacements.
        depth: number of transforms around the step. Tensors of those levels are made outside of the step; the step's
            own transforms have higher levels.
    """

    def __init__(self, closures: cond.Closures, depth: int) -> None:
        super().__init__()
        self.closures, self.depth = closures, depth
        self.shared: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.replacements: dict[int, torch.Tensor] = {}
        self.plain: set[int] = set()

    def _outside(self, x: torch.Tensor) -> bool:
        return bool(_functorch.is_functorch_wrapped_tensor(x)) and 1 <= _functorch.maybe_get_level(x) <= self.depth

    def replacement(self, x: torch.Tensor) -> torch.Tensor:
        if id(x) in self.replacements:
            return self.replacements[id(x)]
        if id(x) in self.closures.known:
            return x
        actual = _resolved(x)
        if self._outside(actual) or actual is not x or (actual.requires_grad and _plain(actual)):
            return self._share(x, actual)
        base = actual
        while _functorch.is_functorch_wrapped_tensor(base) and not self._outside(base):
            base = _functorch.get_unwrapped(base)
        if self._outside(base) or (base.requires_grad and id(base) not in self.closures.known):
            raise _LostError
        self.plain.add(id(base))
        return x

    def _share(self, x: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
        (stand_in,) = _like([actual])
        self.closures.known[id(stand_in)] = stand_in
        self.shared.append((x, actual))
        self.replacements[id(x)] = stand_in
        return stand_in


def _plain(x: torch.Tensor) -> bool:
    return not _functorch.is_functorch_wrapped_tensor(x)
