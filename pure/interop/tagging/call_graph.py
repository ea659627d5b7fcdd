"""The record of one call of a module: which function of PyTorch computed what from what, and in which part."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from pure.interop.tagging.function_names import CATS, DETACHING, EMBEDDINGS, in_place

__all__ = ["UNSEEN", "Call", "CallGraph", "Operand", "Part", "Recorder", "replaced_tensors", "tensors_of"]

UNSEEN = "unseen"
"""The name of a call that computes a part's output where no function of PyTorch was seen to."""


def tensors_of(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)


def replaced_tensors(value: Any, other: Mapping[int, Tensor]) -> Any:
    """Return nested tuples, lists and dicts with tensors replaced by others, found by `id`."""
    if isinstance(value, Tensor):
        return other.get(id(value), value)
    if type(value) in (tuple, list):
        return type(value)(replaced_tensors(item, other) for item in value)
    if type(value) is dict:
        return {key: replaced_tensors(item, other) for key, item in value.items()}
    return value


@dataclass(eq=False)
class Part:
    """One call of a submodule; "" is the path of the whole module."""

    path: str
    parent: Part | None
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        self.depth = 0 if self.parent is None else self.parent.depth + 1

    def upwards(self) -> Iterator[Part]:
        """Yield the call itself and those that it runs in, innermost first."""
        part: Part | None = self
        while part is not None:
            yield part
            part = part.parent


class Operand(NamedTuple):
    """A tensor argument: which call computed it, None if it does not depend on the input, and its shape."""

    call: int | None
    shape: tuple[int, ...]


class Call(NamedTuple):
    """One call of a function of PyTorch whose result depends on the module's input.

    Attributes:
        name: of the function, such as "linear" or "__add__".
        number: its place among all calls that returned tensors; −1 if it was not seen.
        sources: the calls that computed its arguments, None left out.
        operands: its tensor arguments in order; of a concatenation, those behind its `prefix`.
        params: the parameters that its arguments beside the input come from.
        part: the submodule's call in which it ran.
        shape: of the result; of the first one, if there are several.
        plain: whether nothing but the tensors decides the result, as in a + b without `alpha`.
        prefix: the earlier concatenation of the same first operands, and how many those are.
    """

    name: str
    number: int
    sources: tuple[int, ...]
    operands: tuple[Operand, ...]
    params: frozenset[str]
    part: Part
    shape: tuple[int, ...]
    plain: bool
    prefix: tuple[int, int] | None


class CallGraph(NamedTuple):
    """The calls that depend on the input, in order, and the one that computed the module's output.

    Attributes:
        calls: in order.
        above: for each, the set of those before it that it was computed from, as the bits of a number.
        sink: the one that computed the first tensor of the output; None if none did.
        sizes: {parameter: how many values}.
    """

    calls: list[Call]
    above: list[int]
    sink: int | None
    sizes: dict[str, int]


class _Value(NamedTuple):
    call: int | None = None
    params: frozenset[str] = frozenset()
    from_input: bool = False


_CONSTANT = _Value()


class Recorder(TorchFunctionMode):
    """Records a module's call: a mode for the functions of PyTorch, and a follower of the parts.

    All tensors are kept until the end, so that each is known by its `id`.

    Args:
        parameters: the names of the module's parameters; its buffers are constants.
    """

    def __init__(self, parameters: Collection[str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.graph = CallGraph([], [], None, {})
        self._known: dict[int, tuple[Tensor, _Value]] = {}
        self._part, self._running = Part("", None), 0
        self._number = -1
        self._cats: dict[tuple[object, ...], tuple[int, Tensor]] = {}

    def around(self, given: Mapping[str, Any], args: tuple[Any, ...]) -> Recorder:
        """Return the mode, which now knows parameters and inputs."""
        for name, leaf in given.items():
            name = name.removeprefix("inner.")
            if name in self.parameters:
                self._known[id(leaf)] = leaf, _Value(None, frozenset([name]))
                self.graph.sizes[name] = leaf.numel()
        for leaf in tensors_of(args):
            call = self._new("input", -1, [], [], leaf) if leaf.is_floating_point() else None
            self._known[id(leaf)] = leaf, _Value(call, frozenset(), True)
        return self

    def enter(self, path: str) -> None:
        """Note that a part starts."""
        if path:
            self._part = Part(path, self._part)
        else:
            self._running += 1

    def leave(self, path: str, given: object, output: object) -> object:
        """Note that a part ends; what it returned, if unseen, depends on all that it was given."""
        known = [self._value(leaf) for leaf in tensors_of(given)]
        for leaf in tensors_of(output):
            if id(leaf) not in self._known and leaf.is_floating_point() and any(v.call is not None for v in known):
                call = self._new(UNSEEN, -1, known, [Operand(v.call, ()) for v in known], leaf)
                self._known[id(leaf)] = leaf, _Value(call, frozenset(), True)
        if path:
            part = next(part for part in self._part.upwards() if part.path == path)  # inner ones may have raised
            assert part.parent is not None
            self._part = part.parent
            return output
        self._running -= 1
        if not self._running:
            found = (self._value(leaf).call for leaf in tensors_of(output))
            self.graph = self.graph._replace(sink=next((call for call in found if call is not None), None))
            self._known.clear()
        return output

    def _value(self, leaf: Tensor) -> _Value:
        return self._known[id(leaf)][1] if id(leaf) in self._known else _CONSTANT

    def _new(
        self,
        name: str,
        number: int,
        values: Iterable[_Value],
        operands: list[Operand],
        result: Tensor,
        plain: bool = True,
        prefix: tuple[int, int] | None = None,
    ) -> int:
        values = list(values)
        first = () if prefix is None else (prefix[0],)
        sources = tuple(dict.fromkeys([*first, *(value.call for value in values if value.call is not None)]))
        params = frozenset().union(*(value.params for value in values if value.call is None))
        above = 0
        for source in sources:
            above |= self.graph.above[source] | 1 << source
        self.graph.above.append(above)
        shape = tuple(result.shape)
        self.graph.calls.append(Call(name, number, sources, tuple(operands), params, self._part, shape, plain, prefix))
        return len(self.graph.calls) - 1

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function and record what it computed from what."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = list(tensors_of((args, kwargs)))
        values = [self._value(leaf) for leaf in given]
        out = func(*args, **kwargs)
        written = bool(args) and isinstance(args[0], Tensor) and in_place(name, args, kwargs)
        results = [args[0]] if written and not isinstance(out, Tensor) else list(tensors_of(out))
        if not results:
            return out
        self._number += 1
        self._record(name, func, args, kwargs, given, values, results)
        if written and args[0]._is_view() and args[0]._base is not None:  # what it is a view of has changed as well
            whole = args[0]._base
            both = [self._value(whole), self._value(results[0])]
            if whole is not results[0] and any(value.call is not None for value in both):
                call = self._new("written", -1, both, [Operand(value.call, ()) for value in both], whole)
                self._known[id(whole)] = whole, _Value(call, frozenset(), True)
        return out

    def _record(
        self,
        name: str,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[Tensor],
        values: list[_Value],
        results: list[Tensor],
    ) -> None:
        from_input = any(value.from_input for value in values)
        live = any(value.call is not None for value in values) or (from_input and name in EMBEDDINGS)
        floating = any(leaf.is_floating_point() or leaf.is_complex() for leaf in results)
        if not live or not floating or name in DETACHING or func is _DATA:
            params = frozenset().union(*(value.params for value in values))
            for leaf in results:
                self._known[id(leaf)] = leaf, _Value(None, params, from_input)
            return
        prefix = None
        if name in CATS:
            dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
            keys = [(id(leaf), value.call) for leaf, value in zip(given, values, strict=True)]
            for count in range(len(keys), 0, -1):
                earlier, result = self._cats.get((dim, *keys[:count]), (None, None))
                if earlier is not None and result is not None and self._value(result).call == earlier:  # unchanged
                    prefix = earlier, count
                    break
        count = 0 if prefix is None else prefix[1]
        operands = [Operand(v.call, tuple(leaf.shape)) for leaf, v in zip(given, values, strict=True)]
        plain = not kwargs.keys() - {"dim", "axis", "tensors", "input", "other"} and (name in CATS or len(args) <= 2)
        call = self._new(name, self._number, values[count:], operands[count:], results[0], plain, prefix)
        if name in CATS:
            self._cats[(dim, *keys)] = call, results[0]
        for leaf in results:
            self._known[id(leaf)] = leaf, _Value(call if leaf.is_floating_point() else None, frozenset(), True)


_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
