"""A network as a chain of blocks, whose stacked parameters are sliced only when a block is needed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pure import tree
from pure.block import EMPTY, Block, Params, State
from pure.compose import Repeat, Sequential
from pure.compose.initialize import Initialize
from pure.errors import ArgumentError, TreeError
from pure.tree.plain import is_wrapper, plain_tensor

__all__ = ["Chain", "Link", "Links", "Span", "is_chain", "unwrapped"]

MAX_LINK_CHILDREN = 8
"""A chain of more children than this is walked into even where they are single layers."""


@dataclass(frozen=True, eq=False)
class Link:
    """One block of a chain with its own part of the trees.

    Attributes:
        name: dotted path from the outermost block, such as "layers.3".
        block: the block.
        params: its parameters; views of the stacked ones inside a `Repeat`.
        state: its state.
    """

    name: str
    block: Block
    params: Params
    state: State

    @property
    def kind(self) -> tuple[str, ...]:
        """What sort of block it is: its type, and its children's where it is a chain itself."""
        inner = unwrapped(self.block)
        names = [type(inner).__name__]
        if type(inner) is Sequential:
            names += [type(child).__name__ for _, child in inner.items]
        return tuple(names)


class Chain:
    """The links of a `Sequential`, a `Repeat`, or of those in each other; any other block is a chain of one link.

    A chain inside a chain is walked into, which is exact, where its children are blocks of their own: more than one of
    them has children, or there are more than 8. So a stage of residual blocks gives one link each, while
    `Sequential(linear, act)` or `Sequential(add=Residual(…), norm=…)` stay one link. Links are made when asked for; the
    stacked parameters of a `Repeat` are sliced, never copied.

    Args:
        block: any block.
        params: its parameters.
        state: its state.

    Attributes:
        in_parts: whether a leaf is a tensor of another class, such as DTensor, of which a link gets all.

    Raises:
        ArgumentError: `block` is no block.
        TreeError: the parameters of a `Repeat` are not stacked as deep as it is.

    Example:
        >>> import torch
        >>> from pure import Linear, Residual
        >>> net = Sequential(stem=Linear(2, 3), layers=Repeat(Residual(Linear(3, 3)), 4), head=Linear(3, 1))
        >>> params, state = net.init(torch.Generator().manual_seed(0))
        >>> chain = Chain(net, params, state)
        >>> len(chain), chain[2].name, chain[2].params["branch"]["weight"].shape
        (6, 'layers.1', torch.Size([3, 3]))
    """

    def __init__(self, block: Block, params: Params, state: State = EMPTY) -> None:
        if not isinstance(block, Block):
            raise ArgumentError(f"block is {type(block).__name__}: expected a pure.Block")
        self.block = block
        self._parts: list[Link | _Stack] = []
        self._starts: list[int] = []
        self._length = 0
        self.in_parts = any(map(is_wrapper, tree.leaves((params, state))))  # as DTensors are
        self._add("", block, params, state, outermost=True)

    def _add(self, name: str, block: Block, params: Params, state: State, outermost: bool = False) -> None:
        inner = unwrapped(block)
        if type(inner) is Repeat:
            self._append(_Stack(name, inner, params, state))
        elif type(inner) is Sequential and (outermost or _walked(inner)):
            for key, child in inner.items:
                self._add(_joined(name, key), child, params.get(key, EMPTY), state.get(key, EMPTY))
        else:
            self._append(Link(name, block, params, state))

    def _append(self, part: Link | _Stack) -> None:
        self._parts.append(part)
        self._starts.append(self._length)
        self._length += len(part) if isinstance(part, _Stack) else 1

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Link:
        if not 0 <= index < self._length:
            raise IndexError(index)
        at = bisect_right(self._starts, index) - 1
        part = self._parts[at]
        link = part.link(index - self._starts[at]) if isinstance(part, _Stack) else part
        return _plain(link) if self.in_parts else link

    def __iter__(self) -> Iterator[Link]:
        return (self[index] for index in range(self._length))


@dataclass(frozen=True, eq=False)
class Span:
    """Links of a chain that stand one behind the other, counted from 0.

    Attributes:
        chain: the whole chain.
        start: the position of the first.
        stop: the position behind the last.
    """

    chain: Chain
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Link:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.chain[self.start + index]

    def __iter__(self) -> Iterator[Link]:
        return (self[index] for index in range(len(self)))


Links = Chain | Span


class _Stack:
    """The links of one `Repeat`."""

    def __init__(self, name: str, repeat: Repeat, params: Params, state: State) -> None:
        deep = {
            leaf.shape[0] if leaf.ndim else None for leaf in tree.leaves((params, state)) if isinstance(leaf, Tensor)
        }
        if deep - {repeat.depth}:
            raise TreeError(
                f"{name or 'Repeat'}: parameters are stacked {sorted(map(str, deep))} deep, expected {repeat.depth}"
            )
        self.name, self.params, self.state = name, params, state
        self.blocks = list(repeat.children().values())
        self.depth = repeat.depth
        first = unwrapped(self.blocks[0])
        self.inner = type(first) is Repeat or (type(first) is Sequential and _walked(first))
        self.each = len(self._chain(0)) if self.inner else 1

    def __len__(self) -> int:
        return self.depth * self.each

    def _whole(self, at: int) -> Link:
        return Link(_joined(self.name, str(at)), self.blocks[at], _slice(self.params, at), _slice(self.state, at))

    def _chain(self, at: int) -> Chain:
        link = self._whole(at)
        return Chain(link.block, link.params, link.state)

    def link(self, index: int) -> Link:
        """Return the link at a position."""
        at, within = divmod(index, self.each)
        if not self.inner:
            return self._whole(at)
        link = self._chain(at)[within]
        return Link(_joined(_joined(self.name, str(at)), link.name), link.block, link.params, link.state)


def _plain(link: Link) -> Link:
    """Return a link whose parameters and state are plain tensors: of DTensors all of each, one link at a time."""
    params, state = tree.tree_map(lambda leaf: plain_tensor(leaf, f"a leaf of {link.name}"), (link.params, link.state))
    return Link(link.name, link.block, params, state)


def is_chain(block: Block) -> bool:
    """Return whether a block is a chain as far as a sweep can walk it, rather than as one link."""
    return type(unwrapped(block)) in (Sequential, Repeat)


def unwrapped(block: Block) -> Block:
    """Return the block inside wrappers that only draw other initial values."""
    while type(block) is Initialize:
        block = block.block
    return block


def _walked(chain: Sequential) -> bool:
    parents = sum(bool(child.children()) for _, child in chain.items)
    return (
        parents > 1
        or len(chain.items) > MAX_LINK_CHILDREN
        or any(type(unwrapped(child)) is Repeat for _, child in chain.items)
    )


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name and key else name or key


def _slice(stacked: Any, at: int) -> Any:
    """Return one depth of a stacked tree."""
    if isinstance(stacked, Tensor):
        return stacked[at]
    if type(stacked) is dict:
        return {key: _slice(child, at) for key, child in stacked.items()}
    return tree.tree_map(lambda leaf: leaf[at], stacked)
