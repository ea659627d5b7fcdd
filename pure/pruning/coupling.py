"""Coupled channels: find, by tracing, the positions in leaves that must be cut together."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pure import tree
from pure.block import EMPTY, Block, Params, Shape, State
from pure.pruning.labels import Registry, Value, fixed_value
from pure.pruning.rules import apply_rule

__all__ = ["ChannelGroup", "Member", "coupled_channels"]

Role = Literal["writes", "reads", "gains", "follows"]


@dataclass(frozen=True)
class Member:
    """One axis of one leaf in a group.

    Attributes:
        name: the leaf's dotted name.
        axis: the axis.
        indices: for each channel of the group, its positions on the axis; several where channels were flattened
            together with space, or where a leaf feeds two places.
        role: "writes" for the output axis of a kernel, "reads" for an input axis, "gains" for the factor of a norm,
            "follows" for the rest, such as biases and statistics.
        tree: "params" or "state".
    """

    name: str
    axis: int
    indices: tuple[tuple[int, ...], ...]
    role: Role
    tree: Literal["params", "state"] = "params"


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that occupy the same axes; each of them can be cut without the others.

    Attributes:
        name: the first leaf that writes them; followed by "#2", "#3", … if it writes several groups.
        members: the axes.
    """

    name: str
    members: tuple[Member, ...]

    def __len__(self) -> int:
        """Return the number of channels."""
        return len(self.members[0].indices)

    def __str__(self) -> str:
        axes = ", ".join(f"{member.name}[{member.axis}] {member.role}" for member in self.members)
        return f"{len(self)} channels of {self.name}: {axes}"


def coupled_channels(
    block: Block,
    params: Params,
    x: Shape | Any,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
) -> tuple[ChannelGroup, ...]:
    """Return the groups of channels that can be cut, each with all the axes it occupies.

    Evaluation is traced on shapes alone, and the identity of every channel is followed through the graph: additions
    and gates join the channels of their operands, so that all writers of one stream (stem, branches, projections)
    share their channels; concatenation keeps them apart; flattening a map gives each channel several positions.
    Channels that cannot be cut without changing the others are in no group: the axes of input and output, axes that a
    layer norm, a softmax or a mean runs over, and split axes such as heads. Grouped convolutions and group norms lose
    whole groups.

    Args:
        block: any block.
        params: its parameters; shapes alone are read.
        x: shape of the input, batch axis first, or an example input.
        state: its state.
        extras: what the block reads beside `x`.

    Raises:
        UnsupportedError: an operation whose effect on channels is not known; it is named.

    Source: the coupling of residual streams is that of Li et al. 2016 (1608.08710), section 3.3.

    Example:
        >>> from pure import nets
        >>> block = nets.simple_block(2, 3, 4)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> for group in coupled_channels(block, params, (1, 2)):
        ...     print(group)
        3 channels of fc1.weight: fc1.weight[0] writes, fc1.bias[0] follows, fc2.weight[1] reads
    """
    example = torch.zeros(tuple(x)) if is_shape(x) else x
    given = tuple(tree.tree_map(_on_meta, part) for part in (params, example, state, dict(extras)))

    def evaluated(params: Params, x: Any, state: State, extras: Any) -> list[Any]:
        return tree.leaves(block(params, x, state, extras))

    with torch.no_grad():
        graph = make_fx(evaluated)(*given)
    registry = Registry()
    leaves = {
        (which, name): Value(tuple(registry.fresh(size) for size in leaf.shape), (which, name))
        for which, part in (("params", given[0]), ("state", given[2]))
        for name, leaf in tree.flatten(part).items()
    }
    _follow(graph, registry, given, leaves)
    return _groups(registry, leaves)


def is_shape(x: Any) -> bool:
    """Return whether an input was given by its shape alone."""
    return isinstance(x, tuple | list) and all(isinstance(size, int) for size in x)


def _on_meta(leaf: Any) -> Any:
    """Return the leaf on the meta device, floating point as float32: the trace needs shapes only."""
    return tree.cast(leaf.detach().to("meta"), torch.float32) if isinstance(leaf, Tensor) else leaf


def _follow(
    graph: torch.fx.GraphModule,
    registry: Registry,
    given: Sequence[Any],
    leaves: Mapping[tuple[str, str], Value],
) -> None:
    """Apply the rule of every node, from inputs to outputs, which joins and pins channels in the registry."""
    inputs = iter(_inputs(given, leaves))
    values: dict[torch.fx.Node, Any] = {}

    def value(node: torch.fx.Node) -> Any:
        return values[node]

    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(inputs)
            if not node.users and values[node] is not None:
                registry.pin_value(values[node])
        elif node.op == "get_attr":
            held = getattr(graph, str(node.target))
            values[node] = fixed_value(held.shape) if isinstance(held, Tensor) else held
        elif node.op == "output":
            for last in node.all_input_nodes:
                registry.pin_value(values[last])
        elif node.target is operator.getitem:
            values[node] = values[node.args[0]][node.args[1]]
        else:
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), value)
            made = node.meta.get("val")
            first = made[0] if isinstance(made, tuple | list) else made
            shape = tuple(first.shape) if isinstance(first, Tensor) else ()
            out = apply_rule(registry, node.target, shape, args, kwargs)
            if isinstance(made, tuple | list):
                values[node] = out if isinstance(out, tuple) else (out,) * len(made)
            else:
                values[node] = out[0] if isinstance(out, tuple) else out


def _inputs(given: Sequence[Any], leaves: Mapping[tuple[str, str], Value]) -> list[Any]:
    """Return the value of each placeholder, in order: params, x, state, extras."""
    params, x, state, extras = given
    found: list[Any] = []
    for which, part in (("params", params), ("x", x), ("state", state), ("extras", extras)):
        if which in ("params", "state"):
            by_id = {id(leaf): leaves[which, name] for name, leaf in tree.flatten(part).items()}
            found += [by_id[id(leaf)] for leaf in tree.leaves(part)]
        else:
            found += [fixed_value(leaf.shape) if isinstance(leaf, Tensor) else None for leaf in tree.leaves(part)]
    return found


def _groups(registry: Registry, leaves: Mapping[tuple[str, str], Value]) -> tuple[ChannelGroup, ...]:
    """Collect the positions of each channel, and group the channels that occupy the same axes."""
    channels: dict[int, dict[tuple[str, str, int], list[int]]] = {}
    for (which, name), value in leaves.items():
        for axis, labels in enumerate(value.axes):
            for position, root in enumerate(registry.roots(labels).tolist()):
                if root:
                    channels.setdefault(root, {}).setdefault((which, name, axis), []).append(position)
    alike: dict[Any, list[dict[tuple[str, str, int], list[int]]]] = {}
    for places in channels.values():
        alike.setdefault(tuple((place, len(positions)) for place, positions in places.items()), []).append(places)
    groups: list[ChannelGroup] = []
    for found in alike.values():
        if len(found) < 2:
            continue  # the only channel of its axes stays
        members = tuple(
            Member(
                name,
                axis,
                tuple(tuple(places[which, name, axis]) for places in found),
                _role(registry, leaves[which, name], axis),
                "params" if which == "params" else "state",
            )
            for which, name, axis in found[0]
        )
        first = next((member for member in members if member.role == "writes"), members[0]).name
        taken = sum(group.name.partition("#")[0] == first for group in groups)
        groups.append(ChannelGroup(f"{first}#{taken + 1}" if taken else first, members))
    return tuple(groups)


def _role(registry: Registry, value: Value, axis: int) -> Role:
    if value.leaf in registry.gains:
        return "gains"
    if value.leaf not in registry.kernels:
        return "follows"
    return "reads" if registry.read.intersection(value.axes[axis].tolist()) else "writes"
