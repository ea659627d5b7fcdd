"""What is drawn of a block: boxes, columns, skips, gates and forks, read off its children."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from export.app.reference.flow import Flow
from pure import tree
from pure.block import Block, specification
from pure.compose import MixedPrecision, Parallel, Rename, Repeat, Sequential
from pure.compose.wrapper import Wrapper
from pure.layers import Activation, Conv1d, Conv2d, Conv3d, Dropout, DropPath, Linear
from pure.layers.activation import activation_name
from pure.skips import DenseSkip, Dynamic, Highway, Identity, Residual, Shortcut

__all__ = ["Box", "Column", "Fork", "Frame", "Gate", "Skip", "Wire", "drawing_of", "has_unknown", "sizes"]

MAX_BOXES: Final = 18
"""A drawing with more boxes than this is drawn less deep."""
MAX_DEPTH, MIN_DEPTH = 6, 2
MAX_COLUMN_PARTS: Final = 14
"""A column of more parts than this shows its ends."""
JOINS: Final = {"sum": "+", "mean": "mean", "product": "×", "concat": "concat"}


@dataclass(frozen=True)
class Box:
    """A box: "weights" if it has parameters, "plain" if not, "block" if it has parts that are not drawn.

    A "node" is where the parts of a block meet, as its formula says.
    """

    title: str
    detail: str = ""
    kind: str = "plain"


@dataclass(frozen=True)
class Wire:
    """Nothing: the value as it is."""


@dataclass(frozen=True)
class Column:
    """Parts one after another; without arrows, parts beside no order."""

    parts: tuple[Any, ...]
    arrows: bool = True


@dataclass(frozen=True)
class Frame:
    """A part with a title around it."""

    title: str
    body: Any


@dataclass(frozen=True)
class Skip:
    """A branch, and what is carried past it."""

    branch: Any
    shortcut: Any
    join: str


@dataclass(frozen=True)
class Gate:
    """A transform and the stream, mixed by a gate."""

    transform: Any
    gate: Any


@dataclass(frozen=True)
class Fork:
    """Arms on one input that meet."""

    arms: tuple[Any, ...]
    join: str


@dataclass(frozen=True)
class Place:
    """Where a block stands: its path, the name that is shown, and how the run went that its arrows are read off."""

    flow: Flow | None = None
    path: tuple[str, ...] = ()
    shown: str = ""

    def child(self, name: str, shown: str = "") -> Place:
        """Return the place of a child."""
        return Place(self.flow, (*self.path, name), shown)


def drawing_of(block: Block, flow: Flow | None = None) -> Any:
    """Return what to draw, as deep as fits; without a recorded run, children of unknown blocks stand side by side."""
    for depth in range(MAX_DEPTH, MIN_DEPTH, -1):
        drawn = part(block, depth, Place(flow))
        if boxes(drawn) <= MAX_BOXES:
            return drawn
    return part(block, MIN_DEPTH, Place(flow))


def has_unknown(block: Block) -> bool:
    """Return whether something in the block is drawn by what its children feed each other, which takes a run."""
    known = Sequential | Parallel | Residual | Highway | DenseSkip | Dynamic | Repeat | Wrapper | Shortcut
    children = block.block.children() if isinstance(block, Wrapper) else block.children()
    inner = any(has_unknown(child) for child in children.values())
    here = block.block if isinstance(block, Wrapper) else block
    return inner or (bool(children) and not isinstance(here, known))


def boxes(node: Any) -> int:
    """Return how many boxes a drawing has."""
    if isinstance(node, Box):
        return 1
    values = [getattr(node, field.name) for field in dataclasses.fields(node)]
    flat = [entry for value in values for entry in (value if isinstance(value, tuple) else (value,))]
    return sum(boxes(entry) for entry in flat if dataclasses.is_dataclass(entry))


def part(block: Block, depth: int, at: Place) -> Any:
    """Return the drawing of a block, looking `depth` levels into it."""
    if isinstance(block, Rename):
        return part(block.block, depth, at)
    children = block.children()
    if type(block) is Identity:
        return Wire()
    if not children or isinstance(block, Shortcut):
        return leaf_box(block, at.shown)
    if depth <= 0:
        return closed(block, at.shown)
    if isinstance(block, Repeat):
        return Frame(f"× {block.depth}, stacked", part(block.block, depth - 1, at.child("0")))
    if isinstance(block, Wrapper):
        title = str(block.dtype).removeprefix("torch.") if isinstance(block, MixedPrecision) else type(block).__name__
        return Frame(title, part(block.block, depth - 1, Place(at.flow, at.path)))
    if isinstance(block, Sequential):
        return _column(block, depth, at)
    if isinstance(block, Parallel):
        arms = tuple(part(child, depth - 1, at.child(name)) for name, child in children.items())
        return Fork(arms, JOINS[block.join])
    return _skip(block, depth, at)


def _skip(block: Block, depth: int, at: Place) -> Any:
    """Return the drawing of one of the skips, or of a block that is none of them."""

    def child(name: str) -> Any:
        return part(block.children()[name], depth - 1, at.child(name))

    if isinstance(block, Residual):
        branch = child("branch")
        if block.scale != 1.0:
            branch = Column((branch, Box(f"× {block.scale:.4g}")))
        skip = Skip(branch, child("shortcut"), "+")
        return skip if block.activation == "identity" else Column((skip, Box(activation_name(block.activation))))
    if isinstance(block, Highway):
        return Gate(child("transform"), part(block.gate, depth - 1, at.child("gate", "gate")))
    if isinstance(block, DenseSkip):
        return Skip(child("branch"), Wire(), "concat")
    if isinstance(block, Dynamic):
        return Skip(child("branch"), Wire(), f"c > {block.threshold:g} ?")
    return _composite(block, depth, at)


def _column(block: Sequential, depth: int, at: Place) -> Any:
    items = [(key, child) for key, child in block.items if type(child) is not Identity]
    parts = []
    for count, (key, child) in runs(items):
        shown = "" if key.isdigit() or count > 1 else key
        drawn = part(child, depth - 1, at.child(key, shown))
        if isinstance(drawn, Column) and len(items) > 1 and count == 1 and not isinstance(child, Residual):
            drawn = Frame(shown, drawn)
        parts.append(Frame(f"× {count}", drawn) if count > 1 else drawn)
    parts = [entry for entry in parts if not isinstance(entry, Wire)]
    if len(parts) > MAX_COLUMN_PARTS:
        hidden = len(parts) - MAX_COLUMN_PARTS + 1
        parts = [*parts[: MAX_COLUMN_PARTS - 4], Box(f"… {hidden} more", "", "block"), *parts[-3:]]
    if not parts:
        return Wire()
    return parts[0] if len(parts) == 1 else Column(tuple(parts))


def runs(items: Sequence[tuple[str, Block]]) -> list[tuple[int, tuple[str, Block]]]:
    """Return (how many, the first item) of each run of children that are alike but for numbers such as rates."""
    found: list[tuple[int, tuple[str, Block]]] = []
    for name, child in items:
        if found and child.children() and likeness(found[-1][1][1]) == likeness(child):
            found[-1] = (found[-1][0] + 1, found[-1][1])
        else:
            found.append((1, (name, child)))
    return found


def likeness(block: Block) -> Any:
    """Return what two blocks have in common that are drawn alike: classes, whole numbers, words and children."""
    own = tuple(
        (field.name, value)
        for field in dataclasses.fields(block)
        if field.init and isinstance(value := getattr(block, field.name), int | str) and not isinstance(value, bool)
    )
    return type(block), own, tuple((name, likeness(child)) for name, child in block.children().items())


def _composite(block: Block, depth: int, at: Place) -> Any:
    """Return the children of any other block as they feed each other, meeting in a node with the block's class."""
    drawn: dict[str, Any] = {}
    for count, (name, child) in runs(list(block.children().items())):
        inner = part(child, depth - 1, at.child(name, "" if count > 1 else name))
        if not isinstance(inner, Wire):
            drawn[name] = Frame(f"× {count}", inner) if count > 1 else inner
    if not drawn:
        return closed(block, at.shown)
    title = type(block).__name__
    levels = [list(drawn)] if at.flow is None else at.flow.rows(at.path, list(drawn))
    parts = [_abreast([drawn[name] for name in names]) for names in levels]
    if at.flow is not None and at.flow.bypassed(at.path):
        return Skip(parts[0] if len(parts) == 1 else Column(tuple(parts)), Wire(), title)
    node = Box(title, own_numbers(block), "node")
    if at.flow is not None and len(parts) > 1 and len(levels[-1]) == 1 and at.flow.ends_in(at.path, levels[-1][0]):
        return Column((*parts[:-1], node, parts[-1]))
    return Column((*parts, node))


def _abreast(arms: list[Any]) -> Any:
    if len(arms) == 1:
        return arms[0]
    return Fork(tuple(arms), "") if len(arms) <= 4 else Column(tuple(arms), arrows=False)


def closed(block: Block, name: str) -> Box:
    """Return the box of a block whose parts are not shown."""
    title = type(block).__name__
    return Box(_titled(name, title), f"{tree.count(specification(block)[0]):,} parameters", "block")


def _titled(name: str, title: str) -> str:
    return f"{name}: {title}" if name and name not in ("branch", "shortcut") else title


def leaf_box(block: Block, name: str) -> Box:
    """Return the box of a block that is one operation, with its sizes."""
    if isinstance(block, Activation):
        return Box(activation_name(block.name))
    kind = "weights" if specification(block)[0] else "plain"
    return Box(_titled(name, type(block).__name__), sizes(block), kind)


def sizes(block: Block) -> str:
    """Return the sizes of a block in a few words.

    >>> sizes(Linear(6, 8)), sizes(Conv2d(4, 6, 3, stride=2)), sizes(DropPath(0.1))
    ('6 → 8', '4 → 6, 3×3, /2', '0.1')
    """
    if isinstance(block, Linear):
        return f"{block.in_features} → {block.out_features}"
    if isinstance(block, Conv1d | Conv2d | Conv3d):
        return _convolution(block)
    if isinstance(block, Dropout | DropPath):
        return f"{block.rate:g}"
    ends = getattr(block, "in_channels", None), getattr(block, "out_channels", None)
    if None not in ends:
        stride = getattr(block, "stride", 1)
        return f"{ends[0]} → {ends[1]}" + (f", /{stride}" if stride != 1 else "")
    return own_numbers(block)


def _convolution(block: Conv1d | Conv2d | Conv3d) -> str:
    kernel = block.kernel_size if isinstance(block.kernel_size, tuple) else (block.kernel_size,) * block.dims
    words = [f"{block.in_channels} → {block.out_channels}", "×".join(map(str, kernel))]
    if block.stride not in (1, (1,) * block.dims):
        words.append("/" + ("×".join(map(str, block.stride)) if isinstance(block.stride, tuple) else str(block.stride)))
    if block.groups != 1:
        words.append("depthwise" if block.groups == block.in_channels else f"{block.groups} groups")
    return ", ".join(words)


def own_numbers(block: Block, most: int = 26) -> str:
    """Return what a block was given beside other blocks, as far as it fits: numbers first seen, then words."""
    words = []
    for field in dataclasses.fields(block):
        value = getattr(block, field.name)
        if not field.init or value == field.default or isinstance(value, Block):
            continue
        if isinstance(value, bool):
            words += [field.name] if value else []
        elif isinstance(value, int | float):
            words.append(f"{value:g}" if field.default is dataclasses.MISSING else f"{field.name} {value:g}")
        elif isinstance(value, str):
            words.append(value)
        elif isinstance(value, tuple) and value and all(isinstance(entry, int) for entry in value):
            words.append("×".join(map(str, value)))
    text = ", ".join(words)
    return text if len(text) <= most else text[: most - 1].rstrip(" ,") + "…"
