"""A call of anyone's function or module with everything fixed but its tensors.

The call becomes a pure function `(weights, *leaves) -> {name: tensor}`: of a module, `weights` are its parameters and
buffers; `leaves` are the tensors in the arguments, named by their dotted paths.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from export.errors import ArgumentError
from export.files.pytree_structure import describe
from export.trace.arguments import Arguments, is_tensor, shifted
from export.trace.signature import function_name
from pure.interop.one_path import ONE_PATH
from pure.tree import tree_unflatten
from pure.tree.pytree import flatten_with_paths

__all__ = ["FlatCall", "named_outputs"]


class FlatCall:
    """A function or module with its example call.

    Args:
        fn: the pure function, block or module. A module stays as it is: each call runs on a copy that shares its
            tensors, so that what a forward leaves behind in the module is gone.
        args: its positional arguments.
        kwargs: its arguments by name.

    Attributes:
        names: dotted names of the tensors in the arguments, such as `input_ids` or `params.fc1.weight`.
        leaves: these tensors.
        owner: for each leaf the name of its argument.
        weights: parameters and buffers of a module by name; empty for a function.

    Raises:
        ArgumentError: if the arguments do not fit the signature.
    """

    def __init__(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> None:
        self.fn = fn
        self.__name__ = function_name(fn)
        self.weights: dict[str, Tensor] = {}
        if isinstance(fn, torch.nn.Module):
            held = [*fn.named_parameters(), *fn.named_buffers()]
            self.weights = {name: tensor.detach() for name, tensor in held}
        self._bound = _bind(fn, args, dict(kwargs or {}))
        found, self._spec = _named_leaves(dict(self._bound.arguments))
        self._values = [value for _, value in found]
        self._places = [i for i, value in enumerate(self._values) if is_tensor(value)]
        paths = [found[i][0] for i in self._places]
        more = {p.name for p in self._bound.signature.parameters.values() if p.kind is p.VAR_KEYWORD}
        paths = [path[1:] if path[0] in more else path for path in paths]
        self.names = tuple(".".join(path) for path in paths)
        self.owner = tuple(path[0] for path in paths)
        self.leaves = tuple(self._values[i].detach() for i in self._places)

    def __call__(self, weights: Mapping[str, Tensor], *leaves: Tensor) -> dict[str, Tensor]:
        """Call the function with other tensors; return its result's tensors by name."""
        values = list(self._values)
        for place, leaf in zip(self._places, leaves, strict=True):
            values[place] = leaf
        self._bound.arguments.update(tree_unflatten(values, self._spec))
        args, kwargs = self._bound.args, self._bound.kwargs
        if not isinstance(self.fn, torch.nn.Module):
            return named_outputs(self.fn(*args, **kwargs))
        module = copy.deepcopy(self.fn, {id(tensor): tensor for tensor in _held(self.fn)})
        if module.training:  # statistics may be written in place
            buffers = {name for name, _ in module.named_buffers()}
            weights = {name: tensor.clone() if name in buffers else tensor for name, tensor in weights.items()}
        with ONE_PATH:  # the fused kernels round, and treat padding, differently
            return named_outputs(torch.func.functional_call(module, dict(weights), args, kwargs))

    def arguments(self, axes: Sequence[Mapping[int, str]] | None = None) -> Arguments:
        """Return the arguments of this function taken apart, with these dynamic axes of the leaves."""
        structure, weights, weight_names = describe(self.weights, is_tensor, "weights")
        count = len(weights)
        return Arguments(
            names=("weights", *self.names),
            structures=(structure, *(shifted({"leaf": i}, count) for i in range(len(self.leaves)))),
            leaves=(*weights, *self.leaves),
            leaf_names=(*(name.removeprefix("weights.") for name in weight_names), *self.names),
            owner=(*[0] * count, *range(1, len(self.leaves) + 1)),
            axes=(*[{}] * count, *map(dict, axes or [{}] * len(self.leaves))),
        )


def named_outputs(result: Any) -> dict[str, Tensor]:
    """Return a result's tensors by dotted name: of containers, dataclasses and registered pytrees.

    Raises:
        ArgumentError: if it holds no tensor, or something that cannot be looked into.
    """
    found: dict[str, Tensor] = {}
    for path, tensor in _walk(result, ""):
        found[path or "out"] = tensor
    if not found:
        raise ArgumentError(f"the function gives no tensors but a {type(result).__name__}; return tensors to compare")
    return found


def _walk(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if is_tensor(value):
        yield path, value
        return
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return
    children: list[tuple[Any, Any]]
    if isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        children = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (list, tuple)):
        children = list(enumerate(value))
    elif dataclasses.is_dataclass(value):
        children = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    else:
        leaves, _ = _named_leaves(value)
        if len(leaves) == 1 and not leaves[0][0]:
            raise ArgumentError(
                f"the result holds a {type(value).__name__} at {path or 'its root'}, which is no container of tensors; "
                "wrap the function so that it returns tensors"
            )
        children = [(".".join(keys), leaf) for keys, leaf in leaves]
    for key, child in children:
        yield from _walk(child, f"{path}.{key}" if path else str(key))


def _bind(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    if not isinstance(args, (tuple, list)):
        raise ArgumentError(
            f"args must be the tuple of {function_name(fn)}'s arguments, got a {type(args).__name__}; write (x,)"
        )
    target = fn.forward if isinstance(fn, torch.nn.Module) else fn
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # of a builtin
        parameters = [inspect.Parameter(f"arg{i}", inspect.Parameter.POSITIONAL_ONLY) for i in range(len(args))]
        named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs]
        signature = inspect.Signature([*parameters, *named])
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(
            f"{function_name(fn)}{signature} cannot be called with {len(args)} arguments"
            f"{' and ' + ', '.join(kwargs) if kwargs else ''}: {error}"
        ) from error


def _named_leaves(tree: Any) -> tuple[list[tuple[tuple[str, ...], Any]], Any]:
    """Return the leaves of any pytree, each with its keys, positions or attributes from the root; and the structure."""
    found, spec = flatten_with_paths(tree)
    key = lambda step: str(getattr(step, "key", getattr(step, "idx", getattr(step, "name", step))))  # noqa: E731
    return [(tuple(map(key, path)), leaf) for path, leaf in found], spec


def _held(module: torch.nn.Module) -> Iterator[Tensor]:
    """Yield every tensor that the module's parts hold, plain attributes too."""
    for part in module.modules():
        yield from part.parameters(recurse=False)
        yield from part.buffers(recurse=False)
        yield from (value for value in vars(part).values() if isinstance(value, Tensor))
