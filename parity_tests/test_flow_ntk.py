"""`flow.ntk` is J(x₁)J(x₂)ᵀ to rounding, does not form J for linear maps, and tends to the known wide limits."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jacrev, vmap

import pure
from pure import flow, nets
from pure.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError
from pure.flow import infinite_width
from pure.flow.shared.estimate import student_t

FLOAT64 = torch.float64
CLOSE = 1e-10


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def drawn(block: pure.Block, seed: int = 0) -> Any:
    return block.init(torch.Generator().manual_seed(seed), FLOAT64)[0]


def contracted(fn: Callable[..., Tensor], params: Any, x1: Any, x2: Any) -> dict[str, Tensor]:
    """The tutorial's way: every sample's Jacobian, then their product, leaf by leaf."""

    def jacobians(x: Any) -> dict[str, Tensor]:
        found = vmap(jacrev(lambda p, row: fn(p, row[None]).reshape(-1)), (None, 0))(params, x)
        return {name: leaf.flatten(2) for name, leaf in pure.flatten(found).items()}

    first, second = jacobians(x1), jacobians(x2)
    return {name: torch.einsum("nov,mpv->nmop", first[name], second[name]) for name in first}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE * float(expected.abs().max()))


linear = pure.Linear(4, 4)


def convolutional() -> pure.Block:
    return pure.Sequential(
        conv1=pure.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
        norm=pure.GroupNorm(2, 8),
        act=pure.Activation("gelu"),
        conv2=pure.Conv2d(8, 6, 3, padding="same", bias=False),
        pool=pure.GlobalAvgPool(),
        head=pure.Linear(6, 3),
    )


def tokens(*shape: int) -> Tensor:
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(sum(shape)))


CASES: dict[str, tuple[Callable[..., Any], pure.Block, Callable[..., Tensor], tuple[int, ...], set[str]]] = {
    "residual mlp": (b := nets.residual_mlp(4, 6, 3), b, inputs, (4,), set()),
    "stacked": (b := pure.Repeat(nets.residual_mlp_block(4, 6), 3), b, inputs, (4,), set()),
    "sequence": (b := nets.residual_mlp(4, 3, 2), b, inputs, (7, 4), set()),
    "long sequence of few values": (lambda p, x: linear(p, x).tanh().mean(1), linear, inputs, (40, 4), set()),
    "convolutions and a norm": (b := convolutional(), b, inputs, (4, 7, 6), {"norm.weight", "norm.bias"}),
    "one weight twice": (lambda p, x: linear(p, linear(p, x).tanh()), linear, inputs, (4,), set()),
    "a weight in a product too": (
        lambda p, x: linear(p, x) @ p["weight"], linear, inputs, (4,), {"weight", "bias"}),
    "a function of the weight": (
        lambda p, x: F.linear(x, p["weight"] / p["weight"].norm(), p["bias"]), linear, inputs, (4,),
        {"weight", "bias"}),
    "no batch axis in the outputs but one": (lambda p, x: linear(p, x).sum(1), linear, inputs, (4,), set()),
}  # fmt: skip


@pytest.mark.parametrize("chunk_size", [None, 2], ids=["whole", "chunks"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_product_of_jacobians(case: str, chunk_size: int | None) -> None:
    fn, block, draw, shape, formed = CASES[case]
    params, x1, x2 = drawn(block), draw(5, *shape), draw(3, *shape)
    expected = contracted(fn, params, x1, x2)
    whole = sum(expected.values(), torch.zeros(()))
    for structured in (True, False):
        options: Any = {"structured": structured, "chunk_size": chunk_size}
        full = flow.ntk(fn, params, x1, x2, outputs="full", **options)
        traced = flow.ntk(fn, params, x1, x2, **options)
        close(full.kernel, whole)
        close(traced.kernel, whole.diagonal(dim1=2, dim2=3).sum(-1))
        close(full.trace_kernel, traced.kernel)
        for name, share in expected.items():
            close(traced[name], share.diagonal(dim1=2, dim2=3).sum(-1))
            close(full[name], traced[name])
        if structured:
            assert {name for name, method in traced.methods.items() if method == "materialised"} == formed
        else:
            assert set(traced.methods.values()) == {"materialised"}


def test_a_language_model_with_a_tied_head() -> None:
    net = nets.gpt2(vocab_size=11, positions=8, features=8, depth=1, heads=2)
    params, x = drawn(net), tokens(3, 4)
    expected = sum(contracted(net, params, x, x).values(), torch.zeros(()))
    found = flow.ntk(net, params, x)
    close(found.kernel, expected.diagonal(dim1=2, dim2=3).sum(-1))
    assert found.methods["body.embedding.weight"] == "materialised"
    assert found.methods["body.blocks.0.mlp.branch.f.fc1.weight"] == "structured"


def test_it_is_symmetric_and_positive() -> None:
    net = convolutional()
    params, x = drawn(net), inputs(6, 4, 7, 6)
    for outputs in ("trace", "full"):
        found = flow.ntk(net, params, x, outputs=outputs, chunk_size=4)
        values = found.eigenvalues()
        assert values.min() > -1e-12 * values.max()
        kernel = found.kernel
        close(kernel, kernel.T if kernel.ndim == 2 else kernel.permute(1, 0, 3, 2))
    close(flow.ntk(net, params, x).kernel, flow.ntk(net, params, x, x).kernel)


def test_both_methods_through_positions_give_one_answer() -> None:
    from pure.flow.kernel.jacobian_gram import Factors, gram, outer_gram

    for positions, width in ((2, 30), (60, 2)):
        pair = [
            Factors(inputs(n, positions, 2, width, seed=n), inputs(3, n, positions, 2, width + 1, seed=9 * n))
            for n in (4, 5)
        ]
        formed = [torch.einsum("ontgd,ntgi->ongdi", f.s, f.a).flatten(2) for f in pair]
        for full in (False, True):
            close(outer_gram(pair[0], pair[1], full), gram(formed[0], formed[1], full))


def test_float32_adds_up_in_float64() -> None:
    net = nets.residual_mlp(4, 6, 2)
    params, x = drawn(net), inputs(3, 4)
    exact = flow.ntk(net, params, x).kernel
    single = flow.ntk(net, pure.cast(params, torch.float32), x.float()).kernel
    assert single.dtype == FLOAT64
    torch.testing.assert_close(single, exact, rtol=1e-5, atol=1e-5 * float(exact.max()))


def test_an_unused_leaf_has_no_share() -> None:
    params = {"used": torch.ones(2, 2), "unused": torch.ones(3)}
    found = flow.ntk(lambda p, x: F.linear(x, p["used"]), params, torch.ones(2, 2))
    assert found.methods == {"used": "structured", "unused": "unused"}
    assert not found["unused"].any()
    assert (found["used"] == 4).all()


def test_what_it_reads_as() -> None:
    found = flow.ntk(linear, drawn(linear), inputs(3, 4))
    assert list(found) == ["weight", "bias"]
    assert json.loads(json.dumps(found.to_dict()))["kernel"] == found.kernel.tolist()
    assert "structured" in found.table()
    assert len(found.plot().axes) == 3
    assert "TangentKernel((3, 3), 4 outputs" in repr(found)


def bad_cases() -> dict[str, tuple[Callable[..., Any], Any, Any, type[Exception], str]]:
    params, x = {"w": torch.ones(3, 3)}, torch.ones(4, 3)
    return {
        "random": (lambda p, x: F.linear(x, p["w"]) * torch.rand(3), params, x, UnsupportedError, "random"),
        "a scalar": (lambda p, x: F.linear(x, p["w"]).sum(), params, x, ShapeError, "batch on axis 0"),
        "a tuple": (lambda p, x: (x, x), params, x, ArgumentError, "expected one tensor"),
        "integers": (lambda p, x: x, {"w": torch.ones(3, dtype=torch.long)}, x, DtypeError, "int64"),
        "NaN": (lambda p, x: F.linear(x, p["w"]), params, x * torch.nan, UnsupportedError, "NaN"),
        "a branch": (lambda p, x: F.linear(x, p["w"]) if x.sum() > 0 else x, params, x, UnsupportedError, "where"),
        "batch statistics": (
            lambda p, x: F.batch_norm(F.linear(x, p["w"]), None, None, training=True),
            params, x, UnsupportedError, "BatchNorm in training"),
    }  # fmt: skip


@pytest.mark.parametrize("case", bad_cases())
def test_what_has_no_kernel(case: str) -> None:
    fn, params, x, error, message = bad_cases()[case]
    with pytest.raises(error, match=message):
        flow.ntk(fn, params, x)


def test_arguments() -> None:
    params, x = drawn(linear), inputs(2, 4)
    with pytest.raises(ArgumentError, match="expected 'trace' or 'full'"):
        flow.ntk(linear, params, x, outputs="all")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="chunk_size=0"):
        flow.ntk(linear, params, x, chunk_size=0)
    with pytest.raises(ArgumentError, match="leave x2 out"):
        flow.ntk(linear, params, x, x).eigenvalues()


# The limits of infinite width.


def wide_mlp(activation: Callable[[Tensor], Tensor], variance: float, bias: float) -> Callable[..., Tensor]:
    def fn(params: dict[str, Tensor], x: Tensor) -> Tensor:
        layers = len(params) // 2
        for layer in range(layers):
            w = params[f"w{layer}"]
            x = F.linear(x * (variance / w.shape[1]) ** 0.5, w) + bias**0.5 * params[f"b{layer}"]
            x = activation(x) if layer < layers - 1 else x
        return x

    return fn


def mlp_params(sizes: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    params = {}
    for layer, (into, out) in enumerate(pairwise(sizes)):
        params[f"w{layer}"] = torch.randn(out, into, generator=generator, dtype=FLOAT64)
        params[f"b{layer}"] = torch.randn(out, generator=generator, dtype=FLOAT64)
    return params


def wide_residual(scale: float) -> Callable[..., Tensor]:
    def fn(params: dict[str, Tensor], x: Tensor) -> Tensor:
        h = F.linear(x, params["embed"]) / x.shape[1] ** 0.5
        for at in range(2):
            u, v = params[f"u{at}"], params[f"v{at}"]
            inner = F.linear(h, u).relu() * (2 / u.shape[1]) ** 0.5
            h = h + scale * F.linear(inner, v) / v.shape[1] ** 0.5
        return F.linear(h, params["head"]) / h.shape[1] ** 0.5

    return fn


def residual_params(features: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    shapes = {"embed": (width, features), "head": (4, width)}
    shapes |= {f"{name}{at}": (width, width) for at in range(2) for name in "uv"}
    return {name: torch.randn(shape, generator=generator, dtype=FLOAT64) for name, shape in shapes.items()}


LIMITS: dict[str, Any] = {
    "relu": (torch.relu, "relu", 2.0, 0.0),
    "relu with biases": (torch.relu, "relu", 1.5, 0.3),
    "erf": (torch.erf, "erf", 1.5, 0.2),
    "linear": (lambda x: x, "linear", 1.0, 0.1),
}


def measured(
    draw: Callable[[int, torch.Generator], tuple[Callable[..., Tensor], Any]], x: Tensor, width: int
) -> Tensor:
    """Kernels of one output, over 24 random networks."""
    found = []
    for seed in range(24):
        fn, params = draw(width, torch.Generator().manual_seed(seed))
        kernel = flow.ntk(fn, params, x)
        found.append(kernel.kernel / kernel.outputs)
    return torch.stack(found)


def held(kernels: Tensor, limit: Tensor) -> None:
    """Every entry's mean within the 99.9% interval of the limit, which itself is narrow."""
    error = kernels.std(0) / len(kernels) ** 0.5
    half = student_t(len(kernels) - 1, level=0.999) * error
    assert ((kernels.mean(0) - limit).abs() <= half).all()
    assert float(half.max()) < 0.2 * float(limit.abs().max())


@pytest.mark.parametrize("name", LIMITS)
def test_a_wide_network_tends_to_the_limit(name: str) -> None:
    activation, key, variance, bias = LIMITS[name]
    x = inputs(4, 3)
    limit = infinite_width.fully_connected(x, depth=2, activation=key, weight_variance=variance, bias_variance=bias).ntk
    fn = wide_mlp(activation, variance, bias)
    spread = {}
    for width in (32, 512):
        kernels = measured(lambda w, g: (fn, mlp_params([3, w, w, 4], g)), x, width)
        spread[width] = float((kernels - limit).square().mean().sqrt())
    held(kernels, limit)
    assert 2 < spread[32] / spread[512] < 8  # √(512 / 32) = 4


def test_a_wide_residual_network_tends_to_the_limit() -> None:
    x = inputs(4, 3)
    limit = infinite_width.residual(x, depth=2, scale=0.7).ntk
    held(measured(lambda w, g: (wide_residual(0.7), residual_params(3, w, g)), x, 384), limit)


def test_the_process_at_the_start() -> None:
    """The covariance of outputs over random weights, with its interval."""
    x = inputs(3, 3)
    limit = infinite_width.residual(x, depth=2, scale=0.7).nngp
    outs = [wide_residual(0.7)(residual_params(3, 128, torch.Generator().manual_seed(seed)), x) for seed in range(400)]
    squares = torch.stack([out @ out.T / out.shape[1] for out in outs])
    held(squares, limit)


def test_laws_of_the_limit() -> None:
    x = inputs(5, 4)
    he = infinite_width.fully_connected(x, depth=3)
    own = 2 * x.square().sum(1) / 4
    torch.testing.assert_close(he.nngp.diagonal(), own, rtol=CLOSE, atol=0)  # He's variance keeps the norm
    torch.testing.assert_close(he.ntk.diagonal(), 4 * own, rtol=CLOSE, atol=0)  # and every layer adds as much
    block = infinite_width.residual(x, depth=6, scale=0.5)
    torch.testing.assert_close(block.nngp.diagonal(), 1.25**6 * own / 2, rtol=CLOSE, atol=0)  # law B
    plain = infinite_width.residual(x, depth=6, scale=0.0)
    torch.testing.assert_close(plain.ntk, 2 * x @ x.T / 4, rtol=CLOSE, atol=1e-12)
    both = infinite_width.fully_connected(x, x[:2], depth=3, activation="erf", bias_variance=0.1)
    one = infinite_width.fully_connected(x, depth=3, activation="erf", bias_variance=0.1)
    torch.testing.assert_close(both.ntk, one.ntk[:, :2], rtol=CLOSE, atol=0)
    assert torch.linalg.eigvalsh(one.ntk).min() > 0
    with pytest.raises(ArgumentError, match="expected 'relu', 'erf' or 'linear'"):
        infinite_width.fully_connected(x, depth=1, activation="gelu")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="expected"):
        infinite_width.residual(x[0], depth=1)
    with pytest.raises(ArgumentError, match="depth=-1"):
        infinite_width.residual(x, depth=-1)
