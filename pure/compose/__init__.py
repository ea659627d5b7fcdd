"""Composition: chains, parallel branches, repetition with stacked parameters, and adapters."""

from pure.compose.adapt import Function, Rename, Tag
from pure.compose.chain import Sequential
from pure.compose.initialize import Initialize
from pure.compose.parallel import Parallel
from pure.compose.precision import MixedPrecision
from pure.compose.rematerialisation import Checkpoint, checkpoint, remat
from pure.compose.repeat import Repeat
from pure.compose.sharded import Sharded
from pure.compose.tied import TiedHead

__all__ = [
    "Checkpoint",
    "Function",
    "Initialize",
    "MixedPrecision",
    "Parallel",
    "Rename",
    "Repeat",
    "Sequential",
    "Sharded",
    "Tag",
    "TiedHead",
    "checkpoint",
    "remat",
]
