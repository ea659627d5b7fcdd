"""One call of another library beside ours, and how far the two results are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from typing import Any

import numpy as np
import torch

import pure

__all__ = ["COMPARISONS", "Comparison", "compared", "distance", "inputs", "network"]

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Comparison:
    """A function that runs both calls and returns how far they are apart, as a part of the largest element.

    `tolerance` bounds what is left between two float64 computations of the same number; float32 tools have their own.
    """

    package: str
    module: str
    theirs: str
    ours: str
    run: Callable[[], float]
    tolerance: float

    @property
    def estimate(self) -> bool:
        """Whether their result is a random estimate of ours."""
        return self.tolerance > 1e-2

    @property
    def installed(self) -> bool:
        """Whether the library can be imported here."""
        try:
            return util.find_spec(self.module) is not None
        except ModuleNotFoundError:
            return False

    @property
    def version(self) -> str:
        """The installed version."""
        return metadata.version(self.package)


COMPARISONS: list[Comparison] = []


def compared(
    package: str, theirs: str, ours: str, *, module: str | None = None, tolerance: float = 1e4 * EPSILON
) -> Callable[[Callable[[], float]], Callable[[], float]]:
    """Add the function below as a comparison with a package."""

    def add(run: Callable[[], float]) -> Callable[[], float]:
        COMPARISONS.append(Comparison(package, module or package, theirs, ours, run, tolerance))
        return run

    return add


def distance(theirs: Any, ours: Any) -> float:
    """Return the largest difference of two arrays as a part of the largest element; they have the same shape."""
    first, second = (
        np.asarray(value.detach() if isinstance(value, torch.Tensor) else value) for value in (theirs, ours)
    )
    assert first.shape == second.shape, (first.shape, second.shape)
    assert np.abs(first).max() > 0, "nothing to compare"
    return float(np.abs(first - second).max() / np.abs(first).max())


def inputs(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return normal numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(dtype: torch.dtype = torch.float64) -> tuple[pure.Block, Any, torch.nn.Sequential]:
    """Return a small classifier as a block with its parameters, and the same as a module."""
    block = pure.Sequential(fc1=pure.Linear(4, 8), act=pure.Activation("tanh"), fc2=pure.Linear(8, 3))
    params, _ = block.init(torch.Generator().manual_seed(0), dtype=dtype)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).to(dtype)
    module.load_state_dict(
        {
            f"{place}.{leaf}": params[name][leaf]
            for place, name in ((0, "fc1"), (2, "fc2"))
            for leaf in ("weight", "bias")
        }
    )
    return block, params, module
