"""The small networks of the tutorials, and classifiers for comparing skips."""

from __future__ import annotations

from functools import partial
from typing import Final

from pure import nets
from pure.catalogue.cases import Case
from pure.catalogue.parts import HE, IMAGE, ROWS

__all__ = ["CASES"]

CASES: Final[tuple[Case, ...]] = (
    Case("simple_block", "network", partial(nets.simple_block, 6, 8, 3), ROWS, "W₂ relu(W₁ x)", "tutorial"),
    Case(
        "simple_block_with_skip",
        "network",
        partial(nets.simple_block_with_skip, 6, 8, 6),
        ROWS,
        "x + W₂ relu(W₁ x)",
        "tutorial",
    ),
    Case(
        "dynamic_net",
        "network",
        partial(nets.dynamic_net, 6, 8, 3),
        ROWS,
        "fc3(relu(fc2 h) if c > ½ else h), h = relu(fc1 x)",
        "tutorial",
        control=0.9,
    ),
    Case(
        "residual_block",
        "network",
        partial(nets.residual_block, 4, 6, 1, "project"),
        IMAGE,
        "S(x) + conv₂(relu(conv₁ x))",
        "tutorial",
    ),
    Case(
        "tutorial_resnet",
        "network",
        partial(nets.tutorial_resnet, (4, 6, 8)),
        IMAGE,
        "block₂(relu(block₁ x))",
        "tutorial",
    ),
    Case("residual_mlp", "network", partial(nets.residual_mlp, 6, 8, 3, 0.5, "tanh"), ROWS, "blocks in a row", HE),
    Case(
        "plain_mlp", "network", partial(nets.plain_mlp, 6, 8, 3, 4), ROWS, "relu(W x + b), repeated", "He et al. 2015"
    ),
    Case("skip_mlp", "network", partial(nets.skip_mlp, 6, 8, 3, 4), ROWS, "x + relu(W x + b)/√L, repeated", HE),
    Case(
        "dense_mlp",
        "network",
        partial(nets.dense_mlp, 6, 8, 3, 3, 4),
        ROWS,
        "[x, relu(W x + b)], repeated",
        "1608.06993",
    ),
    Case("highway_mlp", "network", partial(nets.highway_mlp, 6, 8, 3, 4), ROWS, "highway layers", "1505.00387"),
)
