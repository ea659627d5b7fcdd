"""Derivatives that eager PyTorch gets wrong silently: the file is right, and a verdict says that eager differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp

import export

GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(2, 4, generator=GENERATOR)
IMAGES = torch.randn(3, 4, 2, 2, generator=GENERATOR)
POINTS, CENTRES = torch.randn(4, 3, generator=GENERATOR), torch.randn(5, 3, generator=GENERATOR)


def standardised(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Subtract the mean and divide by the deviation, written out."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()


def twice_along(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the second derivative along a fixed direction, by forward mode in forward mode."""

    def first(x: Tensor) -> Tensor:
        return jvp(f, (x,), (x.detach().cos(),))[1]

    return lambda x: jvp(first, (x,), (x.detach().cos(),))[1]


NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]] = {
    "layer_norm": (lambda x: F.layer_norm(x, (4,)).sin().sum(), lambda x: standardised(x, (-1,)).sin().sum(), ROWS),
    "batch_norm": (
        lambda x: F.batch_norm(x, None, None, training=True).sin().sum(),
        lambda x: standardised(x, (0, 2, 3)).sin().sum(),
        IMAGES,
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", NORMS)
def test_forward_mode_in_forward_mode_of_a_norm_is_right_in_the_file(name: str, fixed: bool, tmp_path: Path) -> None:
    f, formula, x = NORMS[name]
    export.to_onnx(twice_along(f), (x,), tmp_path / "f.onnx", dynamic=None if fixed else ({0: "batch"},))
    found = export.load(tmp_path / "f.onnx", device="cpu")(x).double()
    expected = twice_along(formula)(x.double())
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)
    eager = twice_along(f)(x.double())
    if (eager - expected).abs() > 1e-2 * expected.abs():  # this PyTorch has the fault
        assert not export.verify(twice_along(f), (x,), device="cpu")


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a Gaussian kernel, by distances."""
    return torch.exp(-torch.cdist(a, b).square() / 4).sum()


def kernel_formula(a: Tensor, b: Tensor) -> Tensor:
    """Return the same without a square root."""
    return torch.exp(-(a[:, None] - b).square().sum(-1) / 4).sum()


DERIVATIVES: dict[str, Callable[[Callable[..., Tensor]], Callable[[Tensor, Tensor], Tensor]]] = {
    "value": lambda f: f,
    "gradient": lambda f: grad(f),
    "mixed second derivative, backward": lambda f: jacrev(grad(f, 1), 0),
    "second derivative, forward": lambda f: jacfwd(grad(f)),
    "product with the Hessian": lambda f: lambda a, b: jvp(lambda a: grad(f)(a, b), (a,), (a.cos(),))[1],
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_of_distances_are_right_in_the_file(name: str, fixed: bool, tmp_path: Path) -> None:
    f, formula = DERIVATIVES[name](kernel), DERIVATIVES[name](kernel_formula)
    dynamic = None if fixed else ({0: "points"}, None)
    export.to_onnx(f, (POINTS, CENTRES), tmp_path / "f.onnx", dynamic=dynamic)
    loaded = export.load(tmp_path / "f.onnx", device="cpu")
    for points in (POINTS,) if fixed else (POINTS, POINTS[:1], torch.cat([POINTS, POINTS + 0.5])):
        expected = formula(points.double(), CENTRES.double())
        torch.testing.assert_close(loaded(points, CENTRES).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_between_equal_points_is_zero(tmp_path: Path) -> None:
    export.to_onnx(grad(lambda a: torch.cdist(a, POINTS).sum()), (POINTS,), tmp_path / "f.onnx")
    found = export.load(tmp_path / "f.onnx", device="cpu")(POINTS)
    torch.testing.assert_close(found, grad(lambda a: torch.cdist(a, POINTS).sum())(POINTS), rtol=1e-5, atol=1e-6)
