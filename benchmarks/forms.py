"""Operators that PyTorch takes apart: our files of them and of their derivatives, against torch.onnx's of the operator.

Resizing, sampling, attention, hardswish and pooling have an ONNX operator, or a few, for the forward; what a recording
sees, above all under a transform, are dozens. For each: time a call and nodes of our file of the forward, of its
derivative in a direction (`jvp`) and of its gradient (`vjp` of a given cotangent), beside torch.onnx.export's file of
the forward, and PyTorch's own kernels, eager. Every file is held against PyTorch first.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

import export
from benchmarks.exporters import OPSET, by_torch, session
from benchmarks.harness import QUICK, Budget, Comparison, Contender, Measurement, measure

__all__ = ["NAME", "OPERATORS", "measurements"]

NAME = "forms"

TORCH = "torch.onnx, forward"

Operator = Callable[..., Tensor]


def _image(channels: int, size: int) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def _grid(size: int) -> Tensor:
    return 2 * torch.rand(2, size, size, 2, generator=torch.Generator().manual_seed(1)) - 1


def _tokens() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(2, 8, 128, 64, generator=generator) for _ in range(3))  # type: ignore[return-value]


IMAGE = _image(16, 32)

OPERATORS: dict[str, tuple[Operator, tuple[Tensor, ...]]] = {
    "interpolate nearest ×2": (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), (IMAGE,)),
    "interpolate bilinear ×2": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (IMAGE,)),
    "interpolate bicubic ×2": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), (IMAGE,)),
    "grid_sample bilinear": (lambda x, grid: F.grid_sample(x, grid, align_corners=False), (IMAGE, _grid(32))),
    "hardswish": (lambda x: F.hardswish(x), (_image(16, 64),)),
    "attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), _tokens()),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), (_image(32, 64),)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1), (_image(32, 64),)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 4), (_image(32, 64),)),
}
"""What is measured, with its inputs; every derivative is with respect to all of them."""


def measurements(quick: bool = False) -> Iterator[Measurement]:
    """For each operator: torch.onnx's file of it, then ours of it and of its derivatives."""
    for name in list(OPERATORS)[: 2 if quick else None]:
        with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
            yield measure(compared(name, Path(folder)), QUICK if quick else Budget(rounds=15, sample_seconds=0.02))


def compared(name: str, folder: Path) -> Comparison:
    """Return one operator's files as contenders, the numbers of their nodes as notes."""
    operator, inputs = OPERATORS[name]
    like = operator(*inputs)
    directions = tuple(torch.linspace(-1, 1, x.numel()).reshape(x.shape) for x in inputs)
    cotangent = torch.linspace(-1, 1, like.numel()).reshape(like.shape)

    def product(*given: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no forward mode
            return jvp(operator, given[: len(inputs)], given[len(inputs) :])[1]

    def gradient(*given: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = vjp(operator, *given[:-1])[1](given[-1])
        return found

    files = {TORCH: (folder / "theirs.onnx", operator, inputs)}
    by_torch(_Module(operator), inputs, files[TORCH][0])
    for kind, fn, given in (
        ("forward", operator, inputs),
        ("jvp", product, (*inputs, *directions)),
        ("gradient", gradient, (*inputs, cotangent)),
    ):
        files[kind] = folder / f"{kind}.onnx", fn, given
        export.to_onnx(fn, given, files[kind][0], opset=OPSET)
    notes = {f"nodes, {kind}": len(onnx.load(path).graph.node) for kind, (path, _, _) in files.items()}
    contenders = tuple(Contender(kind, caller(*file)) for kind, file in files.items())
    contenders += tuple(
        Contender(f"eager, {kind}", functools.partial(fn, *given))
        for kind, (_, fn, given) in files.items()
        if kind != TORCH
    )
    return Comparison(name, contenders, lambda *_: None, notes)  # each is held against PyTorch by itself


class _Module(torch.nn.Module):
    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, *given: Tensor) -> Tensor:
        """Call the operator."""
        return self.operator(*given)


def caller(path: Path, fn: Callable[..., object], given: Sequence[Tensor]) -> Callable[[], object]:
    """Return a call of a file, whose results are PyTorch's.

    Raises:
        AssertionError: they are not.
    """
    opened = session(path)
    feed = {value.name: tensor.numpy() for value, tensor in zip(opened.get_inputs(), given, strict=True)}
    expected = fn(*given)
    for found, wanted in zip(
        opened.run(None, feed), expected if isinstance(expected, tuple) else (expected,), strict=True
    ):
        error = np.linalg.norm(found.astype(np.float64) - wanted.numpy()) / np.linalg.norm(wanted.numpy())
        assert error < 1e-4, f"{path.stem} is off by {error:.1e}"
    return lambda: opened.run(None, feed)
