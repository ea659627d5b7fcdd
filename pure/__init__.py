"""Skip, residual, dense and gated blocks as pure functions over parameter pytrees."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from pure import catalogue, errors, initializers, interop, layers, nets, optim, pruning, skips, spmd, tags, tree
from pure.block import Block, check_params
from pure.compose import (
    Checkpoint,
    Function,
    Initialize,
    MixedPrecision,
    Parallel,
    Rename,
    Repeat,
    Sequential,
    Sharded,
    Tag,
    TiedHead,
    checkpoint,
    remat,
)
from pure.composite import Composite
from pure.layers import (
    Activation,
    Attention,
    AvgPool,
    BatchNorm,
    Conv1d,
    Conv2d,
    Conv3d,
    Dropout,
    DropPath,
    Embedding,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool,
    RMSNorm,
    Scale,
)
from pure.layers.distances import cdist
from pure.scan_loop import scan
from pure.skips import (
    GLU,
    AvgPoolProject,
    Crop,
    DenseSkip,
    Dynamic,
    Highway,
    Identity,
    Interpolate,
    Pad,
    Project,
    Residual,
    Shortcut,
)
from pure.storage import load, save
from pure.summary_table import summary
from pure.tags import capture, tag
from pure.transforms import grad, value_and_grad
from pure.tree import cast, combine, count, flatten, partition, stack, unflatten, unstack

if TYPE_CHECKING:
    from pure import flow as flow

__version__ = "0.1.0"
"""Version of the distribution `pure-export`, which `pure` and `export` share."""

__all__ = [
    "GLU",
    "Activation",
    "Attention",
    "AvgPool",
    "AvgPoolProject",
    "BatchNorm",
    "Block",
    "Checkpoint",
    "Composite",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Crop",
    "DenseSkip",
    "DropPath",
    "Dropout",
    "Dynamic",
    "Embedding",
    "Flatten",
    "Function",
    "GlobalAvgPool",
    "GroupNorm",
    "Highway",
    "Identity",
    "Initialize",
    "Interpolate",
    "LayerNorm",
    "Linear",
    "MaxPool",
    "MixedPrecision",
    "Pad",
    "Parallel",
    "Project",
    "RMSNorm",
    "Rename",
    "Repeat",
    "Residual",
    "Scale",
    "Sequential",
    "Sharded",
    "Shortcut",
    "Tag",
    "TiedHead",
    "__version__",
    "capture",
    "cast",
    "catalogue",
    "cdist",
    "check_params",
    "checkpoint",
    "combine",
    "count",
    "errors",
    "flatten",
    "flow",
    "grad",
    "initializers",
    "interop",
    "layers",
    "load",
    "nets",
    "optim",
    "partition",
    "pruning",
    "remat",
    "save",
    "scan",
    "skips",
    "spmd",
    "stack",
    "summary",
    "tag",
    "tags",
    "tree",
    "unflatten",
    "unstack",
    "value_and_grad",
]


def __getattr__(name: str) -> ModuleType:
    """Import `pure.flow` on first access, so that `import pure` stays light."""
    if name == "flow":
        return importlib.import_module("pure.flow")
    raise AttributeError(f"module 'pure' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
