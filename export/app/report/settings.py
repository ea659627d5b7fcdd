"""The numbers that decide what the report computes."""

from __future__ import annotations

import dataclasses

from export.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class Settings:
    """One report's settings; the same for every network in it.

    Attributes:
        seed: Of the split, the initial parameters and the order of the mini-batches.
        repeats: How many networks of each kind are trained, from seeds one apart; the first one is exported.
        depth: Hidden layers between stem and head.
        width: Features of the stream.
        growth: Features that each dense layer adds.
        epochs: Passes over the training digits.
        batch: Digits in one optimiser step.
        rate: AdamW's learning rate.
        held_out: Part of the digits that is never trained on.
        probe: Training digits that the gradient norms are measured on.
        shown: Digits in the per-sample pictures.
        stride: Every how many pixels of a photograph are kept, along both axes.
        device: Where ONNX Runtime runs: "auto", "cpu" or "cuda".
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
