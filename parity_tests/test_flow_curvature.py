"""`flow.hvp`, `flow.ggn_product` and `flow.curvature` are what the dense matrices give."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev

import pure
from pure import flow, nets
from pure.errors import ArgumentError, DtypeError, ShapeError, TreeError, UnsupportedError
from pure.flow.hessian.hessian_spectrum import _block_traces

FLOAT64 = torch.float64
CLOSE = 1e-10


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=FLOAT64)


def flat(params: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """One vector, and the way back, written without the library's own."""
    leaves = pure.flatten(params)

    def back(v: Tensor) -> Any:
        parts = v.split([leaf.numel() for leaf in leaves.values()])
        rebuilt = {name: p.reshape(leaf.shape) for (name, leaf), p in zip(leaves.items(), parts, strict=True)}
        return pure.unflatten(rebuilt)

    return torch.cat([leaf.reshape(-1) for leaf in leaves.values()]), back


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE * max(1.0, float(expected.abs().max())))


def network(name: str) -> tuple[Callable[..., Tensor], Any, Tensor]:
    """A function of (params, x) to outputs, its parameters, and a batch."""
    if name == "convolution":
        net: pure.Block = pure.Sequential(
            conv=pure.Conv2d(2, 4, 3, padding=1, stride=2),
            norm=pure.GroupNorm(2, 4),
            act=pure.Activation("gelu"),
            pool=pure.GlobalAvgPool(),
            head=pure.Linear(4, 3),
        )
        x = inputs(3, 2, 5, 5)
    elif name == "batch statistics":
        net = pure.Sequential(fc=pure.Linear(3, 4), norm=pure.BatchNorm(4), act=pure.Activation("tanh"))
        x = inputs(5, 3)
    elif name == "attention":
        net = nets.gpt2(vocab_size=5, positions=4, features=4, depth=1, heads=2)
        x = torch.randint(5, (2, 3), generator=seeded())
    elif name == "stacked":
        net, x = pure.Repeat(nets.residual_mlp_block(3, 4, activation="tanh"), 2), inputs(5, 3)
    else:
        net, x = nets.residual_mlp(3, 4, 2, activation=name), inputs(5, 3)
    params, state = net.init(seeded(), FLOAT64)
    training = name == "batch statistics"
    return (lambda p, x: net.apply(p, x, state, {}, training)[0]), params, x


NETWORKS = ["relu", "gelu", "stacked", "convolution", "batch statistics", "attention"]


def entropy(y: Tensor, x: Tensor) -> Tensor:
    rows = y.flatten(0, -2)
    return F.cross_entropy(rows, torch.arange(len(rows)) % rows.shape[1])


# The reference is jacfwd(grad) and not torch.func.hessian: on torch 2.15 the latter, which differentiates a mapped
# backward pass, is wrong for layer_norm and batch_norm with a gain (jvp(grad) and finite differences agree).
@pytest.mark.parametrize("name", NETWORKS)
def test_a_hessian_product_is_the_dense_one(name: str) -> None:
    fn, params, x = network(name)
    v, back = flat(params)
    slope: Callable[[Tensor], Tensor] = grad(lambda v: entropy(fn(back(v), x), x))
    expected = jacfwd(slope)(v)
    matrix = flow.hvp(lambda p, x: entropy(fn(p, x), x), params, x)
    assert matrix.size == len(v)
    close(matrix.dense(), expected)
    direction = inputs(len(v), seed=3)
    close(flat(matrix(back(direction)))[0], expected @ direction)
    close(matrix.flat(direction), expected @ direction)
    close(matrix.flat(direction), expected @ direction)  # the graph is still there


@pytest.mark.parametrize("name", ["batch statistics", "attention"])
def test_a_hessian_product_is_the_change_of_the_gradient(name: str) -> None:
    fn, params, x = network(name)
    v, back = flat(params)
    slope = grad(lambda v: entropy(fn(back(v), x), x))
    direction, step = inputs(len(v), seed=3), 1e-5
    change = (slope(v + step * direction) - slope(v - step * direction)) / (2 * step)
    found = flow.hvp(lambda p, x: entropy(fn(p, x), x), params, x).flat(direction)
    torch.testing.assert_close(found, change, rtol=0, atol=1e-4 * float(change.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_gauss_newton_product_is_the_dense_one(name: str) -> None:
    fn, params, x = network(name)
    v, back = flat(params)
    y = fn(params, x)
    J = jacrev(lambda v: fn(back(v), x))(v).reshape(y.numel(), -1)
    H = hessian(lambda y: entropy(y, x))(y).reshape(y.numel(), -1)
    matrix = flow.ggn_product(fn, entropy, params, x)
    close(matrix.dense(), J.T @ H @ J)
    values = torch.linalg.eigvalsh(matrix.dense())
    assert values.min() > -1e-12 * values.max()


def test_products_run_together() -> None:
    fn, params, x = network("gelu")
    for matrix in (
        flow.hvp(lambda p, x: entropy(fn(p, x), x), params, x),
        flow.ggn_product(fn, entropy, params, x),
    ):
        close(matrix.dense(chunk_size=7), matrix.dense())


def test_trees_of_any_shape() -> None:
    params = (torch.tensor(2.0, dtype=FLOAT64), [{"a": inputs(2, 1)}, {}], inputs(0))
    matrix = flow.hvp(lambda p: p[0] ** 3 * p[1][0]["a"].square().sum(), params)
    a = params[1][0]["a"].flatten()
    expected = torch.diag(torch.full((3,), 16.0, dtype=FLOAT64))
    expected[0, 0] = 12 * a.square().sum()
    expected[0, 1:] = expected[1:, 0] = 24 * a
    close(matrix.dense(), expected)
    product = matrix(params)
    assert isinstance(product, tuple)
    assert product[2].shape == (0,)


def test_two_outputs_in_a_tree() -> None:
    params = {"w": inputs(3)}
    matrix = flow.ggn_product(
        lambda p: {"a": p["w"].square(), "b": (p["w"].sin(), torch.arange(3))},
        lambda y: y["a"].square().sum() + (y["b"][0] * y["b"][1]).sum() ** 2,
        params,
    )
    w = params["w"]
    weights = torch.arange(3) * w.cos()
    close(matrix.dense(), torch.diag(8 * w.square()) + 2 * torch.outer(weights, weights))


def test_a_linear_loss_and_an_unused_leaf_have_no_curvature() -> None:
    params = {"w": torch.ones(3), "unused": torch.ones(2)}
    assert not flow.hvp(lambda p: p["w"].sum(), params).dense().any()
    assert not flow.hvp(lambda p: torch.ones(()), params).dense().any()
    partly = flow.hvp(lambda p: p["w"].pow(3).sum(), params).dense()
    assert torch.equal(partly, torch.diag(torch.tensor([6.0, 6.0, 6.0, 0.0, 0.0])))


def test_params_of_two_dtypes_that_are_not_touched() -> None:
    params = {"a": torch.ones(2), "b": torch.ones(2, dtype=FLOAT64, requires_grad=True)}
    matrix = flow.hvp(lambda p: (p["a"].double() * p["b"]).sum() ** 2, params)
    assert matrix.dtype == FLOAT64
    assert matrix(params)["a"].dtype == torch.float32
    assert torch.linalg.matrix_norm(matrix.dense()) > 0
    assert params["b"].grad is None
    assert not params["a"].requires_grad


def problem() -> tuple[Callable[..., Tensor], Callable[..., Tensor], Any, Tensor]:
    net = pure.Sequential(
        first=pure.Linear(4, 8), act=pure.Activation("tanh"), body=nets.residual_mlp(8, 8, 1, activation="tanh")
    )
    params = net.init(seeded(), FLOAT64)[0]
    x = inputs(20, 4)
    return (lambda p, x: entropy(net(p, x), x)), net, params, x


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_estimates_against_the_whole_spectrum(kind: Any) -> None:
    loss, model, params, x = problem()
    given: Any = (loss, {}) if kind == "hessian" else (entropy, {"model": model})
    whole = flow.curvature(given[0], params, x, kind=kind, generator=seeded(), **given[1])
    assert whole.exact
    found = flow.curvature(
        given[0], params, x, kind=kind, generator=seeded(), full=False, k=3, chunk_size=8, trace_probes=8, **given[1]
    )
    assert not found.exact
    assert found.size == whole.size == len(whole.eigenvalues)
    order = whole.eigenvalues.abs().argsort(descending=True)[:3]
    close(found.eigenvalues, whole.eigenvalues[order])
    assert found.converged.all()
    assert whole.residuals.max() < 1e-12
    assert found.trace.low < whole.trace.value < found.trace.high
    assert whole.trace.value == pytest.approx(float(whole.eigenvalues.sum()), rel=1e-9)
    assert sum(leaf.value for leaf in whole.leaves.values()) == pytest.approx(whole.trace.value, rel=1e-9)
    assert list(found) == list(whole) == list(pure.flatten(params))
    assert set(found.blocks) == set(whole.blocks) == {"", "first", "body", "body.0", "body.0.branch",
                                                      "body.0.branch.fc1", "body.0.branch.fc2"}  # fmt: skip
    # Both densities integrate to 1, and the band of the one holds the other nearly everywhere.
    width = 0.1 * float(whole.eigenvalues.max())
    grid = torch.linspace(-2, 2 * float(whole.eigenvalues.max()), 500, dtype=FLOAT64)
    exact, seen = whole.density(grid, width), found.density(grid, width)
    step = float(grid[1] - grid[0])
    assert float(exact.value.sum() * step) == pytest.approx(1, abs=1e-6)
    assert float(seen.value.sum() * step) == pytest.approx(1, abs=1e-6)
    inside = (seen.low <= exact.value + 1e-9) & (exact.value <= seen.high + 1e-9)
    assert inside.double().mean() > 0.85


def test_the_density_of_an_exact_spectrum_has_no_band() -> None:
    loss, _, params, x = problem()
    curve = flow.curvature(loss, params, x, generator=seeded()).density()
    assert torch.equal(curve.low, curve.value)
    assert torch.equal(curve.high, curve.value)


def test_intervals_of_the_blocks_traces_cover() -> None:
    size = 60
    A = inputs(size, size, seed=5)
    A = (A + A.T) / 2 + torch.eye(size, dtype=FLOAT64)
    params = {"a": {"w": torch.zeros(25, dtype=FLOAT64)}, "b": {"w": torch.zeros(35, dtype=FLOAT64)}}

    def loss(p: Any) -> Tensor:
        w = torch.cat([p["a"]["w"], p["b"]["w"]])
        return w @ A @ w / 2

    matrix = flow.hvp(loss, params)
    diagonal = A.diagonal()
    reference = {"a": float(diagonal[:25].sum()), "b": float(diagonal[25:].sum()), "": float(diagonal.sum())}
    seeds = 1000
    hits = dict.fromkeys(reference, 0)
    generator = seeded(7)
    for _ in range(seeds):
        _, blocks = _block_traces(matrix, 12, generator, 12)
        for name, value in reference.items():
            hits[name] += value in blocks[name]
    for name, count in hits.items():
        assert 0.93 < count / seeds < 0.97, name


def test_what_it_reads_as() -> None:
    loss, _, params, x = problem()
    found = flow.curvature(loss, params, x, generator=seeded(), full=False, k=2, trace_probes=2, density_probes=2)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["eigenvalues"] == found.eigenvalues.tolist()
    assert "converged" in found.table()
    assert "first.weight" in found.table("leaves")
    assert "(all)" in found.table("blocks")
    assert found.plot().axes[0].get_yscale() == "log"
    assert "hessian of" in repr(found)
    again = flow.curvature(loss, params, x, generator=seeded(), full=False, k=2, trace_probes=2, density_probes=2)
    assert again.to_dict() == found.to_dict()
    short = flow.curvature(loss, params, x, generator=seeded(), full=False, k=0, trace_probes=2, density_probes=0)
    assert len(short.eigenvalues) == 0
    with pytest.raises(ArgumentError, match="density_probes"):
        short.density()
    with pytest.raises(ArgumentError, match="expected 'eigenvalues', 'leaves' or 'blocks'"):
        found.table("all")  # type: ignore[arg-type]


W = {"w": torch.ones(3)}


def changed(p: Any, x: Tensor) -> Tensor:
    x.add_(1)
    return (p["w"] * x).sum()


def bad_cases() -> dict[str, tuple[Callable[..., Any], Any, type[Exception], str]]:
    return {
        "a vector": (lambda p, x: p["w"] * x, W, ShapeError, "expected the batch's scalar"),
        "a number": (lambda p, x: 1.0, W, ArgumentError, "returned float"),
        "NaN": (lambda p, x: (p["w"] * x).sum() * torch.nan, W, UnsupportedError, "loss is nan"),
        "random": (lambda p, x: (p["w"] * torch.rand(3)).sum(), W, UnsupportedError, "random"),
        "in place": (changed, W, UnsupportedError, "in place"),
        "a leaf in place": (lambda p, x: p["w"].mul_(2).sum(), W, UnsupportedError, "in place"),
        "integers": (lambda p, x: x.sum(), {"w": torch.ones(3, dtype=torch.long)}, DtypeError, "int64"),
        "params of NaN": (lambda p, x: p["w"].sum(), {"w": torch.ones(3) * torch.nan}, ArgumentError, "'w' holds NaN"),
        "no params": (lambda p, x: x.sum(), {}, TreeError, "no leaves"),
    }


@pytest.mark.parametrize("case", bad_cases())
def test_what_has_no_curvature(case: str) -> None:
    loss, params, error, message = bad_cases()[case]
    with pytest.raises(error, match=message):
        flow.hvp(loss, params, torch.ones(3))
    with pytest.raises(error, match=message):
        flow.curvature(loss, params, torch.ones(3), generator=seeded())


def test_an_infinite_second_derivative() -> None:
    with pytest.raises(UnsupportedError, match="NaN or infinity"):
        flow.curvature(lambda p: p["w"].abs().pow(1.5).sum(), {"w": torch.zeros(2)}, generator=seeded())


def test_arguments() -> None:
    loss, model, params, x = problem()

    def run(**options: Any) -> Any:
        return flow.curvature(loss, params, x, generator=seeded(), **options)

    for options, message in (
        ({"kind": "fisher"}, "expected 'hessian' or 'ggn'"),
        ({"kind": "ggn"}, "without a model"),
        ({"model": model}, "with a model"),
        ({"trace_probes": 1}, "at least 2"),
        ({"density_probes": 1}, "at least 2"),
        ({"k": -1}, "k=-1"),
        ({"k": 10_000, "full": False}, "expected at most as many"),
    ):
        with pytest.raises(ArgumentError, match=message):
            run(**options)
    matrix = flow.hvp(loss, params, x)
    with pytest.raises(TreeError, match="missing"):
        matrix({"first": params["first"]})
    with pytest.raises(ShapeError, match=r"expected \(184,\)"):
        matrix.flat(torch.ones(3))
    with pytest.raises(UnsupportedError, match=r"inside a torch.func transform"):
        torch.func.vmap(lambda x: flow.hvp(loss, params, x[None]).flat(torch.ones(184)))(x)
