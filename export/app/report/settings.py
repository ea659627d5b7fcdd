"""The numbers that decide what the report computes."""

from __future__ import annotations

import dataclasses

from export.errors import ArgumentError

__all__ = ["Settings"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """One report's settings; the same for every network in it.

    Attributes:
        seed: of the split, the initial parameters and the order of the mini-batches.
        repeats: how many networks of each kind are trained, from seeds one apart; the first one is exported.
        depth: hidden layers between stem and head.
        width: features of the stream.
        growth: features that each dense layer adds.
        epochs: passes over the training digits.
        batch: digits in one optimiser step.
        rate: AdamW's learning rate.
        held_out: part of the digits that is never trained on.
        probe: training digits that the gradient norms are measured on.
        shown: digits in the per-sample pictures.
        stride: every how many pixels of a photograph are kept, along both axes.
        device: where ONNX Runtime runs: "auto", "cpu" or "cuda".
    """

    seed: int = 0
    repeats: int = 3
    depth: int = 24
    width: int = 48
    growth: int = 8
    epochs: int = 10
    batch: int = 64
    rate: float = 1e-3
    held_out: float = 0.25
    probe: int = 256
    shown: int = 96
    stride: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ArgumentError(f"seed={self.seed}: expected a number from 0 to 2³² − 1")

    def quick(self) -> Settings:
        """Return a smaller report: fewer steps, half the width, photographs at a quarter of the size."""
        return dataclasses.replace(self, repeats=2, width=24, epochs=3, probe=64, shown=48, stride=4)
