"""From a pure function and example arguments to a functional core-ATen graph.

The function runs once on fake tensors under `make_fx`, with named symbolic sizes on its dynamic axes. `make_fx` and
not `torch.export`, because it sees through every `torch.func` transform. In-place operations on intermediates are
rewritten in a second pass, made only where the first one recorded some; until then no view may be reduced to a copy.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    ConstraintViolationError,
    GuardOnDataDependentSymNode,
    PendingUnbackedSymbolNotFound,
)
from torch.utils._sympy.value_ranges import ValueRangeError

from export.errors import ArgumentError, ExportError, RandomOpError, SpecialisedSizeError, TracingError
from export.files.pytree_structure import Structure, describe
from export.ops.complex_pairs.replay import PairReplay, has_complex
from export.ops.fallback import NO_WHILE
from export.ops.registry import control_flow
from export.ops.shared import eager_derivatives
from export.trace import active_rules, isolation, numpy_calls, recording, zero_tangents
from export.trace.active_rules import decompositions, without_views
from export.trace.arguments import Arguments, is_tensor, take_apart
from export.trace.branches.size_branches import check_branches, outside_modes
from export.trace.branches.value_branches import ValueBranches, drop_unused_values
from export.trace.fake_tensors import fake_leaves
from export.trace.purity import check_purity, drop_releases, graphs, mutates, random_message, uses
from export.trace.signature import closed_over, function_name
from export.trace.source_lines import is_installed, line_of, user_line
from export.trace.symbolic_sizes import Sizes, sizes_of, watched
from pure.interop.one_path import GRAPH_CODE, Switched

__all__ = ["Traced", "record", "trace"]


@dataclass(frozen=True)
class Traced:
    """A recorded function.

    Attributes:
        name: the function's name.
        arguments: the example arguments.
        graph: the functional graph; its placeholders are the leaves in order, its output a flat list.
        sizes: the symbolic sizes.
        out_structure: the structure of the result.
        out_names: the dotted names of its tensor leaves.
        constants: {id of a captured tensor: dotted name}; the graph module keeps the tensors alive.
        decided: branches in Python on tensors' values in installed packages, and what was recorded of each.
        eager_faults: derivatives that were recorded right and that eager PyTorch lacks or computes wrongly.
    """

    name: str
    arguments: Arguments
    graph: torch.fx.GraphModule
    sizes: Sizes
    out_structure: Structure
    out_names: tuple[str, ...]
    constants: dict[int, str]
    decided: tuple[str, ...] = ()
    eager_faults: tuple[str, ...] = ()

    @property
    def outputs(self) -> list[Any]:
        """The recorded values of the output's leaves, with their dtypes and (symbolic) shapes."""
        (node,) = self.graph.graph.find_nodes(op="output")
        return [item.meta["val"] if isinstance(item, torch.fx.Node) else item for item in node.args[0]]


_FAILURES = (
    *(RuntimeError, TypeError, ValueError, AssertionError),
    *(ArithmeticError, LookupError, AttributeError),
)
"""What a function may raise that is recorded with stand-ins for its tensors and sizes."""

_DATA_DEPENDENT = (
    DataDependentOutputException,
    GuardOnDataDependentSymNode,
    PendingUnbackedSymbolNotFound,
    ConstraintViolationError,
    ValueRangeError,
)
"""What PyTorch raises where a number would have to be known that depends on a tensor's values."""

_INTERNAL = "INTERNAL ASSERT FAILED"
"""How the messages of PyTorch's own failures begin."""


def trace(
    fn: Callable[..., Any], args: Sequence[Any], dynamic: Sequence[Any] | None = None, whole: Collection[Any] = ()
) -> Traced:
    """Record a function.

    Args:
        fn: a pure function over pytrees.
        args: its positional arguments; static Python numbers and strings among them are fixed.
        dynamic: one entry per argument, in the style of vmap's `in_dims`: None, `{axis: name}` or a prefix of such.
        whole: operators to leave whole rather than decompose.

    Returns:
        the recorded function.

    Raises:
        ArgumentError: if the arguments or `dynamic` cannot be understood.
        TracingError: if the function depends on tensor values, or cannot be recorded for another reason.
        SpecialisedSizeError: if it works for one value of a dynamic size only.
        MutationError: if it changes an argument.
        RandomOpError: if it draws random numbers.
        EagerDerivativeError: if eager PyTorch lacks a derivative that the recording lacks too.

    Warns:
        EagerDerivativeWarning: if eager PyTorch lacks a derivative, or computes one wrongly, that the recording has.
    """
    return record(fn, take_apart(fn, args, dynamic), whole)


def record(fn: Callable[..., Any], arguments: Arguments, whole: Collection[Any] = ()) -> Traced:
    """Record a function whose arguments are taken apart already; see `trace`."""
    traced = _record_in_any_code(fn, arguments, whole)
    eager_derivatives.warn_of(traced.eager_faults)
    return traced


def _record_in_any_code(fn: Callable[..., Any], arguments: Arguments, whole: Collection[Any]) -> Traced:
    try:
        return _record(fn, arguments, whole, GRAPH_CODE)
    except TracingError as error:
        # The code that a library has for a compiler alone may be wrong: transformers' LongT5 makes no mask there.
        if isinstance(error.__cause__, _FAILURES) and _data_dependent_cause(error) is None:
            with contextlib.suppress(ExportError, *_FAILURES):
                return _record(fn, arguments, whole, contextlib.nullcontext())
        raise


def _record(
    fn: Callable[..., Any],
    arguments: Arguments,
    whole: Collection[Any],
    code: contextlib.AbstractContextManager[None] | Switched,
) -> Traced:
    """Record a function, at other sizes where PyTorch took those of the example for granted."""
    example = sizes_of(arguments.axes, arguments.leaves)
    hints = {name: size if size > 1 else 3 for name, size in example.items()}
    try:
        return _trace(fn, arguments, hints, whole, code)
    except SpecialisedSizeError as error:
        # The example's size may equal an unrelated fixed size by chance, or another dynamic size (h == w); or PyTorch
        # itself, at no line of the function's, took an axis of size 1 for granted (one window of a Swin transformer).
        patches = error.equal or not error.source  # larger sizes cost much where the function loops over one
        others = [_unusual(arguments, len(hints)), *([_multiples(hints)] if patches else [])]
        for sizes in others:
            with contextlib.suppress(ExportError, *_FAILURES):
                return _trace(fn, arguments, dict(zip(hints, sizes, strict=True)), whole, code)
        raise


def _unusual(arguments: Arguments, count: int) -> list[int]:
    taken = {int(size) for leaf in arguments.leaves for size in leaf.shape}
    primes = (n for n in range(7, 10_000) if all(n % d for d in range(2, int(n**0.5) + 1)) and n not in taken)
    return [next(primes) for _ in range(count)]


def _multiples(hints: Mapping[str, int]) -> list[int]:
    """Return a multiple of each size, since models divide images into patches, each by another factor."""
    return [size * factor for size, factor in zip(hints.values(), itertools.cycle((5, 7, 11, 13)))]


def _trace(
    fn: Callable[..., Any],
    arguments: Arguments,
    hints: Mapping[str, int],
    whole: Collection[Any],
    code: contextlib.AbstractContextManager[None] | Switched,
) -> Traced:
    result: dict[str, Any] = {}

    def flat(*leaves: torch.Tensor) -> list[torch.Tensor]:
        def once() -> tuple[list[torch.Tensor], Any]:
            out = fn(*arguments.rebuild(leaves))
            try:
                structure, found, names = describe(out, is_tensor, arguments.out_root)
            except ArgumentError as error:
                raise TracingError(f"{function_name(fn)} must return a pytree of tensors; {error}") from error
            return found, (structure, names)

        found, (result["structure"], result["names"]) = branches.run(once)
        return found

    # Autograd then differentiates a written view through the view itself, not through memory strides. Made after
    # inference mode is left: PyTorch 2.11 sets it when it is made, and leaving that mode clears it.
    replayed = torch.autograd.grad_mode._force_original_view_tracking
    followed = torch.inference_mode(False)  # PyTorch 2.11 differentiates to zero in inference mode, without a word
    tracing = isolation.tracing_lock
    with tracing, isolation.restored(), followed, torch.no_grad(), replayed(True), eager_derivatives.noted() as faults:
        mode, sizes, fakes = fake_leaves(arguments.leaves, arguments.axes, hints)
        branches = ValueBranches(sizes)
        table = decompositions(frozenset(whole))
        # PyTorch's composite operators in C++ ask for sizes as numbers, for values (one_hot) or for strides
        # (adaptive_avg_pool2d); their Python versions do not.
        dispatcher = active_rules.installed(symbolic=bool(hints))
        einsum = active_rules.left_to_right() if hints else contextlib.nullcontext()
        noted = recording.recording()
        with mode, dispatcher, einsum, noted, watched(sizes), numpy_calls.watched(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
            with _typed_failures(fn, arguments):
                with control_flow(tuple(sizes.named.values())), code:
                    graph = make_fx(flat, decomposition_table=without_views(table))(*fakes)
                drop_unused_values(graph)
                check_purity(graph, fakes)
                drop_releases(graph)
                if mutates(graph):
                    replay = dispatch_functionalize(recording.FunctionalReplay(graph).run)
                    views = {torch.ops.aten.view.default: recording.view_of_any_strides}
                    graph = make_fx(replay, decomposition_table={**views, **table})(*fakes)
                elif uses(graph, table):
                    graph = make_fx(recording.Replay(graph).run, decomposition_table=table)(*fakes)
                if has_complex(graph):
                    pairs = PairReplay(graph, arguments.leaf_names)
                    graph = make_fx(pairs.run, decomposition_table=table)(*fakes)
        sizes.raise_if_pinned()
        check_branches(fn, arguments, graph, sizes, hints)
        for module in graphs(graph):
            zero_tangents.drop(module)
            module.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return Traced(
        name=function_name(fn),
        arguments=arguments,
        graph=graph,
        sizes=sizes,
        out_structure=result["structure"],
        out_names=tuple(result["names"]),
        constants=_constant_names(fn, graph),
        decided=tuple(branches.decided),
        eager_faults=tuple(faults),
    )


@contextlib.contextmanager
def _typed_failures(fn: Callable[..., Any], arguments: Arguments) -> Iterator[None]:
    """Turn what PyTorch raises while a function is recorded into this package's errors, with the line of the source."""
    try:
        yield
    except ExportError:
        raise
    except _DATA_DEPENDENT as error:
        raise _value_used(fn, error) from error
    except DynamicOutputShapeException as error:
        raise TracingError(
            f"{function_name(fn)} uses {error.func}, whose result's shape depends on the data. Use torch.where, or a "
            f"mask to multiply with, so that shapes are fixed.\n  source: {_raised_at(error)}"
        ) from error
    except (UnsupportedOperatorException, UnsupportedFakeTensorException) as error:
        raise TracingError(f"{function_name(fn)} cannot be recorded: {error}\n  source: {_raised_at(error)}") from error
    except _FAILURES as error:
        if (cause := _data_dependent_cause(error)) is not None:
            raise _value_used(fn, cause) from error
        if _in_while_loop(error):
            raise TracingError(
                f"{function_name(fn)} puts torch.while_loop under a transform, which PyTorch cannot do: {NO_WHILE}"
                f"\n  source: {_raised_at(error)}"
            ) from error
        # The function's own error, if it fails on real tensors as well, is the one worth reading.
        typed = eager_derivatives.typed_lack(function_name(fn))
        with isolation.restored(), torch.random.fork_rng(devices=[]), typed:
            outside_modes(fn, arguments, arguments.leaves)
        if "Generator" in str(error):
            raise RandomOpError(random_message("a torch.Generator", _raised_at(error))) from error
        theirs = f"\n  PyTorch {torch.__version__} fails by itself; 2.15 may not" if _INTERNAL in str(error) else ""
        raise TracingError(
            f"{function_name(fn)} runs eagerly but cannot be recorded: {type(error).__name__}: {error}{theirs}"
            f"\n  source: {_raised_at(error)}"
        ) from error


def _value_used(fn: Callable[..., Any], error: BaseException) -> TracingError:
    return TracingError(
        f"{function_name(fn)} uses a tensor's value in Python (an if, a loop, .item(), float(x)); a graph cannot. "
        f"Use torch.where to select, torch.cond to branch.\n  source: {_raised_at(error)}"
    )


def _data_dependent_cause(error: BaseException) -> BaseException | None:
    """Return the error behind another one that says that a tensor's value would have to be known, None without one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, _DATA_DEPENDENT):
        cause = cause.__cause__ or cause.__context__
    return cause


def _in_while_loop(error: BaseException) -> bool:
    """Tell whether an error was raised inside `torch.while_loop`."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_name == "while_loop":
            return True
        step = step.tb_next
    return False


def _raised_at(error: BaseException) -> str:
    """Return the innermost user line of an exception's traceback, and the user's own where that is a package's."""
    line = own = ""
    step = error.__traceback__
    while step is not None:
        found = line_of(step.tb_frame, step.tb_lineno)
        line = found or line
        own = found if found and not is_installed(step.tb_frame.f_code.co_filename) else own
        step = step.tb_next
    called = f"\n  called from: {own}" if own and own != line else ""
    return f"{line}{called}" if line else user_line()


def _constant_names(fn: Callable[..., Any], graph: torch.fx.GraphModule) -> dict[int, str]:
    """Name captured tensors after the variable that they came from, `closure.0` where that is unknown."""
    origin = closed_over(fn)
    names: dict[int, str] = {}
    used: set[str] = set()
    count = 0
    for module in graphs(graph):
        for node in module.graph.find_nodes(op="get_attr"):
            value = getattr(module, str(node.target), None)
            key = id(value)
            if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor) or key in names:
                continue
            name = f"closure.{origin[id(value)]}" if id(value) in origin else f"closure.{count}"
            count += id(value) not in origin
            while name in used:
                name += "_"
            used.add(name)
            names[key] = name
    return names
