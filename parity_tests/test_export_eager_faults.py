"""Derivatives that eager PyTorch gets wrong silently: the file is right, and a verdict says that eager differs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp

import export
import pure
from export.errors import EagerDerivativeError, EagerDerivativeWarning

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


def directed(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the gradient of a sum of f(x) along a fixed direction, as one number."""
    return lambda x: (grad(lambda x: f(x).sum())(x) * x.detach().cos()).sum()


def along(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the derivative along a fixed direction by forward mode."""
    return lambda x: jvp(f, (x,), (x.detach().cos(),))[1]


WRONG: dict[str, Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]] = {
    "jvp of jvp": twice_along,
    "grad of jvp": lambda f: grad(along(f)),
    "third, by grad": lambda f: grad(directed(directed(f))),
    "third, both": lambda f: along(along(grad(f))),
}
"""Derivatives of norms that are wrong in eager PyTorch 2.15."""


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("way", WRONG)
@pytest.mark.parametrize("name", NORMS)
def test_nested_derivatives_of_a_norm_are_right_in_the_file(name: str, way: str, fixed: bool, tmp_path: Path) -> None:
    f, formula, x = NORMS[name]
    derived = WRONG[way](f)
    with pytest.warns(EagerDerivativeWarning, match=f"{name}.* wrong"):
        export.to_onnx(derived, (x,), tmp_path / "f.onnx", dynamic=None if fixed else ({0: "batch"},))
    found = export.load(tmp_path / "f.onnx", device="cpu")(x).double()
    expected = WRONG[way](formula)(x.double())
    torch.testing.assert_close(found, expected, rtol=5e-4, atol=5e-4)
    eager = derived(x.double())
    if fixed and (eager - expected).norm() > 1e-2 * expected.norm():  # this PyTorch has the fault
        with pytest.warns(EagerDerivativeWarning):
            assert not export.verify(derived, (x,), device="cpu")


def test_a_mapped_backward_pass_of_a_norm_is_right_in_the_file(tmp_path: Path) -> None:
    f, formula = (lambda x: F.layer_norm(x, (4,)).sin()), (lambda x: standardised(x, (-1,)).sin())
    export.to_onnx(jacrev(jacrev(f)), (ROWS,), tmp_path / "f.onnx")
    found = export.load(tmp_path / "f.onnx", device="cpu")(ROWS).double()
    torch.testing.assert_close(found, jacrev(jacrev(formula))(ROWS.double()), rtol=5e-4, atol=5e-4)


def test_derivatives_that_eager_has_right_are_recorded_without_a_warning() -> None:
    f, _, x = NORMS["layer_norm"]
    for derived in (grad(f), along(grad(f)), jacfwd(grad(f)), along(f)):
        assert export.verify(derived, (x,), device="cpu")


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
    warned = name not in ("value", "gradient")
    with pytest.warns(EagerDerivativeWarning, match=r"pure\.cdist") if warned else contextlib.nullcontext():
        export.to_onnx(f, (POINTS, CENTRES), tmp_path / "f.onnx", dynamic=dynamic)
    loaded = export.load(tmp_path / "f.onnx", device="cpu")
    for points in (POINTS,) if fixed else (POINTS, POINTS[:1], torch.cat([POINTS, POINTS + 0.5])):
        expected = formula(points.double(), CENTRES.double())
        torch.testing.assert_close(loaded(points, CENTRES).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_between_equal_points_is_zero(tmp_path: Path) -> None:
    export.to_onnx(grad(lambda a: torch.cdist(a, POINTS).sum()), (POINTS,), tmp_path / "f.onnx")
    found = export.load(tmp_path / "f.onnx", device="cpu")(POINTS)
    torch.testing.assert_close(found, grad(lambda a: torch.cdist(a, POINTS).sum())(POINTS), rtol=1e-5, atol=1e-6)


def test_a_verdict_names_the_way_out_of_a_derivative_that_eager_lacks_or_has_wrong() -> None:
    given = POINTS, CENTRES
    way_out = pytest.raises(EagerDerivativeError, match=r"pure\.cdist in the place of torch\.cdist")
    with pytest.warns(EagerDerivativeWarning, match="no forward-mode"), way_out as caught:
        export.verify(jacfwd(grad(kernel)), given, device="cpu")
    assert isinstance(caught.value, NotImplementedError)
    mixed = jacrev(grad(kernel, 1), 0)
    with pytest.warns(EagerDerivativeWarning, match=r"test_export_eager_faults\.py:\d+ in kernel") as seen:
        assert not export.verify(mixed, given, device="cpu")
    assert {Path(warning.filename).name for warning in seen} == {Path(__file__).name}

    def ours(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-pure.cdist(a, b).square() / 4).sum()

    for derived in (jacfwd(grad(ours)), jacrev(grad(ours, 1), 0)):
        assert export.verify(derived, given, device="cpu")


def test_a_compiled_function_warns_and_is_right() -> None:
    second = export.jit(jacrev(grad(kernel)), device="cpu")
    with pytest.warns(EagerDerivativeWarning, match=r"pure\.cdist"):
        found = second(POINTS, CENTRES)
    expected = jacrev(grad(kernel_formula))(POINTS.double(), CENTRES.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_attention_without_a_forward_mode_says_which_kernel_has_it() -> None:
    q = torch.randn(1, 3, 4, generator=GENERATOR)
    with pytest.raises(EagerDerivativeError, match=r"sdpa_kernel\(SDPBackend\.MATH\)"):
        export.verify(along(lambda x: F.scaled_dot_product_attention(x, x, x)), (q,), device="cpu")
