"""Composition: chains, parallel branches, repetition with stacked parameters, and adapters."""

from pure.compose.adapt import Function, Rename, Tag
from pure.compose.chain import Sequential
from pure.compose.parallel import Parallel
from pure.compose.precision import MixedPrecision
from pure.compose.repeat import Repeat

__all__ = ["Function", "MixedPrecision", "Parallel", "Rename", "Repeat", "Sequential", "Tag"]
