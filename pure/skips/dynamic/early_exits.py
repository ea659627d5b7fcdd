"""Early exits: a head at every depth, and the first that is sure enough answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import EMPTY, Applied, Block, Extras, Params, no_block
from pure.composite import Run
from pure.errors import ArgumentError, ShapeError
from pure.layers.alignment import align, widen
from pure.skips.dynamic.branching import Branching
from pure.tags import tag, watching
from pure.tree import Tree

__all__ = ["EarlyExit"]


@dataclass(frozen=True, repr=False)
class EarlyExit(Branching):
    """y = head_k(s_k) for the first k with max softmax(head_k(s_k)) > threshold, else the last; s_k = stage_k(s_{k−1}).

    Each sample (and each token, where the logits have a token axis) takes its own exit. In training the output is that
    of every head, stacked along axis 1: (batch, exits, …, classes), for a loss that sums over them. In evaluation the
    logits of one: (batch, …, classes). In "branch" mode later stages run only if a sample still needs them: nested
    `If`s in ONNX.

    Children: `stage0`, `stage1`, …; `head0`, `head1`, …, or one `head` that all depths share.

    Tags: "exits" (all heads, stacked along axis 1), "gate" (1 at the exit taken, (batch, exits, …)), "stream" (y).

    Args:
        stages: the blocks of the backbone, one a depth.
        heads: one block a depth, or a single one for all depths; their outputs have one shape, classes last.
        threshold: an exit is taken where its confidence is strictly greater; 0 takes the first, 1 the last.
        mode: "select" or "branch", see `Branching`.

    Raises:
        ArgumentError: no stages, or another number of heads.
        ShapeError: heads whose outputs differ in shape.

    Source: Huang et al. 2017 (1703.09844), the budgeted exits of MSDNet; the shared head,
    Elhoushi et al. 2024 (2404.16710), section 4.

    Example:
        >>> from pure.layers import Linear
        >>> block = EarlyExit((Linear(4, 4), Linear(4, 4)), (Linear(4, 3), Linear(4, 3)), threshold=0.5)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 4)).shape, block.apply(params, torch.ones(2, 4), {}, {}, True)[0].shape
        (torch.Size([2, 3]), torch.Size([2, 2, 3]))
    """

    stages: tuple[Block, ...]
    heads: tuple[Block, ...] | Block
    threshold: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not isinstance(self.heads, Block):
            object.__setattr__(self, "heads", tuple(self.heads))
        if not self.stages or (isinstance(self.heads, tuple) and len(self.heads) != len(self.stages)):
            raise ArgumentError(
                f"EarlyExit: {len(self.stages)} stages, heads {self.heads!r}: expected at least one stage, and a head "
                "for each or one for all"
            )
        self.parts()  # whose errors name the stage or the head
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the stages, then the heads."""
        heads = {"head": self.heads} if isinstance(self.heads, Block) else _numbered("head", self.heads)
        return {**_numbered("stage", self.stages), **heads}

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the logits of the exit taken, in training of all exits, and the new states."""
        y, new_state = super().apply(params, x, state, extras, training, noise)
        if self.mode == "select" and not training:
            y = self._taken(y)
        return tag(y, "stream"), new_state

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return all heads stacked along axis 1, in "branch" mode the logits of the exit taken."""
        if self.mode == "branch":
            return self._from(0, run, x)
        logits = []
        for depth in range(len(self.stages)):
            x = run(f"stage{depth}", x)
            logits.append(self._head(depth, run, x))
            if logits[-1].shape != logits[0].shape:
                raise ShapeError(
                    f"EarlyExit: head {depth} gives {tuple(logits[-1].shape)}, head 0 {tuple(logits[0].shape)}: "
                    "expected one shape"
                )
        return tag(torch.stack(logits, 1), "exits")

    def _head(self, depth: int, run: Run, x: Any) -> Tensor:
        logits: Tensor = run("head" if isinstance(self.heads, Block) else f"head{depth}", x)
        return logits

    def _sure(self, logits: Tensor) -> Tensor:
        return torch.softmax(widen(logits), -1).amax(-1) > self.threshold

    def _taken(self, exits: Tensor) -> Tensor:
        """Return the logits of the first sure exit of (batch, exits, …, classes), else of the last."""
        sure = self._sure(exits)
        last = len(self.stages) - 1
        y, opened = exits[:, last], [torch.ones_like(sure[:, last])]
        for depth in reversed(range(last)):
            here = sure[:, depth]
            y = torch.where(align(here, y), exits[:, depth], y)
            opened = [here, *(later & ~here for later in opened)]
        if watching():
            tag(torch.stack(opened, 1).to(y.dtype), "gate", kind="gate")
        return y

    def _from(self, depth: int, run: Run, x: Any) -> Tensor:
        """Return the logits of the exit taken among those from `depth` on."""
        x = run(f"stage{depth}", x)
        logits = self._head(depth, run, x)
        if depth == len(self.stages) - 1:
            return logits
        sure = self._sure(logits)

        def deeper(x: Tensor, logits: Tensor) -> Tensor:
            return torch.where(align(sure, logits), logits, self._from(depth + 1, run, x))

        y: Tensor = self.when(~sure, deeper, lambda x, logits: logits, (x, logits))
        return y


def _numbered(name: str, blocks: tuple[Block, ...]) -> dict[str, Block]:
    for index, block in enumerate(blocks):
        if not isinstance(block, Block):
            raise no_block(f"EarlyExit {name}{index}={block!r}", block)
    return {f"{name}{index}": block for index, block in enumerate(blocks)}
