"""Identities of channels: a union-find over positions of axes.

Every position of every axis of a value has a label. Equal labels are one channel. Label 0 marks a position that cannot
be cut: of the input, of a spatial axis, of an axis that is reduced. Joining a label with 0 pins it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pure.errors import UnsupportedError

__all__ = ["Labels", "Registry", "Value", "fixed", "fixed_value"]

Labels = Tensor
"""One label for each position of an axis: an int64 vector."""


def fixed(size: int) -> Labels:
    """Return the labels of an axis that cannot be cut."""
    return torch.zeros(int(size), dtype=torch.int64)


@dataclass(frozen=True)
class Value:
    """The labels of a tensor's axes, and the leaf, (tree, name), that it is a view of, if any."""

    axes: tuple[Labels, ...]
    leaf: tuple[str, str] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes."""
        return tuple(len(axis) for axis in self.axes)


def fixed_value(shape: Iterable[int], leaf: tuple[str, str] | None = None) -> Value:
    """Return a value of that shape with no axis that can be cut."""
    return Value(tuple(fixed(size) for size in shape), leaf)


@dataclass
class Registry:
    """Which labels are one channel (a union-find), and how operations use the leaves.

    Attributes:
        parents: parent of each label; 0 is its own.
        read: labels on axes along which a kernel reads.
        kernels: leaves, as (tree, name), that are kernels.
        gains: leaves, as (tree, name), that scale channels in a norm.
    """

    parents: list[int] = field(default_factory=lambda: [0])
    read: set[int] = field(default_factory=set)
    kernels: set[tuple[str, str]] = field(default_factory=set)
    gains: set[tuple[str, str]] = field(default_factory=set)

    def fresh(self, size: int) -> Labels:
        """Return new labels; an axis of size 1 can never be cut."""
        if size == 1:
            return fixed(1)
        start = len(self.parents)
        self.parents.extend(range(start, start + size))
        return torch.arange(start, start + size)

    def root(self, label: int) -> int:
        """Return the representative label of a channel, 0 if it is pinned."""
        while self.parents[label] != label:
            self.parents[label] = self.parents[self.parents[label]]
            label = self.parents[label]
        return label

    def roots(self, labels: Labels) -> Labels:
        """Return the representative label of each position's channel."""
        return torch.tensor([self.root(label) for label in labels.tolist()], dtype=torch.int64)

    def join(self, first: Labels, second: Labels) -> Labels:
        """Make two axes the same channels, position by position, and return the first's labels.

        Raises:
            UnsupportedError: axes of different sizes.
        """
        if len(first) != len(second):
            raise UnsupportedError(f"coupled channels: axes of {len(first)} and {len(second)} positions meet")
        self.join_rows(torch.stack([first, second], 1))
        return first

    def join_rows(self, labels: Tensor) -> None:
        """Make each row of a matrix of labels one channel."""
        for row in labels.tolist():
            for label in row[1:]:
                low, high = sorted((self.root(row[0]), self.root(label)))
                self.parents[high] = low

    def pin(self, labels: Labels) -> Labels:
        """Make positions impossible to cut, and return fixed labels in their place."""
        for label in labels.tolist():
            self.parents[self.root(label)] = 0
        return fixed(len(labels))

    def pin_axes(self, value: Value, places: Iterable[int]) -> Value:
        """Return the value with some axes impossible to cut; negative ones count from the end."""
        pinned = {range(len(value.axes))[place] for place in places}
        return Value(tuple(self.pin(axis) if i in pinned else axis for i, axis in enumerate(value.axes)))

    def pin_value(self, value: Value) -> None:
        """Make every axis of a value impossible to cut."""
        self.pin_axes(value, range(len(value.axes)))

    def contract(self, axis: Labels, kernel: Value, kernel_axis: int) -> None:
        """Record that a kernel reads the channels of `axis` along one of its own axes."""
        self.join(axis, kernel.axes[kernel_axis])
        if kernel.leaf is not None:
            self.kernels.add(kernel.leaf)
            self.read.update(kernel.axes[kernel_axis].tolist())

    def broadcast(self, values: Sequence[Value]) -> tuple[Labels, ...]:
        """Join axes as elementwise arithmetic does, and return those of the result."""
        rank = max((len(value.axes) for value in values), default=0)
        axes: list[Labels] = []
        for position in range(-rank, 0):
            found = [value.axes[position] for value in values if len(value.axes) >= -position]
            size = max(map(len, found))
            wide = [labels for labels in found if len(labels) == size]
            for labels in wide[1:]:
                self.join(wide[0], labels)
            axes.append(wide[0])
        return tuple(axes)
