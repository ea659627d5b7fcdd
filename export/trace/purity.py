"""What makes a recorded function impure: random numbers, changed arguments, shapes that depend on data."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from export.errors import MutationError, RandomOpError, TracingError

__all__ = ["check_purity", "drop_releases", "graphs", "mutated_arguments", "mutates", "random_message", "uses"]

_SEEDED = torch.Tag.nondeterministic_seeded


_TRAINING_FLAG = {"native_batch_norm": 5, "cudnn_batch_norm": 5, "miopen_batch_norm": 5}
"""Operators that change their running statistics without saying so in their schema: position of `training`."""


def graphs(graph: torch.fx.GraphModule) -> list[torch.fx.GraphModule]:
    """Return a graph module and those of its branches, at any depth."""
    return [module for module in graph.modules() if isinstance(module, torch.fx.GraphModule)]


def mutated_arguments(node: torch.fx.Node) -> list[torch.fx.Node]:
    """Return the argument nodes that an operation changes in place."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return []
    if (flag := _TRAINING_FLAG.get(schema.name.removeprefix("aten::"))) is not None:
        changed = node.args[3:5] if node.args[flag] else ()
        return [arg for arg in changed if isinstance(arg, torch.fx.Node)]
    if not schema.is_mutable:
        return []
    changed_nodes = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            values = value if isinstance(value, (list, tuple)) else [value]
            changed_nodes += [item for item in values if isinstance(item, torch.fx.Node)]
    return changed_nodes


def uses(graph: torch.fx.GraphModule, operators: Container[Any]) -> bool:
    """Tell whether any of these operators was recorded."""
    return any(node.target in operators for module in graphs(graph) for node in module.graph.nodes)


def mutates(graph: torch.fx.GraphModule) -> bool:
    """Tell whether anything is changed in place."""
    return any(mutated_arguments(node) for module in graphs(graph) for node in module.graph.nodes)


def drop_releases(graph: torch.fx.GraphModule) -> None:
    """Drop every `x.set_()` whose result nothing uses: it frees the memory of a tensor that is needed no more."""
    for module in graphs(graph):
        for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.set_.default):
            if not node.users:
                module.graph.erase_node(node)


def _storage(value: object) -> int | None:
    return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else None


def check_purity(graph: torch.fx.GraphModule, fakes: Sequence[torch.Tensor]) -> None:
    """Raise for random operations and for changes to arguments or captured tensors."""
    given = {_storage(fake) for fake in fakes}
    for module in graphs(graph):
        for node in module.graph.nodes:
            if node.op == "call_function" and _SEEDED in getattr(node.target, "tags", ()) and node.users:
                raise RandomOpError(random_message(str(node.target), node.meta.get("source", "")))
            if free_unbacked_symbols(node.meta.get("val")):
                raise TracingError(_data_message(node))
            for changed in mutated_arguments(node):
                outside = changed.op == "get_attr" or _storage(changed.meta.get("val")) in given
                outside = outside or (changed.op == "placeholder" and node.target == torch.ops.aten.set_.default)
                if outside:
                    raise MutationError(
                        f"the function changes a tensor that it did not make ({node.target} writes to {changed.name}); "
                        "a file is a pure function. Return the new value instead: x + 1 rather than x.add_(1), "
                        "F.batch_norm(x, None, None, …) with "
                        f"the new statistics as outputs.\n  source: {node.meta.get('source', '')}"
                    )


def random_message(what: str, source: str) -> str:
    """Say what is wrong with random numbers and what to do instead."""
    return (
        f"the function draws random numbers ({what}); a file computes the same result for the same inputs. Draw the "
        "noise outside and pass it as an argument (block.noise(x.shape, generator) does), or use evaluation mode."
        f"\n  source: {source}"
    )


def _data_message(node: torch.fx.Node) -> str:
    what = "a tensor's value in Python (.item(), float(x), a slice's end)"
    if isinstance(node.meta["val"], (torch.Tensor, tuple, list)):
        what = f"{node.target}, whose result's shape depends on the data"
    return (
        f"the function uses {what}; a graph cannot. Use torch.where to select, torch.cond to branch, a mask to "
        "multiply with."
        f"\n  source: {node.meta.get('source', '')}"
    )
