"""The least time that a function can take on a device: its operations and its bytes over the device's peaks.

The larger of the two is the floor. Operations are PyTorch's count of those in products and convolutions; bytes are
each argument read once and each result written once, which no version can avoid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pure import tree


@dataclass(frozen=True)
class Peak:
    """What a device can do at most.

    Attributes:
        float32: Operations a second in float32.
        tf32: Operations a second of the matrix units in TF32, dense.
        bytes: Bytes a second from and to its memory.
        source: Where the numbers are from.
    """

    float32: float
    tf32: float
    bytes: float
    source: str


HOPPER = "NVIDIA H100 Tensor Core GPU datasheet, SXM (its TF32 figure is with sparsity: half of it)"
PEAKS = {
    "NVIDIA H100 80GB HBM3": Peak(67e12, 494.7e12, 3.35e12, HOPPER),
    "NVIDIA H200": Peak(67e12, 494.7e12, 4.8e12, "NVIDIA H200 Tensor Core GPU datasheet, SXM"),
    "NVIDIA A100-SXM4-80GB": Peak(19.5e12, 156e12, 2.039e12, "NVIDIA A100 Tensor Core GPU datasheet, SXM, 80 GB"),
    "NVIDIA A100-SXM4-40GB": Peak(19.5e12, 156e12, 1.555e12, "NVIDIA A100 Tensor Core GPU datasheet, SXM, 40 GB"),
}
"""By the name that PyTorch gives the device; a device that is not here gets no floor."""


def operations(fn: Callable[..., Any], args: tuple[Any, ...]) -> int:
    """The operations in the products and convolutions of one call."""
    with FlopCounterMode(display=False) as counter:
        fn(*args)
    return int(counter.get_total_flops())


def traffic(args: Any, result: Any) -> int:
    """The bytes of all arguments and results."""
    leaves = [leaf for part in (args, result) for leaf in tree.leaves(part) if isinstance(leaf, torch.Tensor)]
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


def floor(device: str, tf32: bool, flops: int, moved: int) -> dict[str, object]:
    """The floor as notes: seconds by operations and by bytes, the larger one, and the source of the peaks."""
    counted: dict[str, object] = {"operations": flops, "bytes of arguments and results": moved}
    peak = PEAKS.get(device)
    if peak is None:
        return {**counted, "floor": f"none: no peak is known for {device!r}"}
    by_operations = flops / (peak.tf32 if tf32 else peak.float32)
    by_bytes = moved / peak.bytes
    return {
        **counted,
        "floor by operations, seconds": by_operations,
        "floor by bytes, seconds": by_bytes,
        "floor, seconds": max(by_operations, by_bytes),
        "peaks from": peak.source,
    }
