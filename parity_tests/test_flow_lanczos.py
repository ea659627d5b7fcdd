"""Lanczos, quadrature and Hutch++ agree with dense linear algebra, and their 95% intervals cover 95 times in 100."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pure.errors import ArgumentError, ShapeError, UnsupportedError
from pure.flow.linalg.golub_kahan import singular_triplets
from pure.flow.linalg.lanczos import eigenpairs, quadrature, trace, tridiagonal
from pure.flow.linalg.quadrature import Quadrature
from pure.flow.shared.estimate import estimate, ratio, student_t

FLOAT64 = torch.float64
RUNS = 1_000
COVERAGE = (0.93, 0.97)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotated(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    size = len(eigenvalues)
    Q = torch.linalg.qr(torch.randn(size, size, generator=seeded(seed), dtype=FLOAT64)).Q
    return (Q * eigenvalues) @ Q.T


def wigner(size: int, seed: int = 0) -> Tensor:
    A = torch.randn(size, size, generator=seeded(seed), dtype=FLOAT64)
    return (A + A.T) / math.sqrt(2 * size)


def times(A: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: A @ v


def test_tridiagonalisation_is_a_projection() -> None:
    A = wigner(40)
    found = tridiagonal(times(A), torch.randn(3, 40, generator=seeded(1), dtype=FLOAT64), 25)
    Q = found.basis
    torch.testing.assert_close(Q @ Q.mT, torch.eye(25, dtype=FLOAT64).expand(3, -1, -1), rtol=0, atol=1e-13)
    torch.testing.assert_close(Q @ A @ Q.mT, found.matrix, rtol=0, atol=1e-13)
    beyond = (Q @ A - found.matrix @ Q)[:, -1].norm(dim=1)
    torch.testing.assert_close(beyond, found.residual, rtol=1e-12, atol=0)


def test_a_krylov_space_that_closes_ends_there() -> None:
    A = torch.diag(torch.tensor([1.0] * 5 + [4.0] * 5, dtype=FLOAT64))
    found = tridiagonal(times(A), torch.ones(10, dtype=FLOAT64), 6)
    torch.testing.assert_close(torch.linalg.eigvalsh(found.matrix[0, :2, :2]), torch.tensor([1.0, 4.0], dtype=FLOAT64))
    assert found.off_diagonal[0, 1:].tolist() == [0.0] * 4
    assert found.diagonal[0, 2:].tolist() == [0.0] * 4


@pytest.mark.parametrize("k", [1, 6, 25])
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_eigenpairs_are_those_of_the_dense_matrix(which: str, k: int) -> None:
    A = wigner(150)
    values = torch.linalg.eigvalsh(A)
    order = {"largest": -values, "smallest": values, "magnitude": -values.abs()}[which].argsort()[:k]
    found = eigenpairs(times(A), 150, k, which=which, generator=seeded(1))  # type: ignore[arg-type]
    assert found.converged.all()
    torch.testing.assert_close(found.values, values[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(A @ found.vectors, found.vectors * found.values, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(k, dtype=FLOAT64), rtol=0, atol=1e-12)


def test_restarts_find_the_same_with_little_memory() -> None:
    A = rotated(torch.linspace(0, 1, 200, dtype=FLOAT64) ** 4)
    found = eigenpairs(times(A), 200, 4, generator=seeded(), max_basis=16)
    assert found.converged.all()
    assert found.products > 16, "it had to restart"
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(A).flip(0)[:4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", [None, 1, 3])
@pytest.mark.parametrize("max_basis", [None, 30])
def test_every_copy_of_a_multiple_eigenvalue_counts(block: int | None, max_basis: int | None) -> None:
    values = torch.linspace(0, 1, 120, dtype=FLOAT64)
    values[:5], values[5] = 2.0, 1.5
    found = eigenpairs(times(rotated(values)), 120, 7, generator=seeded(), block=block, max_basis=max_basis)
    torch.testing.assert_close(found.values, torch.tensor([2.0] * 5 + [1.5, 1.0], dtype=FLOAT64), rtol=0, atol=1e-10)
    assert found.converged.all()


def test_the_identity_and_zero_have_one_eigenvalue_many_times() -> None:
    for factor in (1.0, 0.0):
        found = eigenpairs(lambda v, factor=factor: factor * v, 60, 20, generator=seeded(), block=2)
        torch.testing.assert_close(found.values, torch.full((20,), factor, dtype=FLOAT64), rtol=1e-14, atol=0)


def test_what_has_not_converged_is_marked_and_its_residual_bounds_the_error() -> None:
    A = wigner(300)
    found = eigenpairs(times(A), 300, 5, generator=seeded(1), max_products=20)
    assert not found.converged.any()
    errors = (found.values[:, None] - torch.linalg.eigvalsh(A)).abs().min(1).values
    assert (errors <= found.residuals).all()
    assert (found.residuals > 1e-3).all()


def test_float32_vectors() -> None:
    A = wigner(120)
    B = A.float()
    found = eigenpairs(times(B), 120, 5, generator=seeded(1), dtype=torch.float32)
    assert found.vectors.dtype == torch.float32
    assert found.converged.all()
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(A).flip(0)[:5], rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(70, 70), (40, 90), (90, 40)])
@pytest.mark.parametrize("k", [1, 8, 30])
def test_singular_triplets_are_those_of_the_dense_matrix(shape: tuple[int, int], k: int) -> None:
    J = torch.randn(shape, generator=seeded(), dtype=FLOAT64)
    found = singular_triplets(times(J), times(J.T), *shape, k, generator=seeded(1))
    assert found.converged.all()
    torch.testing.assert_close(found.values, torch.linalg.svdvals(J)[:k], rtol=0, atol=1e-11)
    torch.testing.assert_close(J @ found.right, found.left * found.values, rtol=0, atol=1e-11)
    residuals = torch.linalg.vector_norm(J.T @ found.left - found.right * found.values, dim=0)
    torch.testing.assert_close(residuals, found.residuals, rtol=1e-2, atol=1e-11)


def test_singular_values_squared_beyond_the_range_of_float32() -> None:
    J = torch.randn(50, 50, generator=seeded()) * 1e30
    found = singular_triplets(times(J), times(J.T), 50, 50, 3, generator=seeded(1), dtype=torch.float32)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(J.double())[:3], rtol=1e-5, atol=0)


def test_quadrature_is_exact_for_polynomials_along_each_probe() -> None:
    A = wigner(50)
    rule = quadrature(times(A), 50, probes=3, steps=4, generator=seeded(1))
    start = torch.randn(3, 50, generator=seeded(1), dtype=FLOAT64)
    start = start / start.norm(dim=1, keepdim=True)
    power = start
    for degree in range(1, 8):
        power = power @ A
        torch.testing.assert_close(
            rule.means(lambda theta, d=degree: theta**d), (power * start).sum(1), rtol=0, atol=1e-13
        )
    eighth = (power @ A * start).sum(1)
    assert ((rule.means(lambda theta: theta**8) - eighth).abs() > 1e-6).all(), "degree 8 is beyond 4 nodes"


def test_chunks_change_nothing() -> None:
    A = wigner(30)
    whole = quadrature(times(A), 30, probes=6, steps=10, generator=seeded(1))
    for chunk_size in (1, 4):
        rule = quadrature(times(A), 30, probes=6, steps=10, generator=seeded(1), chunk_size=chunk_size)
        torch.testing.assert_close(rule.mean(torch.exp).value, whole.mean(torch.exp).value, rtol=1e-13, atol=0)


def coverage(covered: Callable[[int], float]) -> float:
    return sum(covered(seed) for seed in range(RUNS)) / RUNS


def many_rules(A: Tensor, probes: int, steps: int) -> list[Quadrature]:
    """RUNS independent rules; probes are independent, so one call draws them all."""
    whole = quadrature(times(A), len(A), probes=RUNS * probes, steps=steps, generator=seeded(1))
    parts = zip(whole.nodes.split(probes), whole.weights.split(probes), strict=True)
    return [Quadrature(nodes, weights, len(A)) for nodes, weights in parts]


@pytest.mark.parametrize("power", [1, 2])
def test_intervals_of_spectral_moments_cover(power: int) -> None:
    A = rotated(torch.linspace(0, 2, 40, dtype=FLOAT64))
    reference = float(torch.linalg.eigvalsh(A).pow(power).mean())
    rules = many_rules(A, probes=10, steps=3)
    assert COVERAGE[0] <= coverage(lambda run: reference in rules[run].mean(lambda theta: theta**power)) <= COVERAGE[1]


def test_intervals_of_the_density_cover_the_smeared_spectrum() -> None:
    A = rotated(torch.linspace(0, 2, 40, dtype=FLOAT64) ** 2)
    grid, width = torch.linspace(0, 4, 9, dtype=FLOAT64), 0.4
    values = torch.linalg.eigvalsh(A)
    bumps = torch.exp(-((grid[:, None] - values) / width).square() / 2) / (width * math.sqrt(2 * math.pi))
    reference = bumps.mean(1)
    rules = many_rules(A, probes=12, steps=14)

    def covered(run: int) -> float:
        found = rules[run].density(grid, width)
        return float(((found.low <= reference) & (reference <= found.high)).double().mean())

    assert COVERAGE[0] <= coverage(covered) <= COVERAGE[1]


def test_the_cumulative_share_is_enclosed_for_every_probe() -> None:
    """Few nodes, many probes: the band must hold the rule's own error, which does not shrink with the probes."""
    values = torch.linspace(0.1, 2, 60, dtype=FLOAT64) ** 3
    A, grid = rotated(values), torch.linspace(-0.5, 9, 80, dtype=FLOAT64)
    reference = (values <= grid[:, None]).double().mean(1)
    rule = quadrature(times(A), 60, probes=400, steps=5, generator=seeded(1))
    _, low, high = rule.cumulative(grid)
    assert ((low <= reference) & (reference <= high)).all()
    assert float((high - low).max()) < 0.8
    start = torch.randn(400, 60, generator=seeded(1), dtype=FLOAT64)
    parts = (start / start.norm(dim=1, keepdim=True) @ torch.linalg.eigh(A).eigenvectors).square()
    one = Quadrature(rule.nodes[:2], rule.weights[:2], 60)
    shares = torch.stack([(parts[:2] * (values <= at)).sum(1).mean() for at in grid])
    _, one_low, one_high = one.cumulative(grid)
    assert ((one_low <= shares + 1e-12) & (shares <= one_high + 1e-12)).all()
    full = Quadrature(values[None], torch.full((1, 60), 1 / 60, dtype=FLOAT64), 60, exact=True)
    torch.testing.assert_close(full.cumulative(grid)[0], reference, rtol=0, atol=1e-14)


@pytest.mark.parametrize("sketch", [0, 8])
def test_intervals_of_the_trace_cover(sketch: int) -> None:
    A = rotated(torch.linspace(-1, 3, 60, dtype=FLOAT64))
    reference = float(A.trace())

    def covered(seed: int) -> float:
        return float(reference in trace(times(A), 60, 12, sketch=sketch, generator=seeded(1_000 + seed)))

    assert COVERAGE[0] <= coverage(covered) <= COVERAGE[1]


def test_the_sketch_takes_the_large_eigenvalues_out_of_the_error() -> None:
    values = torch.full((200,), 1e-3, dtype=FLOAT64)
    values[:5] = 10.0
    A = rotated(values)
    with_sketch = trace(times(A), 200, 10, sketch=10, generator=seeded(1))
    without = trace(times(A), 200, 30, sketch=0, generator=seeded(1))
    assert float(A.trace()) in without
    assert with_sketch.standard_error < 1e-3 * without.standard_error
    assert with_sketch.value == pytest.approx(float(A.trace()), rel=1e-6)


def test_a_sketch_that_fills_the_space_is_exact() -> None:
    A = wigner(20)
    found = trace(times(A), 20, 4, sketch=20, generator=seeded())
    assert found.probes == 0
    assert found.low == found.high == pytest.approx(float(A.trace()), abs=1e-13)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (9, 2.2622), (30, 2.0423), (120, 1.9799)]
)
def test_students_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, abs=5e-5)


def test_students_quantile_is_continuous_where_the_sum_gives_way_to_the_expansion() -> None:
    assert student_t(10_000) == pytest.approx(student_t(10_001), abs=1e-7)


def test_the_jackknife_takes_the_bias_of_a_ratio_away() -> None:
    first = 1 + torch.randn(2_000, 8, generator=seeded(), dtype=FLOAT64) * 0.3
    second = 2 * torch.ones(8, dtype=FLOAT64)
    plain = (2 / first.mean(1).square()).mean()
    corrected = sum(ratio(second, row).value for row in first) / len(first)
    assert plain - 2 > 0.05
    assert abs(corrected - 2) < 0.3 * (plain - 2)


def test_errors() -> None:
    A = wigner(6)
    with pytest.raises(ArgumentError, match="k=7 of an operator of size 6"):
        eigenpairs(times(A), 6, 7, generator=seeded())
    with pytest.raises(ArgumentError, match="which='top'"):
        eigenpairs(times(A), 6, 1, which="top", generator=seeded())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="block=0"):
        eigenpairs(times(A), 6, 1, block=0, generator=seeded())
    with pytest.raises(ArgumentError, match="steps=0"):
        tridiagonal(times(A), torch.ones(6, dtype=FLOAT64), 0)
    with pytest.raises(ArgumentError, match="start vector that is 0"):
        tridiagonal(times(A), torch.zeros(6, dtype=FLOAT64), 2)
    with pytest.raises(ArgumentError, match="1 probes: expected at least 2"):
        quadrature(times(A), 6, probes=1, generator=seeded())
    with pytest.raises(ArgumentError, match="trace from 1 probes"):
        trace(times(A), 6, 1, generator=seeded())
    with pytest.raises(ArgumentError, match="at least 2 probes"):
        estimate(torch.ones(1))
    with pytest.raises(ArgumentError, match=r"width=0\.0"):
        quadrature(times(A), 6, generator=seeded()).density(torch.ones(1), 0.0)
    with pytest.raises(ShapeError, match=r"returned \(3,\), expected \(6,\)"):
        trace(lambda v: v[:3], 6, 2, generator=seeded())
    with pytest.raises(UnsupportedError, match="NaN or infinity"):
        quadrature(lambda v: v * torch.nan, 6, generator=seeded())
