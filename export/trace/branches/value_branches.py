"""Python branches on tensors' values that installed packages take: recorded with both outcomes.

Users rewrite a branch of their own with `torch.where` or `torch.cond`, and an error tells them to. They cannot rewrite
one in a library's module: transformers' XLM asserts that no text is longer than the tensor, and FSMT drops a mask that
masks nothing. There a function runs once for each outcome, and `torch.where` selects among the results. An outcome
after which the library raises an error is left out, since the function has no value there.
"""

from __future__ import annotations

import contextlib
import dis
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from sympy.logic.boolalg import Boolean
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.fx.experimental.proxy_tensor import PythonKeyTracer, get_proxy_mode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, statically_known_true

from export.errors import TracingError
from export.trace.branches.known_values import known_value, node_of
from export.trace.source_lines import installed_line, is_installed, is_user_file, user_line
from export.trace.symbolic_sizes import Sizes

__all__ = ["ValueBranches", "drop_unused_values"]

MAX_RUNS = 16
"""How often a function is run for the outcomes of its branches."""

RAISED = RuntimeError, TypeError, ValueError, AssertionError, ArithmeticError, LookupError, AttributeError
"""What a package may raise on purpose."""

_COMPARISONS: dict[type[sympy.Basic], Callable[[Any, Any], Any]] = {
    sympy.Eq: operator.eq,
    sympy.Ne: operator.ne,
    sympy.Lt: operator.lt,
    sympy.Le: operator.le,
    sympy.Gt: operator.gt,
    sympy.Ge: operator.ge,
}


@dataclass(frozen=True)
class Decision:
    """A branch as one run took it: its recorded condition, the outcome, and the line."""

    condition: torch.Tensor
    taken: bool
    source: str


@dataclass(frozen=True)
class Run:
    """One run: the branches that it took, and its result, or the error that the library raised."""

    path: tuple[Decision, ...]
    leaves: list[torch.Tensor]
    structure: Any
    error: BaseException | None = None


class ValueBranches:
    """Decides the branches on values while a function is recorded.

    Args:
        sizes: the shape environment, which asks what a condition on a value is.

    Attributes:
        decided: what was done at which line, for the user to read.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.decided: dict[str, None] = {}
        self._prefix: tuple[bool, ...] = ()
        self._path: list[Decision] = []
        self._known: dict[sympy.Basic, bool] = {}
        self._tracer: PythonKeyTracer | None = None

    def run(self, function: Callable[[], tuple[list[torch.Tensor], Any]]) -> tuple[list[torch.Tensor], Any]:
        """Run a function once for each outcome of its branches on values.

        Args:
            function: returns the leaves of its result, and what else describes that.

        Returns:
            The leaves, selected by the conditions, and the description.

        Raises:
            TracingError: if the outcomes' results differ in more than their values.
        """
        mode = get_proxy_mode()
        assert mode is not None
        self._tracer = mode.tracer  # type: ignore[assignment]
        runs: list[Run] = []
        pending: list[tuple[bool, ...]] = [()]
        with self._asked():
            while pending:
                prefix = pending.pop()
                self._prefix, self._path, self._known = prefix, [], {}
                runs.append(self._once(function))
                taken = tuple(decision.taken for decision in runs[-1].path)
                pending += [(*taken[:i], not taken[i]) for i in range(len(prefix), len(taken))]
                if len(runs) + len(pending) > MAX_RUNS:
                    raise TracingError(
                        f"the function branches in Python on tensors' values in {MAX_RUNS} ways or more, in a package "
                        "whose lines are not yours. Put another module in the place of the one that does.\n"
                        f"  source: {runs[-1].path[-1].source}"
                    )
            found = self._merged(runs, 0)
        if found.error is not None:
            raise found.error
        return found.leaves, found.structure

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        self.sizes.decide = self._decide
        try:
            yield
        finally:
            self.sizes.decide = None

    def _once(self, function: Callable[[], tuple[list[torch.Tensor], Any]]) -> Run:
        try:
            leaves, structure = function()
        except RAISED as error:
            if self._path and _raised_on_purpose(error):
                return Run(tuple(self._path), [], None, error)
            raise
        return Run(tuple(self._path), leaves, structure)

    def _decide(self, expression: sympy.Basic) -> bool | None:
        """Return which way a run goes at a condition on values; None where it may not go on."""
        if expression in self._known:
            return self._known[expression]
        mode, tracer = get_proxy_mode(), self._tracer
        if mode is None or tracer is None or mode.tracer is not tracer or not isinstance(expression, Boolean):
            return None  # inside the body of a loop or a branch, or not a branch
        source = installed_line()
        with temporarily_clear_interpreter_stack(), torch._C.DisableTorchFunction():
            condition = self._condition(expression)
        node = None if condition is None else node_of(condition, tracer)
        if condition is None or node is None:
            return None
        known = known_value(node, tracer, self.sizes)
        if known is not None:
            self.decided[f"{source or user_line()}: {known} by sizes and constants alone"] = None
            self._known[expression] = known
            return known
        number = len(self._path)
        if not source or number == MAX_RUNS:  # a line of the user's own, or a loop with no end in sight
            return None
        taken = self._prefix[number] if number < len(self._prefix) else True
        self._path.append(Decision(condition, taken, source))
        self._known[expression] = taken
        return taken

    def _condition(self, expression: sympy.Basic) -> torch.Tensor | None:
        """Return a condition as a tensor, None if it is no comparison of sums and products of values and sizes."""
        if type(expression) in _COMPARISONS:
            left, right = (self._number(side) for side in expression.args)
            if left is not None and right is not None:
                found = _COMPARISONS[type(expression)](left, right)
                return found if isinstance(found, torch.Tensor) else None
        return None

    def _number(self, expression: sympy.Basic) -> Any:
        """Return a number of a condition: a tensor, a size or a constant; None if it is something else."""
        if isinstance(expression, sympy.Symbol) and expression in self.sizes.read:
            value, version = self.sizes.read[expression]
            if value._version != version:  # written to since it was read
                return None
            return value.to(torch.float64 if value.is_floating_point() else torch.int64)
        if expression.is_Integer:
            return int(expression)
        if expression.is_Float or expression.is_Rational:
            return float(expression)
        if isinstance(expression, sympy.Symbol) and not free_unbacked_symbols(expression):
            return self.sizes.create_symintnode(expression, hint=None)
        if isinstance(expression, sympy.Add | sympy.Mul):
            terms = [self._number(term) for term in expression.args]
            if all(term is not None for term in terms):
                total = terms[0]
                for term in terms[1:]:
                    total = total + term if isinstance(expression, sympy.Add) else total * term
                return total
        return None

    def _merged(self, runs: Sequence[Run], depth: int) -> Run:
        """Return the result of runs that took the same branches up to a depth."""
        if len(runs) == 1 and len(runs[0].path) == depth:
            return runs[0]
        decision = runs[0].path[depth]
        chosen = {taken: [run for run in runs if run.path[depth].taken is taken] for taken in (True, False)}
        yes, no = (self._merged(chosen[taken], depth + 1) for taken in (True, False))
        for taken, run, other in ((True, yes, no), (False, no, yes)):
            if other.error is not None:
                name = type(other.error).__name__
                if run.error is None:
                    self.decided[f"{decision.source}: taken for {taken}, as it raises {name} otherwise"] = None
                return run
        self._raise_unless_alike(yes, no, decision.source)
        self.decided[f"{decision.source}: computed for both outcomes, of which Where selects one"] = None
        leaves = [a if a is b else self._selected(decision, a, b) for a, b in zip(yes.leaves, no.leaves, strict=True)]
        return Run((), leaves, yes.structure)

    def _selected(self, decision: Decision, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found = torch.where(decision.condition, a, b)
        assert self._tracer is not None
        if (node := node_of(found, self._tracer)) is not None:
            node.meta["source"] = decision.source
        return found

    @staticmethod
    def _raise_unless_alike(yes: Run, no: Run, source: str) -> None:
        def of(leaf: torch.Tensor) -> str:
            return f"{leaf.dtype} {tuple(leaf.shape)}"

        alike = yes.structure == no.structure and all(
            a.dtype == b.dtype
            and a.ndim == b.ndim
            and all(statically_known_true(m == n) for m, n in zip(a.shape, b.shape, strict=True))
            for a, b in zip(yes.leaves, no.leaves, strict=True)
        )
        if not alike:
            shapes = " or ".join(", ".join(map(of, run.leaves)) for run in (yes, no))
            raise TracingError(
                "a branch in Python on a tensor's value decides what the result's structure, dtypes or shapes are "
                f"({shapes}); a graph has one kind of result. Put another module in the place of the one that "
                f"branches.\n  source: {source}"
            )


def _raised_on_purpose(error: BaseException) -> bool:
    """Tell whether the first cause of an error is a `raise` or `assert` of an installed package."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return False
    code = step.tb_frame.f_code
    raises = code.co_code[step.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raises and is_user_file(code.co_filename) and is_installed(code.co_filename)


def drop_unused_values(graph: torch.fx.GraphModule) -> None:
    """Drop the numbers read from tensors that only decided branches."""
    for node in reversed(graph.graph.nodes):
        if node.op == "call_function" and not node.users and free_unbacked_symbols(node.meta.get("val")):
            graph.graph.erase_node(node)
