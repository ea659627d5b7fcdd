"""The identities of gradient-flow theory, each as a relative error in float64: no randomness but the point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

import pure
from parity_tests import theory_ensembles as ensembles
from parity_tests.theory_rows import Row, identity, value
from pure import flow, nets
from pure.flow import theory
from pure.flow.theory.exact_moments import traces
from pure.flow.theory.stack import read_stack

FLOAT64 = torch.float64


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def drawn(block: pure.Block, seed: int = 0) -> tuple[Any, Any]:
    return block.init(torch.Generator().manual_seed(seed), FLOAT64)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def pushed(block: pure.Block, params: Any, x: Tensor, v: Tensor) -> Tensor:
    return jvp(lambda value: block(params, value), (x,), (v,))[1]


def subset_sums(layers: list[pure.Block], params: list[Any], x: Tensor, v: Tensor, alpha: float) -> list[Tensor]:
    """J_k v as the sum over all subsets of k branches, each subset a product of its branches' Jacobians."""
    depth, points = len(layers), [x]
    for layer, part in zip(layers, params, strict=True):
        points.append(layer(part, points[-1]))
    sums = []
    for order in range(depth + 1):
        total = torch.zeros_like(v)
        for subset in combinations(range(depth), order):
            tangent = v
            for at in subset:
                branch, part = layers[at].children()["branch"], params[at]["branch"]
                tangent = alpha * pushed(branch, part, points[at], tangent)
            total = total + tangent
        sums.append(total)
    return sums


def paths() -> Iterator[Row]:
    depth, alpha = 8, 0.7
    block = ensembles.residual(6, 9, [alpha] * depth)
    params, _ = drawn(block)
    x, v = normal(3, 6, seed=1), normal(3, 6, seed=2)
    whole = pushed(block, params, x, v)
    layers = list(block.children().values())
    brute = torch.stack(subset_sums(layers, [params[str(i)] for i in range(depth)], x, v, alpha))
    spectrum = flow.path_spectrum(block, params, x, v)
    yield identity("C", "path_spectrum: Σ J_k u = J u", error(spectrum.components.sum(0), whole))
    yield identity("C", f"path_spectrum: J_k u = sum over {2**depth} subsets", error(spectrum.components, brute))
    yield identity(
        "C", "theory.path_parts: the same sums", error(theory.path_parts(block, params, x, v, depth + 1), brute)
    )
    yield value("C", "Veit: share of 5…17 of 54 branches, ΣC(54,k)/2^54", veit(), theory.path_share(54, 5, 17))


def veit() -> float:
    """By recurrence from the middle of Pascal's triangle: ratios of neighbours, no factorials."""
    term, total = 1.0, 0.0
    for k in range(1, 18):
        term *= (54 - k + 1) / k
        total += term if k >= 5 else 0.0
    return total / 2.0**54


def highway() -> Row:
    """One highway layer: carry, transform and gate derivative by hand; their sum is the whole, and each is measured."""
    block = pure.skips.Highway.dense(7, gate_bias=-1.0)
    params, _ = drawn(block)
    x, v = normal(4, 7, seed=3), normal(4, 7, seed=4)
    h, logit = block.transform(params["transform"], x), block.gate(params["gate"], x)
    t = torch.sigmoid(logit)
    carry = (1 - t) * v
    transform = t * pushed(block.transform, params["transform"], x, v)
    gate = (h - x) * t * (1 - t) * pushed(block.gate, params["gate"], x, v)
    by_hand = torch.stack([carry, transform, gate])
    spectrum = flow.path_spectrum(block, params, x, v)
    assert spectrum.through_gates is not None
    gated = spectrum.through_gates[1]
    split = torch.stack([spectrum.components[0], spectrum.components[1] - gated, gated])
    worst = max(error(split, by_hand), error(by_hand.sum(0), pushed(block, params, x, v)))
    return identity("I", "highway: carry + transform + gate derivative = J u, and each part", worst)


def samples() -> Iterator[Row]:
    block = nets.residual_mlp(5, 7, 3)
    params, _ = drawn(block)
    x = normal(6, 5, seed=5)

    def one(p: Any, x: Tensor) -> Tensor:
        return block(p, x[None]).square().sum()

    each = pure.flatten(vmap(grad(one), (None, 0))(params, x))
    summed = pure.flatten(grad(lambda p: block(p, x).square().sum())(params))
    worst = max(error(each[name].sum(0), leaf) for name, leaf in summed.items())
    yield identity("", "per-sample gradients sum to the gradient of the summed loss", worst)
    ghost = flow.per_sample_norms(one, params, x)
    assert set(ghost.methods.values()) == {"ghost"}
    worst = max(error(ghost[name], leaf.flatten(1).norm(dim=1)) for name, leaf in each.items())
    yield identity("", "ghost norms equal materialised norms", worst)


def algebra() -> Iterator[Row]:
    """One number by two methods: closed forms beside recursions and products that were derived independently."""
    width, branch = 12, 20
    plain = read_stack(ensembles.plain([width] * 6))
    expected = theory.plain_fourth_moment([width] * 6)
    yield value("A", "E‖Ju‖⁴: product formula = trace recursion", expected, fourth(plain, width))
    block = read_stack(ensembles.residual(width, branch, [0.6] * 5))
    expected = theory.residual_fourth_moment(5, 0.6, width, branch)
    yield value("B", "E‖Ju‖⁴: product formula = trace recursion", expected, fourth(block, width))
    energies = theory.path_energies([0.36] * 5)
    binomial = [math.comb(5, k) * 0.36**k for k in range(6)]
    worst = max(abs(a / b - 1) for a, b in zip(energies, binomial, strict=True))
    yield identity("C", "equal gains: energies are C(L,k) α^2k", worst)
    harmonic = sum(1 / index for index in range(1, 102)) - 1
    gains = [1 / layer for layer in range(1, 101)]
    mean = theory.mean_path_length(gains)
    yield value("C", "α_l² = 1/l: mean path length is H_{L+1} − 1, L = 100", harmonic, mean)
    shares = theory.path_energies(gains)
    moment = sum(k * e for k, e in enumerate(shares)) / sum(shares)
    yield value("C", "the same mean from the Poisson-binomial energies", harmonic, moment)
    product = math.prod((layer + 0.5) / (layer + 1) for layer in range(1, 31))
    yield value("G", "Γ(L+3/2)Γ(2)/(Γ(3/2)Γ(L+2)) = Π (l+½)/(l+1), L = 30", product, theory.batch_norm_correlation(30))
    wide = read_stack(ensembles.residual(10**7, 10**7, [0.5] * 4))
    ratio = traces(wide, 10**7)[1] / 10**7 / theory.residual_second_moment(4, 0.5) ** 2
    limit = theory.residual_spectrum_ratio([0.25] * 4)
    yield value("D", "m₂/m₁² at n = 10⁷: exact recursion = limit", limit, ratio, 1e-6)


def fourth(stack: Any, width: int) -> float:
    squared, trace = traces(stack, width)
    return (squared + 2 * trace) / (width * (width + 2))


def spectrum_moments(inverse_s: Sequence[float], orders: int) -> list[float]:
    """Return m_1, …, m_K of the law whose S-transform is the inverse of a power series.

    Args:
        inverse_s: c_0, c_1, … of 1/S(z) = Σ c_j z^j, at least K of them, fewer where the series ends.
        orders: K.

    Source: Voiculescu 1987, Multiplication of certain non-commuting random variables; Lagrange's inversion.

    Example:
        >>> spectrum_moments([1.0, 1.0], 4)  # 1/S = 1 + z: Marchenko and Pastur's law, Catalan's numbers
        [1.0, 2.0, 5.0, 14.0]
    """
    phi = _product([1.0, 1.0], inverse_s, orders)
    power, moments = [1.0], []
    for k in range(1, orders + 1):
        power = _product(power, phi, orders)
        moments.append((power[k - 1] if k <= len(power) else 0.0) / k)
    return moments


def _product(left: Sequence[float], right: Sequence[float], terms: int) -> list[float]:
    out = [0.0] * min(terms, len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right[: max(0, len(out) - i)]):
            out[i + j] += a * b
    return out


def densities() -> Iterator[Row]:
    """Moments of the closed-form densities by quadrature, beside the moments of the S-transform."""
    logs, density = theory.residual_limit_density(1.0, 8193)
    for order in (0, 1, 2, 3):
        found = float(torch.trapezoid(density * torch.exp(order * logs), logs))
        expected = theory.residual_limit_moment(order, 1.0) if order else 1.0
        yield value("D", f"limit density, c = 1: moment {order} is the S-transform's", expected, found, 1e-5)
    series = [math.exp(1.0) * 2.0**j / math.factorial(j) for j in range(6)]
    worst = max(abs(m / theory.residual_limit_moment(k, 1.0) - 1) for k, m in enumerate(spectrum_moments(series, 6), 1))
    yield identity("D", "Lagrange's inversion of e^(c(1+2z)): moments 1…6", worst)
    fuss = spectrum_moments([1.0, 3.0, 3.0, 1.0], 6)
    worst = max(abs(m / (math.comb(4 * k, k) / (3 * k + 1)) - 1) for k, m in enumerate(fuss, 1))
    yield identity("E", "(1+z)³: moments 1…6 are the Fuss–Catalan numbers", worst)


def identities() -> list[Row]:
    return [*paths(), highway(), *samples(), *algebra(), *densities()]
