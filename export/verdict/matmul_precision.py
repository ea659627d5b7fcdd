"""Float32 products on a GPU: rounded to TF32 or not, in PyTorch as in the file that is judged.

PyTorch's convolutions round their factors to TF32 on a GPU unless told otherwise, which is an error a thousand times
that of float32. As a yardstick it would pass a file whatever that did, so a verdict settles it for both sides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Let PyTorch round float32 products to TF32 on a GPU, or keep it from that; what was set comes back.

    Args:
        tf32: Whether it may.
    """
    cudnn: Any = torch.backends.cudnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for backend, found in zip(backends, before, strict=True):
            backend.fp32_precision = found
