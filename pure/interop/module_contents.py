"""What an `nn.Module` holds beyond parameters and buffers, recorded so that every call starts from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Contents", "computed_tensors", "reachable"]

Container = dict[Any, Any] | list[Any] | set[Any] | deque[Any]
_CONTAINERS = (dict, list, set, deque)
_PLAIN = nn.Module()
_NOT_WALKED = (type, ModuleType, FunctionType, MethodType)


def _holds_attributes(value: object) -> bool:
    """Return whether an object may keep something for its module; PyTorch's own, as an `fx.Graph`, do not."""
    if isinstance(value, _NOT_WALKED) or type(value).__module__.partition(".")[0] == "torch":
        return False
    return isinstance(getattr(value, "__dict__", None), dict)


def reachable(root: object) -> Iterator[object]:
    """Yield all containers, `__dict__`s and tensors that an object or module holds, each once."""
    pending, seen = [root], set[int]()
    while pending:
        value = pending.pop()
        if value is None or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield value
            pending.extend(value.values())
        elif isinstance(value, list | set | deque):
            yield value
            pending.extend(value)
        elif isinstance(value, tuple | frozenset):
            pending.extend(value)
        elif isinstance(value, nn.Module) or _holds_attributes(value):
            pending.append(vars(value))


def computed_tensors(module: nn.Module) -> list[Tensor]:
    """Return the tensors in attributes and containers of a module that autograd computed from others."""
    return [value for value in reachable(module) if isinstance(value, Tensor) and not value.is_leaf]


def _registries(part: nn.Module) -> list[object]:
    """Return the dicts and sets in which `nn.Module` itself keeps parameters, buffers, submodules and hooks."""
    names = vars(_PLAIN)
    return [held for name in names if (held := vars(part).get(name)) is not None]


def _versioned(leaf: Tensor) -> bool:
    return not (leaf.is_inference() or leaf.is_meta)


class Contents:
    """The attributes and containers of a module's parts, and how they were at first.

    Modules that keep something between calls, such as an attention bias in a dict, otherwise compute with the
    parameters of an earlier call, and keep tracers' tensors.

    Args:
        module: the module whose parts may change.
        shared: an object some of whose contents the module may share, as its original; those are left alone.
    """

    def __init__(self, module: nn.Module, shared: nn.Module | None = None) -> None:
        foreign = set() if shared is None else {id(value) for value in reachable(shared)}
        found = [value for value in reachable(module) if id(value) not in foreign]
        containers = [value for value in found if isinstance(value, _CONTAINERS)]
        self._empty = [value for value in containers if not value]
        self._mappings = [(value, dict(value)) for value in containers if value and isinstance(value, dict)]
        self._others = [(value, list(value)) for value in containers if value and not isinstance(value, dict)]
        self._parts = [(part, dict(vars(part)), dict(part._buffers)) for part in module.modules()]
        within = {id(held) for part, *_ in self._parts for held in (vars(part), *_registries(part))}
        self._kept = [container for container in self._empty if id(container) not in within]
        self._kept_mappings = [pair for pair in self._mappings if id(pair[0]) not in within]
        owned = {id(leaf) for leaf in (*module.parameters(), *module.buffers())}
        tensors = (value for value in found if isinstance(value, Tensor) and id(value) not in owned)
        self._tensors = [(leaf, leaf.detach().clone(), leaf._version) for leaf in tensors if _versioned(leaf)]

    def restore_compiled(self) -> None:
        """Do the same in the way that TorchDynamo follows: it loses changes of a module's `__dict__` itself."""
        for part, attributes, buffers in self._parts:
            for name in [name for name, leaf in part._buffers.items() if leaf is not buffers.get(name)]:
                if name in buffers:
                    setattr(part, name, buffers[name])
                else:
                    delattr(part, name)
            for name, value in attributes.items():
                if name[0] != "_" and getattr(part, name) is not value:
                    setattr(part, name, value)
            for name in [name for name in vars(part) if name not in attributes]:
                if hasattr(type(part), name):  # where TorchDynamo would delete an attribute that it has not yet set
                    setattr(part, name, getattr(type(part), name))
                else:
                    delattr(part, name)
        for mapping, pairs in self._kept_mappings:
            mapping.clear()
            mapping.update(pairs)
        for container in self._kept:
            container.clear()

    def restore(self) -> None:
        """Put everything back that a call has added, removed, replaced or written to."""
        if any(self._empty):
            for container in self._empty:
                container.clear()
        for mapping, pairs in self._mappings:
            mapping.clear()
            mapping.update(pairs)
        for container, items in self._others:
            container.clear()
            if isinstance(container, set):
                container.update(items)
            else:
                container.extend(items)
        for index, (leaf, saved_leaf, version) in enumerate(self._tensors):
            if leaf._version != version:
                with torch.no_grad():
                    leaf.copy_(saved_leaf)
                self._tensors[index] = leaf, saved_leaf, leaf._version
