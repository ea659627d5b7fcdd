"""What `parity_tests.derivative_compositions` differentiates: catalogue rows, modules, and PyTorch's own kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity_tests.test_contract import perturbed
from pure import tree
from pure.catalogue import CASES, Case
from pure.interop import from_module

__all__ = ["Subject", "subjects"]

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """A function of two numbers.

    Attributes:
        name: what it is, and in which mode.
        make: returns it, with so many outputs.
        kernel: whether it is PyTorch's own function, in which faults are noted but not ours.
        surrogate: why its derivative is not that of its values, by the method's own definition.
    """

    name: str
    make: Callable[[int], Function]
    kernel: bool = False
    surrogate: str = ""


def _along(values: Any, seed: int) -> tuple[list[Tensor], list[list[Tensor]], Any]:
    """Return the leaves of a tree and two directions to move its floating-point ones in."""
    leaves, spec = tree.tree_flatten(values)
    generator = torch.Generator().manual_seed(seed)
    directions = [
        [
            torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator) if leaf.is_floating_point() else leaf
            for leaf in leaves
        ]
        for _ in range(2)
    ]
    return leaves, directions, spec


def moving(f: Callable[..., Any], values: Any, outputs: int) -> Function:
    """Return f(values) as a function of two numbers along which the values move, summed up to a few smooth outputs."""
    leaves, (first, second), spec = _along(values, 5)

    def g(z: Tensor) -> Tensor:
        moved = [
            leaf + 0.3 * (z[0] * a + z[1] * b) if leaf.is_floating_point() else leaf
            for leaf, a, b in zip(leaves, first, second, strict=True)
        ]
        y = f(tree.tree_unflatten(moved, spec))
        flat = torch.cat([leaf.reshape(-1) for leaf in tree.leaves(y) if leaf.is_floating_point()])
        places = torch.arange(flat.numel(), dtype=flat.dtype)
        weights = torch.stack([(places * (1 + 0.7 * k) + k).cos() for k in range(outputs)])
        return (weights * flat.sin()).mean(-1)

    return g


def _row(row: Case, training: bool, outputs: int) -> Function:
    block, params, state, x, extras = perturbed(row)
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(0), dtype=torch.float64) if training else None
    if row.tokens is not None:
        x = x.clamp(min=1)  # a padding index has no gradient by definition

    def f(values: Any) -> Any:
        return block.apply(values["params"], values["x"], state, extras, training, noise)[0]

    return moving(f, {"params": params, "x": x}, outputs)


def _module(make: Callable[[], nn.Module], shape: tuple[int, ...], training: bool, outputs: int) -> Function:
    torch.manual_seed(0)
    block, params, state = from_module(make().double())
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)

    def f(values: Any) -> Any:
        return block.apply(values["params"], values["x"], state, {}, training, None)[0]

    return moving(f, {"params": params, "x": x}, outputs)


def _kernel(f: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...], outputs: int) -> Function:
    generator = torch.Generator().manual_seed(1)
    values = {str(at): torch.randn(shape, dtype=torch.float64, generator=generator) for at, shape in enumerate(shapes)}
    return moving(lambda values: f(*values.values()), values, outputs)


class Distances(nn.Module):
    """A Gaussian kernel's values between the input and centres."""

    def __init__(self, p: float = 2.0) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(5, 4))
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 5)."""
        return torch.exp(-torch.cdist(x, self.centres, p=self.p).square() / 4)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "nn.LayerNorm": (partial(nn.LayerNorm, 5), (4, 6, 5)),
    "nn.RMSNorm": (partial(nn.RMSNorm, 5), (4, 6, 5)),
    "nn.GroupNorm": (partial(nn.GroupNorm, 2, 6), (4, 6, 5)),
    "nn.BatchNorm1d": (partial(nn.BatchNorm1d, 6), (4, 6, 5)),
    "nn.InstanceNorm1d": (partial(nn.InstanceNorm1d, 6, affine=True), (4, 6, 5)),
    "nn.LocalResponseNorm": (partial(nn.LocalResponseNorm, 3), (4, 6, 5)),
    "nn.PReLU": (partial(nn.PReLU, 6), (4, 6, 5)),
    "nn.GELU": (nn.GELU, (4, 5)),
    "nn.GELU, tanh": (partial(nn.GELU, approximate="tanh"), (4, 5)),
    "nn.SiLU": (nn.SiLU, (4, 5)),
    "nn.Mish": (nn.Mish, (4, 5)),
    "nn.ELU": (nn.ELU, (4, 5)),
    "nn.Softplus": (nn.Softplus, (4, 5)),
    "nn.GLU": (nn.GLU, (4, 6)),
    "nn.LogSoftmax": (partial(nn.LogSoftmax, -1), (4, 5)),
    "nn.CosineSimilarity": (lambda: _Paired(nn.CosineSimilarity(1)), (4, 5)),
    "nn.PairwiseDistance": (lambda: _Paired(nn.PairwiseDistance()), (4, 5)),
    "nn.Bilinear": (lambda: _Paired(nn.Bilinear(5, 5, 3)), (4, 5)),
    "nn.Conv2d": (partial(nn.Conv2d, 2, 3, 3, padding=1), (2, 2, 4, 4)),
    "nn.ConvTranspose2d": (partial(nn.ConvTranspose2d, 2, 3, 2, stride=2), (2, 2, 3, 3)),
    "nn.AvgPool2d": (partial(nn.AvgPool2d, 2), (2, 2, 4, 4)),
    "nn.MaxPool2d": (partial(nn.MaxPool2d, 2), (2, 2, 4, 4)),
    "nn.LPPool2d": (partial(nn.LPPool2d, 2, 2), (2, 2, 4, 4)),
    "nn.Upsample, bilinear": (partial(nn.Upsample, scale_factor=2, mode="bilinear"), (2, 2, 3, 3)),
    "nn.LSTM": (lambda: _First(nn.LSTM(4, 3, batch_first=True)), (2, 3, 4)),
    "nn.GRU": (lambda: _First(nn.GRU(4, 3, batch_first=True)), (2, 3, 4)),
    "nn.MultiheadAttention": (lambda: _Self(nn.MultiheadAttention(4, 2, batch_first=True)), (2, 3, 4)),
    "nn.TransformerEncoderLayer": (
        partial(nn.TransformerEncoderLayer, 4, 2, 6, 0.0, batch_first=True),
        (2, 3, 4),
    ),
    "F.normalize": (lambda: _Function(F.normalize), (4, 5)),
    "Tensor.norm": (lambda: _Function(lambda x: x.norm(dim=1)), (4, 5)),
    "torch.linalg.norm": (lambda: _Function(lambda x: torch.linalg.norm(x, dim=1)), (4, 5)),
    "vector_norm, p=3": (lambda: _Function(lambda x: torch.linalg.vector_norm(x, 3, -1)), (4, 5)),
    "torch.cdist": (Distances, (4, 4)),
    "torch.cdist, p=1.5": (partial(Distances, 1.5), (4, 4)),
    "torch.cdist, p=3": (partial(Distances, 3.0), (4, 4)),
}
"""Modules as users have them, through `from_module`."""


class _Paired(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x.flip(0).sin())  # type: ignore[no-any-return]


class _Function(nn.Module):
    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class _First(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]  # type: ignore[no-any-return]


class _Self(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]  # type: ignore[no-any-return]


KERNELS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "F.layer_norm": (lambda x, w: F.layer_norm(x, (5,), w), ((4, 6, 5), (5,))),
    "F.batch_norm, training": (lambda x, w: F.batch_norm(x, None, None, w, training=True), ((4, 6, 5), (6,))),
    "F.instance_norm": (lambda x, w: F.instance_norm(x, weight=w), ((4, 6, 5), (6,))),
    "F.group_norm": (lambda x, w: F.group_norm(x, 2, w), ((4, 6, 5), (6,))),
    "F.rms_norm": (lambda x, w: F.rms_norm(x, (5,), w), ((4, 6, 5), (5,))),
    "torch.cdist": (lambda a, b: torch.exp(-torch.cdist(a, b).square() / 4), ((4, 3), (5, 3))),
    "F.gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), ((4, 5),)),
    "F.scaled_dot_product_attention": (F.scaled_dot_product_attention, ((2, 3, 4),) * 3),
    "F.prelu": (F.prelu, ((4, 6, 5), (6,))),
    "F.grid_sample": (lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False), ((1, 2, 4, 4), (1, 3, 3, 2))),
}
"""PyTorch's own functions, whose faults users meet outside of blocks."""


STRAIGHT_THROUGH = "a hard gate with the gradient of the soft one"
SURROGATES = {
    "shake_shake_block": "the gradient mixes the branches by weights of its own",
    "convnet_aig": STRAIGHT_THROUGH,
    "convnet_aig_project": STRAIGHT_THROUGH,
    "skipnet": STRAIGHT_THROUGH,
}
"""Rows that train by another gradient than that of their values."""


def _differs_in_training(row: Case) -> bool:
    block = row.make()
    return block.stochastic or bool(block.init(torch.Generator(), device="meta")[1])


def subjects() -> list[Subject]:
    """Return all that is differentiated."""
    modes = {"": False, ", training": True}
    return [
        *(
            Subject(
                row.name + mode,
                partial(_row, row, training),
                surrogate=SURROGATES.get(row.name, "") if training else "",
            )
            for row in CASES
            for mode, training in modes.items()
            if not training or _differs_in_training(row)
        ),
        *(
            Subject(f"module {name}{mode}", partial(_module, *made, training))
            for name, made in MODULES.items()
            for mode, training in modes.items()
            if not training or "BatchNorm" in name
        ),
        *(Subject(f"kernel {name}", partial(_kernel, *given), kernel=True) for name, given in KERNELS.items()),
    ]
