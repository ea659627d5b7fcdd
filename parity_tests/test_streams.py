"""Streams and mixes over depth start as the plain network, and keep what their papers promise."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import pure
from pure import tree
from pure.catalogue.parts import conv, mlp
from pure.compose import Sequential
from pure.errors import ArgumentError, DtypeError, RankError, ShapeError, TreeError
from pure.layers import LayerNorm, Linear
from pure.skips import Residual
from pure.skips.streams.dense_former import DenseFormer, EarlierOutputs
from pure.skips.streams.depth_attention import DepthAttention, DepthRead
from pure.skips.streams.hyper_connections import HyperConnection, hyper_connected
from pure.skips.streams.laurel import laurel
from pure.skips.streams.manifold_hyper_connections import ManifoldConnection, sinkhorn
from pure.skips.streams.stream_axis import Collapse, Expand


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def branches(depth: int) -> list[pure.Block]:
    """Pre-norm branches, so that the plain network over them is a pre-norm residual one."""
    return [Sequential(norm=LayerNorm(6), f=mlp()) for _ in range(depth)]


def started(block: pure.Block) -> Any:
    return block.init(generator(), torch.float64)[0]


X = torch.randn(5, 6, generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize("features", [None, 6], ids=["static", "dynamic"])
@pytest.mark.parametrize("streams", [1, 2, 4])
def test_hyper_connections_start_as_the_pre_norm_residual_network(features: int | None, streams: int) -> None:
    layers = [HyperConnection(f, streams, index, features) for index, f in enumerate(branches(5))]
    net = Sequential(Expand(streams), *layers)
    plain = Sequential(*[Residual(f) for f in branches(5)])
    params = started(net)
    same = {str(i): {"branch": params[str(i + 1)]["branch"]} for i in range(5)}
    y, expected = net(params, X), plain(same, X)
    for stream in y.unbind(1):
        assert torch.equal(stream, expected), "every stream is the plain stream, bit for bit"
    summed = hyper_connected(*branches(5), streams=streams, features=features)
    renamed = {f"layer{i}": params[str(i + 1)] for i in range(5)}
    torch.testing.assert_close(summed(renamed, X), streams * expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("layer", range(7))
def test_each_layer_first_reads_the_stream_of_its_position(layer: int) -> None:
    alpha = started(HyperConnection(mlp(), 3, layer))["alpha"]
    assert torch.equal(alpha[:, 0], torch.eye(3, dtype=torch.float64)[layer % 3])
    assert torch.equal(alpha[:, 1:], torch.eye(3, dtype=torch.float64))


def test_dynamic_weights_start_at_zero_with_small_scales() -> None:
    params = started(HyperConnection(mlp(), 3, features=6))
    assert not params["alpha_weight"].any()
    assert not params["beta_weight"].any()
    assert params["alpha_scale"] == params["beta_scale"] == 0.01


@pytest.mark.parametrize("n", [2, 4, 8])
def test_sinkhorn_is_doubly_stochastic(n: int) -> None:
    """Logits of unit variance, 20 iterations: columns to rounding, rows to 3e-3 at worst and 3e-13 in the median."""
    logits = torch.randn(1000, n, n, generator=generator(n), dtype=torch.float64)
    matrix = sinkhorn(logits)
    assert bool((matrix >= 0).all())
    assert float((matrix.sum(-2) - 1).abs().max()) < 1e-15 * n
    rows = (matrix.sum(-1) - 1).abs()
    assert float(rows.max()) < 3e-3
    assert float(rows.median()) < 3e-13
    long = sinkhorn(logits, 1000)
    assert float((long.sum(-1) - 1).abs().max()) < 1e-12
    assert float((sinkhorn(logits, eps=1e-6).sum(-2) - 1).abs().max()) < 2e-6 * n, (
        "the ε of DeepSeek-V4 costs that much"
    )
    assert torch.linalg.matrix_norm(long, 2).max() <= 1 + 1e-12, "mixing expands nothing"


def test_manifold_mixing_keeps_the_mean_of_the_streams() -> None:
    block = ManifoldConnection(Linear(6, 6, weight_init=pure.initializers.Constant(0.0), bias=False), 4, 6, 200, 0.0)
    params = started(block)
    params = {**params, "scale": torch.ones(3, dtype=torch.float64), "weight": 5 * params["weight"]}
    x = torch.randn(5, 4, 6, generator=generator(2), dtype=torch.float64)
    y = block(params, x)
    assert float((y - x).abs().max()) > 0.1, "the streams are mixed"
    assert float((y.mean(1) - x.mean(1)).abs().max()) < 1e-12


def test_manifold_gate_is_tagged_between_zero_and_one() -> None:
    block = ManifoldConnection(mlp(), 4, 6)
    _, seen = pure.capture(block, kinds="gate")(started(block), torch.stack([X] * 4, 1))
    assert list(seen) == ["pre"]
    assert seen["pre"].shape == (5, 4)
    assert 0 < float(seen["pre"].min()) <= float(seen["pre"].max()) < 1


def test_a_zero_query_reads_the_mean() -> None:
    read = DepthRead(6)
    x = torch.randn(5, 4, 6, generator=generator(3), dtype=torch.float64)
    torch.testing.assert_close(read(started(read), x), x.mean(1), rtol=1e-14, atol=1e-15)
    _, seen = pure.capture(read)(started(read), x)
    assert bool((seen["weights"] == 0.25).all())


def test_a_large_query_reads_the_source_that_it_points_at() -> None:
    x = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    y = DepthRead(4)({"query": 1000 * torch.eye(4, dtype=torch.float64)[2]}, x)
    torch.testing.assert_close(y, torch.eye(4, dtype=torch.float64)[2].expand(2, 4), rtol=0, atol=1e-12)


def test_one_block_of_all_branches_is_a_residual_sum() -> None:
    """With blocks as long as the network the sources are the input and the sum of all branches."""
    net = DepthAttention(tuple(mlp() for _ in range(3)), DepthRead(6), size=3)
    params = started(net)
    total, h = 0.0, X
    for index in range(3):
        total = total + mlp()(params[str(index)], h)
        h = (X + total) / 2
    torch.testing.assert_close(net(params, X), h, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("period", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 2), (2, 4)])
def test_depth_weighted_averages_start_as_the_chain(period: int, dilation: int) -> None:
    blocks = tuple(Residual(f) for f in branches(6))
    net = DenseFormer(blocks, period, dilation)
    params = started(net)
    lengths = {int(name): len(alpha) for name, alpha in params["alphas"].items()}
    assert lengths == {i: (i + 1 + dilation) // dilation for i in range(6) if (i + 1) % period == 0}
    chain = {name: part for name, part in params.items() if name != "alphas"}
    assert torch.equal(net(params, X), Sequential(*blocks)(chain, X))


def test_a_period_beyond_the_depth_has_no_mixes() -> None:
    net = DenseFormer((Residual(mlp()),), period=2)
    assert "alphas" not in started(net)
    assert torch.equal(net(started(net), X), Sequential(Residual(mlp()))(started(net), X))


def test_gates_over_earlier_outputs_start_as_the_residual_network() -> None:
    net = EarlierOutputs(tuple(branches(4)))
    params = started(net)
    plain = {str(i): {"branch": params[str(i)]} for i in range(4)}
    assert torch.equal(net(params, X), Sequential(*[Residual(f) for f in branches(4)])(plain, X))


@pytest.mark.parametrize(("rank", "weighted"), [(None, True), (2, False), (2, True)])
def test_laurel_starts_as_the_residual_block(rank: int | None, weighted: bool) -> None:
    block = laurel(mlp(), features=6, rank=rank, weighted=weighted)
    params = started(block)
    f = params["branch"]["f"] if weighted else params["branch"]
    assert torch.equal(block(params, X), Residual(mlp())({"branch": f}, X))
    assert pure.count(params) - pure.count(f) == 2 * weighted + (0 if rank is None else 2 * 6 * rank)


def test_streams_of_images_carry_batch_statistics() -> None:
    net = hyper_connected(conv(4, 4), conv(4, 4), streams=2)
    params, state = net.init(generator())
    _, new = net.apply(params, torch.randn(3, 4, 5, 5, generator=generator(4)), state, {}, True)
    assert tree.names(new) == tree.names(state)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Expand(0), ArgumentError, "at least 1"),
        (lambda: Collapse("max"), ArgumentError, "sum, mean"),
        (lambda: HyperConnection(mlp(), 0), ArgumentError, "at least 1"),
        (lambda: HyperConnection(mlp(), 2, norm=LayerNorm(6)), ArgumentError, "features"),
        (lambda: ManifoldConnection(mlp(), 4, 6, iterations=0), ArgumentError, "at least 1"),
        (lambda: DenseFormer(()), ArgumentError, "at least one Block"),
        (lambda: DenseFormer((torch.tanh,)), ArgumentError, "wrap it in Function"),
        (lambda: DenseFormer((mlp(),), period=0), ArgumentError, "period=0"),
        (lambda: DepthAttention((mlp(),), DepthRead(6), size=0), ArgumentError, "size=0"),
        (lambda: laurel(mlp(), weighted=False), ArgumentError, "rank"),
        (lambda: laurel(mlp(), rank=2), ArgumentError, "features"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("block", "shape", "error", "match"),
    [
        (partial(Collapse), (2, 3), RankError, "Expand"),
        (partial(HyperConnection, mlp(), 2), (3, 6), RankError, "Expand"),
        (partial(HyperConnection, mlp(), 2), (3, 4, 6), ShapeError, "2 streams"),
        (partial(HyperConnection, Linear(6, 5), 2), (3, 2, 6), ShapeError, "one shape"),
        (partial(HyperConnection, Linear(5, 5), 2, features=6), (3, 2, 5), ShapeError, "6 features"),
        (partial(ManifoldConnection, mlp(), 2, 6), (3, 2, 5), ShapeError, "6 features"),
        (partial(ManifoldConnection, Linear(6, 5), 2, 6), (3, 2, 6), ShapeError, "one shape"),
        (partial(DepthRead, 6), (3, 6), RankError, "sources"),
        (partial(DepthRead, 6), (3, 2, 5), ShapeError, "6 features"),
        (partial(DepthAttention, (Linear(6, 5),), DepthRead(6)), (3, 6), ShapeError, "one shape"),
        (partial(DenseFormer, (Linear(6, 5),)), (3, 6), ShapeError, "one shape"),
        (partial(EarlierOutputs, (Linear(6, 5),)), (3, 6), ShapeError, "one shape"),
    ],
)
def test_wrong_inputs_are_named(
    block: Callable[[], pure.Block], shape: tuple[int, ...], error: type[Exception], match: str
) -> None:
    made = block()
    params, _ = made.init(generator())
    with pytest.raises(error, match=match):
        made(params, torch.zeros(shape))


@pytest.mark.parametrize(
    ("block", "x", "name"),
    [
        (partial(HyperConnection, mlp(), 2), torch.zeros(3, 2, 6), "beta"),
        (partial(HyperConnection, mlp(), 2, features=6), torch.zeros(3, 2, 6), "alpha_weight"),
        (partial(ManifoldConnection, mlp(), 2, 6), torch.zeros(3, 2, 6), "bias"),
        (partial(DenseFormer, (Linear(6, 6),)), torch.zeros(3, 6), "alphas.0"),
        (partial(EarlierOutputs, (Linear(6, 6),)), torch.zeros(3, 6), "gates.0"),
    ],
)
def test_wrong_leaves_are_named(block: Callable[[], pure.Block], x: torch.Tensor, name: str) -> None:
    made = block()
    flat = tree.flatten(made.init(generator())[0])
    with pytest.raises(TreeError, match=name):
        made(tree.unflatten({**flat, name: torch.zeros(7, 7)}), x)
    with pytest.raises(DtypeError, match=name):
        made(tree.unflatten({**flat, name: flat[name].double()}), x)
    missing = {key: leaf for key, leaf in flat.items() if key != name}
    with pytest.raises(TreeError, match=name):
        made(tree.unflatten(missing), x)
