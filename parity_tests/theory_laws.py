"""Laws A to I against draws of the ensembles they speak of, and the negative controls that must be rejected."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import jvp, vmap

import pure
from parity_tests import theory_ensembles as ensembles
from parity_tests.theory_rows import Row, law, row
from pure import nets
from pure.flow import theory
from pure.flow.shared.estimate import Estimate, estimate
from pure.flow.theory import mean_ratio
from pure.flow.theory.draw_measurements import inputs

FLOAT32, FLOAT64 = torch.float32, torch.float64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def checked(
    name: str, block: pure.Block, seed: int, draws: int, dtype: torch.dtype = FLOAT64, probes: int = 4
) -> list[Row]:
    """Everything that `theory.predict` says of the block, held against draws."""
    found = theory.check(block, seeded(seed), draws=draws, dtype=dtype, probes=probes)
    return [row(f"{name}: {quantity}", comparison) for quantity, comparison in found.items()]


def exact() -> Iterator[Row]:
    """Laws that hold at any width, on narrow networks of unequal widths, many draws."""
    yield from checked("plain 24-32-40-32-24", ensembles.plain([24, 32, 40, 32, 24]), 1, 4000)
    yield from checked("block R n=24 m=36 L=6 α=½", ensembles.residual(24, 36, [0.5] * 6), 2, 1500)
    varied = ensembles.residual(16, 16, [layer**-0.5 for layer in range(1, 6)])
    yield from checked("block R α_l²=1/l L=5", varied, 3, 2500)
    yield from checked("mix γ₁²=1−1/L L=8", ensembles.mixed(24, 24, 8, 1 - 1 / 8), 4, 1500)
    yield from checked("nets.residual_mlp, its own init", nets.residual_mlp(24, 32, 6, scale=2.0), 5, 1500)
    yield mean_length()


def mean_length() -> Row:
    """Poisson-binomial: the mean path length, weighted by energy, is H_{L+1} − 1."""
    depth, draws = 8, 1500
    block = ensembles.residual(16, 16, [layer**-0.5 for layer in range(1, depth + 1)])
    generator = seeded(6)
    params, _ = theory.stacked_draws(block, generator, draws)
    x, u = torch.randn((2, draws, 1, 16), generator=generator, dtype=FLOAT64)
    parts = vmap(lambda p, x, u: theory.path_parts(block, p, x, u, depth + 1))(params, x, u)
    energies = parts.square().sum((2, 3))
    orders = torch.arange(depth + 1, dtype=FLOAT64)
    found = mean_ratio(energies @ orders, energies.sum(1))
    harmonic = sum(1 / index for index in range(2, depth + 2))
    return law("C", "α_l²=1/l L=8: mean path length H₉ − 1", harmonic, found)


def jacobians(block: pure.Block, width: int, draws: int, seed: int) -> Tensor:
    """Whole Jacobians at Gaussian inputs, float32: (draws, out, in)."""
    generator = seeded(seed)

    def one() -> Tensor:
        params, _ = block.init(generator, FLOAT32)
        x = torch.randn((1, width), generator=generator)
        push = vmap(lambda v: jvp(lambda value: block(params, value), (x,), (v[None],))[1][0])
        return push(torch.eye(width)).T

    return torch.stack([one() for _ in range(draws)])


def moments(jacobians: Tensor) -> tuple[Tensor, Tensor]:
    """m₁ and m₂ of each JᵀJ."""
    squares = torch.linalg.svdvals(jacobians.double()).square()
    return squares.mean(1), squares.square().mean(1)


def spectra() -> Iterator[Row]:
    width, depth = 256, 10
    found = jacobians(ensembles.residual(width, width, [depth**-0.5] * depth), width, 12, 11)
    first, second = moments(found)
    claim = "block R L=10 α²=1/10 n=256: m₂/m₁²"
    yield law(
        "D", claim, theory.residual_spectrum_ratio([1 / depth] * depth), mean_ratio(second, first, power=2), "limit"
    )
    yield from whole_density()
    for name, block, kind in (
        ("Gaussian linear", ensembles.linear(width, 2), "gaussian linear"),
        ("Gaussian ReLU", ensembles.plain([width] * 3), "gaussian relu"),
        ("orthogonal ReLU", ensembles.plain([width] * 3, orthogonal=True), "orthogonal relu"),
    ):
        found = jacobians(block, width, 24, 12)
        ratio = mean_ratio(*reversed(moments(found)), power=2)
        expected = theory.plain_spectrum_ratio(2, kind)  # type: ignore[arg-type]
        yield law("E", f"{name} L=2 n=256: m₂/m₁²", expected, ratio, "limit")
        if kind == "gaussian linear":
            top = estimate(torch.linalg.svdvals(found.double())[:, 0].square())
            yield law(
                "E", "Gaussian linear L=2: top edge (L+1)^(L+1)/L^L", theory.gaussian_product_edge(2), top, "limit"
            )
        if kind == "gaussian relu":
            yield law("E", "control: L + 1 for Gaussian ReLU", 3.0, ratio, "limit", rejected=True)


def whole_density() -> Iterator[Row]:
    """Law D's limit: quantiles of ln λ over the whole spectrum, and both edges, at L = 64."""
    width, depth, c = 512, 64, 1.0
    found = jacobians(ensembles.residual(width, width, [(c / depth) ** 0.5] * depth), width, 6, 13)
    eigenvalues = torch.linalg.svdvals(found.double()).square()
    logs, density = theory.residual_limit_density(c)
    below = torch.cumulative_trapezoid(density, logs)
    for share in (0.1, 0.25, 0.75, 0.9):
        at = float(logs[1:][torch.searchsorted(below, share)])
        claim = f"limit law c=1: quantile {share:.0%} of λ, L=64 n=512"
        yield law("D", claim, math.exp(at), estimate(torch.quantile(eigenvalues, share, dim=1)), "limit")
    low, high = theory.residual_limit_edges(c)
    yield law("D", "limit law c=1: upper edge λ₊", high, estimate(eigenvalues[:, 0]), "limit")
    yield law("D", "limit law c=1: lower edge λ₋", low, estimate(eigenvalues[:, -1]), "limit")


def correlations() -> Iterator[Row]:
    yield from checked("plain L=5 n=400 at 90°", ensembles.plain([400] * 6), 21, 500, FLOAT32, probes=8)
    block = ensembles.residual(256, 256, [0.5] * 6)
    yield from checked("block R L=6 α=½ n=m=256", block, 22, 150, FLOAT32, probes=8)
    idealised = coins(12, 32, 3000, 23)
    yield law("G", "coin-toss gates, α_l²=1/l, L=12", theory.batch_norm_correlation(12), idealised)


def coins(depth: int, width: int, draws: int, seed: int) -> Estimate:
    """The idealisation of law G: two inputs whose gates are independent fair coins, branch l of share 1/l."""
    generator = seeded(seed)
    u = torch.randn((draws, width, 1), generator=generator, dtype=FLOAT64)
    here = there = u / u.norm(dim=1, keepdim=True)
    for layer in range(1, depth + 1):
        U, V = torch.randn((2, draws, width, width), generator=generator, dtype=FLOAT64)
        gates = torch.rand((2, draws, width, 1), generator=generator, dtype=FLOAT64) < 0.5
        scale = math.sqrt(2) / width / math.sqrt(layer)
        here = here + scale * V @ (gates[0] * (U @ here))
        there = there + scale * V @ (gates[1] * (U @ there))
    return mean_ratio((here * there).sum((1, 2)), (here.square() + there.square()).sum((1, 2)) / 2)


def norms() -> Iterator[Row]:
    """Law H at every depth: growth of the stream, and the partial Jacobians, which telescope."""
    width, depth, draws = 256, 4, 150
    block = ensembles.pre_normed(width, width, depth)
    generator = seeded(31)
    params, _ = theory.stacked_draws(block, generator, draws, dtype=FLOAT32)
    x, _, u = inputs(draws, 8, width, math.pi / 2, 1.0, generator, FLOAT32)
    layers = list(block.children().values())
    variances = theory.stream_variance(depth)
    growth = theory.partial_jacobian(depth)
    for start in range(depth):
        rest = pure.Sequential(**{str(i): layer for i, layer in enumerate(layers) if i >= start})

        def pushed(p: object, x: Tensor, us: Tensor, rest: pure.Block = rest) -> Tensor:
            push = vmap(lambda u: jvp(lambda value: rest(p, value[None])[0], (x,), (u,))[1])
            return push(us).double().square().sum(1).mean()

        part = {name: leaf for name, leaf in params.items() if int(name) >= start}
        claim = f"pre-norm n=256: partial Jacobian {start} → {depth}, q_L/q_l"
        yield law("H", claim, growth[start], estimate(vmap(pushed)(part, x, u)), "limit")
        x = vmap(lambda p, x, layer=layers[start]: layer(p, x[None])[0])(params[str(start)], x)
        square = estimate(x.double().square().mean(1))
        yield law("H", f"pre-norm: stream variance q_{start + 1}", variances[start + 1], square)


def gates() -> Iterator[Row]:
    block = pure.Repeat(pure.skips.Highway.dense(256, gate_bias=-1.0), 3)
    yield from checked("Highway.dense n=256 b=−1 L=3", block, 41, 150, FLOAT32)


def controls() -> Iterator[Row]:
    """What must be rejected: the right measurement beside a wrong law."""
    width, depth = 300, 100
    first, second = moments(jacobians(ensembles.same_gates(width, depth, depth**-0.5), width, 6, 51))
    expected = theory.residual_spectrum_ratio([1 / depth] * depth)
    found = mean_ratio(second, first, power=2)
    yield law("D", "control: x + αW relu(x), L=100 n=300: m₂/m₁²", expected, found, "limit", rejected=True)
    plain = theory.check(
        ensembles.plain([200] * 6), seeded(52), draws=300, predictions=angles(5, 200), dtype=FLOAT32, probes=8
    )
    yield row("control: 2^−L for a plain net, L=5 n=200", plain["2^−L"], rejected=True)
    block = ensembles.residual(24, 36, [0.5] * 6)
    wrong = {
        "α in place of α²": ensembles.residual(24, 36, [0.5**0.5] * 6),
        "default init taken for the ensemble": nets.residual_mlp(24, 36, 6, scale=0.5),
        "one block fewer": ensembles.residual(24, 36, [0.5] * 5),
    }
    for name, other in wrong.items():
        said = theory.predict(other)
        against = theory.check(block, seeded(53), draws=1500, predictions=said)["E‖Ju‖²"]
        yield row(f"control: {name}", against, rejected=True)
    heavy = theory.Prediction("A", "", theory.plain_second_moment([32] * 5), "exact", "", "fourth")
    fourth = theory.check(ensembles.plain([32] * 5), seeded(54), draws=3000)["E‖Ju‖⁴"].measured
    yield row("control: E‖Ju‖⁴ = (E‖Ju‖²)², no Π(1+5/n)", theory.compare(heavy, fourth), rejected=True)


def angles(depth: int, width: int) -> theory.Predictions:
    """The popular 2^−L as a prediction."""
    wrong = theory.Prediction("F", "2^−L", 2.0**-depth, "limit", "", "correlation")
    return theory.Predictions({"2^−L": wrong}, {}, math.pi / 2, 1.0, width)
