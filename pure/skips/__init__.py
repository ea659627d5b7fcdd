"""Skip connections: what is carried past a branch, and how the two meet again."""

from pure.skips.dense import DenseSkip
from pure.skips.dynamic import Dynamic
from pure.skips.gated import Highway
from pure.skips.residual import Residual
from pure.skips.shortcut import AvgPoolProject, Crop, Identity, Interpolate, Pad, Project, Shortcut

__all__ = [
    "AvgPoolProject",
    "Crop",
    "DenseSkip",
    "Dynamic",
    "Highway",
    "Identity",
    "Interpolate",
    "Pad",
    "Project",
    "Residual",
    "Shortcut",
]
