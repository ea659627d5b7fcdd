"""Complex numbers in a function: Fourier transforms, rotary embeddings and arithmetic, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap

import export
from export.errors import UnsupportedOpError

ROWS, COLUMNS = 6, 8
GENERATOR = torch.Generator().manual_seed(0)
SPECTRAL_WEIGHT = torch.randn(ROWS, 3, COLUMNS // 2 + 1, dtype=torch.complex64, generator=GENERATOR)
RELATIVE_TOLERANCE = 1e-5
"""Of the largest element, for float32 against float64."""


def inputs(*shape: int) -> Tensor:
    """Return random values of a shape."""
    return torch.randn(*shape, generator=GENERATOR)


def plane(x: Tensor) -> Tensor:
    """Return complex numbers away from zero."""
    return torch.complex(x, x.cos() + 0.5)


def rotary(x: Tensor) -> Tensor:
    """Turn pairs of features by angles that grow with the position."""
    angles = torch.arange(ROWS * COLUMNS // 2, dtype=x.dtype).reshape(ROWS, COLUMNS // 2)
    turn = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_complex(x.reshape(x.shape[0], ROWS, COLUMNS // 2, 2))
    return torch.view_as_real(pairs * turn).flatten(2)


def spectral_convolution(x: Tensor) -> Tensor:
    """Multiply low frequencies by weights, as Fourier neural operators do."""
    spectrum = torch.fft.rfft(x)
    weight = SPECTRAL_WEIGHT.to(spectrum.dtype)
    kept = torch.zeros(x.shape[0], 3, COLUMNS // 2 + 1, dtype=spectrum.dtype)
    kept[..., :3] = torch.einsum("bif,iof->bof", spectrum, weight)[..., :3]
    return torch.fft.irfft(kept, n=COLUMNS)


def windowed(x: Tensor) -> Tensor:
    """Return the magnitudes of a short-time Fourier transform."""
    return torch.stft(x.flatten(1), 16, window=torch.hann_window(16, dtype=x.dtype), return_complex=True).abs()


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "rfft": lambda x: torch.view_as_real(torch.fft.rfft(x)),
    "fft": lambda x: torch.fft.fft(x).abs(),
    "fft, orthonormal": lambda x: torch.fft.fft(x, norm="ortho").real,
    "ifft": lambda x: torch.fft.ifft(torch.fft.fft(x) * (1 + 1j)).imag,
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2, n=COLUMNS),
    "irfft, odd": lambda x: torch.fft.irfft(torch.fft.rfft(x, n=7), n=7),
    "rfft2": lambda x: torch.fft.rfft2(x).abs(),
    "irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=(ROWS, COLUMNS)),
    "fftn, real part (FNet)": lambda x: torch.fft.fftn(x, dim=(1, 2)).real,
    "hfft": lambda x: torch.fft.hfft(plane(x)),
    "stft": windowed,
    "rotary embedding": rotary,
    "spectral convolution": spectral_convolution,
    "correlation": lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(x.flip(-1)).conj(), n=COLUMNS),
    "angle": lambda x: plane(x).angle(),
    "conjugate": lambda x: (plane(x) * plane(x).conj()).real + plane(x).conj().imag,
    "matrix product": lambda x: (plane(x) @ plane(x + 1).mH).abs(),
    "linear": lambda x: F.linear(plane(x), plane(torch.eye(COLUMNS, dtype=x.dtype))).abs(),
    "quotient": lambda x: (plane(x) / (plane(x) + 3)).imag,
    "reciprocal": lambda x: (1 / plane(x)).imag,
    "exponential": lambda x: torch.exp(1j * x).imag,
    "powers": lambda x: (plane(x) ** 3).real + (plane(x) ** 1.5).imag,
    "root and logarithm": lambda x: plane(x).sqrt().imag + plane(x).log().real,
    "tanh and sigmoid": lambda x: (plane(x) / 3).tanh().abs() + plane(x).sigmoid().real,
    "sums": lambda x: (1 - plane(x) + x - 2j).abs() + plane(x).mean(-1, keepdim=True).abs(),
    "choice": lambda x: torch.where(x > 0, plane(x), plane(2 * x)).abs(),
    "joined": lambda x: torch.cat([plane(x), plane(2 * x)], 1).sgn().real,
}

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "vmap": lambda x: vmap(lambda x: torch.fft.rfft(x).abs())(x),
    "per-sample gradients": lambda x: vmap(grad(lambda x: torch.fft.rfft(x).abs().sum()))(x),
    "tangent": lambda x: jvp(lambda x: torch.fft.rfft(x).abs(), (x,), (x.cos(),))[1],
    "product with the Hessian": lambda x: jvp(
        grad(lambda x: torch.fft.rfft(x).abs().pow(2).sin().sum()), (x,), (x.cos(),)
    )[1],
}


def check(f: Callable[[Tensor], object], dynamic: dict[int, str] | None, samples: list[Tensor], path: Path) -> None:
    """Compare a file with eager float64."""
    export.to_onnx(f, (samples[0],), path / "f.onnx", dynamic=None if dynamic is None else (dynamic,))
    loaded = export.load(path / "f.onnx", device="cpu")
    for x in samples:
        found, expected = loaded(x), f(x.double())
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (found, expected)), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=0, atol=RELATIVE_TOLERANCE * float(b.abs().max()))


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_gradient_are_right(name: str, fixed: bool, tmp_path: Path) -> None:
    f = FUNCTIONS[name]

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return f(x), grad(lambda x: f(x).sin().sum())(x)

    samples = [inputs(2, ROWS, COLUMNS)] + ([] if fixed else [inputs(5, ROWS, COLUMNS), inputs(1, ROWS, COLUMNS)])
    check(both, None if fixed else {0: "batch"}, samples, tmp_path)


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_right(name: str, fixed: bool, tmp_path: Path) -> None:
    samples = [inputs(2, ROWS, COLUMNS)] + ([] if fixed else [inputs(5, ROWS, COLUMNS)])
    check(TRANSFORMS[name], None if fixed else {0: "batch"}, samples, tmp_path)


@pytest.mark.parametrize("name", ["rfft", "fft", "fft, orthonormal", "ifft", "rfft2", "fftn, real part (FNet)"])
def test_a_dynamic_length_is_right(name: str, tmp_path: Path) -> None:
    samples = [inputs(2, ROWS, COLUMNS), inputs(3, ROWS, 11), inputs(1, ROWS, 1)]
    check(FUNCTIONS[name], {0: "batch", 2: "length"}, samples, tmp_path)


@pytest.mark.parametrize("points", [1, 2, 97, 256, 257, 360, 1024, 2187])
def test_long_transforms_round_as_little_as_pytorch(points: int, tmp_path: Path) -> None:
    x = inputs(4, points)

    def there_and_back(x: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = torch.fft.rfft(x)
        return torch.view_as_real(spectrum), torch.fft.irfft(spectrum * spectrum, n=points)

    export.to_onnx(there_and_back, (x,), tmp_path / "f.onnx")
    found = export.load(tmp_path / "f.onnx", device="cpu")(x)
    for a, eager, right in zip(found, there_and_back(x), there_and_back(x.double()), strict=True):
        error, eager_error = ((value - right).norm() / right.norm() for value in (a, eager))
        assert error <= 6 * eager_error + 2.0**-24


@pytest.mark.parametrize("name", ["rfft", "rotary embedding", "fftn, real part (FNet)", "quotient"])
def test_verdicts_pass(name: str) -> None:
    verdict = export.verify(FUNCTIONS[name], (inputs(2, ROWS, COLUMNS),), device="cpu", dynamic=({0: "batch"},))
    assert verdict, str(verdict)


def test_a_file_holds_real_tensors_alone(tmp_path: Path) -> None:
    exported = export.to_onnx(spectral_convolution, (inputs(2, ROWS, COLUMNS),), tmp_path / "f.onnx")
    verdict = export.load(exported.path, device="cpu")(inputs(2, ROWS, COLUMNS))
    assert verdict.dtype == torch.float32


def test_complex_arguments_and_results_say_what_to_do(tmp_path: Path) -> None:
    z = torch.complex(inputs(2, 3), inputs(2, 3))
    with pytest.raises(UnsupportedOpError, match=r"z has dtype torch.complex64.*torch\.view_as_real\(z\)"):
        export.to_onnx(lambda z: z.abs(), (z,), tmp_path / "f.onnx")
    with pytest.raises(UnsupportedOpError, match=r"a result is complex: return torch\.view_as_real"):
        export.to_onnx(torch.fft.fft, (inputs(2, 3),), tmp_path / "f.onnx")


def test_an_operator_without_a_form_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOpError, match=r"prod[\s\S]*test_export_complex_numbers"):
        export.to_onnx(lambda x: plane(x).prod(0).real, (inputs(2, 3),), tmp_path / "f.onnx")
