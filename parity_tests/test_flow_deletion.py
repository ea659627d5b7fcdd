"""`flow.deletion` is what deleting the branches one by one gives, and its prediction is the derivative by a mask."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pure
from parity_tests.test_flow_plots import check_layout
from pure import flow, nets, tree
from pure.catalogue import CASES, Case
from pure.errors import ArgumentError, ShapeError, UnsupportedError
from pure.flow.activations.block_deletion import interactions
from pure.skips import Highway
from pure.tags import substitute

FLOAT64 = torch.float64


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def square(y: Any) -> Tensor:
    parts = [leaf.square().sum() for leaf in tree.leaves(y) if leaf.is_floating_point()]
    return torch.stack(parts).sum()


def check(block: pure.Block, params: Any, state: Any, x: Any, without: Callable[[int], Any]) -> flow.Deletion:
    """Compares with a network that lacks branch number i: `without(i)` gives its output."""
    found = flow.deletion(block, params, x, state, loss=square)
    y = block(params, x, state)
    assert found.loss == pytest.approx(float(square(y)), rel=1e-12)
    for index, path in enumerate(found.branches):
        other = without(index)
        change = float(square(other) - square(y))
        assert found[path] == pytest.approx(change, rel=1e-12, abs=1e-12 * found.loss)
        assert float(found.output_change[index]) == pytest.approx(float((other - y).norm() / y.norm()), rel=1e-12)
    return found


@pytest.mark.parametrize("repeated", [False, True])
def test_residual_layers_taken_out_of_the_chain(repeated: bool) -> None:
    chain = nets.residual_mlp(5, 7, 4)
    params, _ = chain.init(torch.Generator().manual_seed(0), FLOAT64)
    x = normal(1, 6, 5)

    def without(index: int) -> Tensor:
        h = x
        for depth, layer in enumerate(chain.children().values()):
            h = h if depth == index else layer(params[str(depth)], h)
        return h

    if repeated:
        check(pure.Repeat(nets.residual_mlp_block(5, 7), 4), pure.stack(list(params.values())), {}, x, without)
    else:
        check(chain, params, {}, x, without)


def zeroed(params: Any, prefix: str) -> Any:
    """The parameters with everything under a prefix set to 0."""
    flat = tree.flatten(params)
    assert any(name.startswith(prefix + ".") for name in flat)
    return tree.unflatten({n: v * 0 if n.startswith(prefix + ".") else v for n, v in flat.items()})


def test_a_resnet_whose_last_norms_are_zeroed() -> None:
    block = nets.create("resnet18", num_classes=3)
    params, state = block.init(torch.Generator().manual_seed(0), FLOAT64)
    x = normal(1, 2, 3, 16, 16)
    names = [f"layer{stage}.{index}" for stage in range(1, 5) for index in range(2)]
    found = check(block, params, state, x, lambda i: block(zeroed(params, f"{names[i]}.branch.bn2"), x, state))
    assert found.branches == tuple(f"{name}.branch" for name in names)


def test_a_transformer_whose_last_maps_are_zeroed() -> None:
    case = pure.catalogue.case("vit_block")
    block, params, state, x, _ = case.example(dtype=FLOAT64)
    paths = flow.deletion(block, params, x, state, loss=square).branches
    assert len(paths) == 2
    leaves = tree.names(params)

    def without(index: int) -> Tensor:
        inside = [name for name in leaves if name.startswith(paths[index] + ".") and "norm" not in name]
        last = inside[-1].rpartition(".")[0]
        return block(zeroed(params, last), x, state)

    check(block, params, state, x, without)


def test_a_dense_block_and_a_highway() -> None:
    dense = pure.Sequential(pure.skips.DenseSkip(pure.Linear(4, 2)), pure.skips.DenseSkip(pure.Linear(6, 2)))
    params, _ = dense.init(torch.Generator().manual_seed(0), FLOAT64)
    x = normal(1, 3, 4)
    check(dense, params, {}, x, lambda i: dense(zeroed(params, f"{i}.branch"), x))
    highway = Highway.dense(4)
    own, _ = highway.init(torch.Generator().manual_seed(0), FLOAT64)
    gate = torch.sigmoid(F.linear(x, own["gate"]["weight"], own["gate"]["bias"]))
    check(highway, own, {}, x, lambda i: (1 - gate) * x)


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_block_of_the_catalogue(row: Case) -> None:
    block, params, state, x, extras = row.example(dtype=FLOAT64)
    _, seen = pure.capture(block, "branch")(params, x, state, extras)
    if not seen:
        with pytest.raises(UnsupportedError, match=r'tags no branch.*kind="branch"'):
            flow.deletion(block, params, x, state, extras, loss=square)
        return
    found = flow.deletion(block, params, x, state, extras, loss=square)
    assert list(found) == list(seen)
    for index, path in enumerate(seen):
        y = substitute(block, lambda t, path=path: t.value * (t.path != path), "branch")(params, x, state, extras)
        assert found[path] == pytest.approx(float(square(y)) - found.loss, rel=1e-12, abs=1e-11 * found.loss)

        def masked(factor: Tensor, path: str = path) -> Tensor:
            def change(tagged: pure.tags.Tagged) -> Any:
                return tagged.value * factor if tagged.path == path else tagged.value

            return square(substitute(block, change, "branch")(params, x, state, extras))

        _, slope = torch.func.jvp(masked, (torch.ones((), dtype=FLOAT64),), (torch.ones((), dtype=FLOAT64),))
        predicted = float(found.first_order[index])
        assert predicted == pytest.approx(-float(slope), rel=1e-9, abs=1e-11 * found.loss)
    json.dumps(found.to_dict())


def test_first_order_is_exact_where_the_loss_is_linear_in_the_branch() -> None:
    block = nets.residual_mlp(5, 7, 3)
    params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
    found = flow.deletion(block, params, normal(1, 6, 5), loss=torch.sum)
    assert found["2.branch"] == pytest.approx(float(found.first_order[2]), rel=1e-12)
    assert found["0.branch"] != pytest.approx(float(found.first_order[0]), rel=1e-3)


def linear_stack(depth: int = 5) -> tuple[pure.Block, Any, Tensor]:
    block = pure.Sequential(*[pure.Residual(pure.Linear(4, 4, bias=False))] * depth)
    return block, block.init(torch.Generator().manual_seed(0), FLOAT64)[0], normal(1, 6, 4)


def test_suffixes_and_all_pairs() -> None:
    block, params, x = linear_stack()
    found = flow.deletion(block, params, x, loss=square, suffixes=True, pairs=100)
    assert found.suffix_loss_change is not None
    assert found.pairs is not None
    for index in range(5):
        kept = {**params, **{str(i): zeroed(params[str(i)], "branch") for i in range(index, 5)}}
        expected = float(square(block(kept, x))) - found.loss
        assert float(found.suffix_loss_change[index]) == pytest.approx(expected, rel=1e-12)
    assert found.pairs.indices.tolist() == [[i, j] for i in range(5) for j in range(i + 1, 5)]
    for (i, j), change, interaction in zip(
        found.pairs.indices.tolist(), found.pairs.loss_change, found.pairs.interaction, strict=True
    ):
        kept = {**params, **{str(k): zeroed(params[str(k)], "branch") for k in (i, j)}}
        assert float(change) == pytest.approx(float(square(block(kept, x))) - found.loss, rel=1e-12)
        assert float(interaction) == pytest.approx(float(change - found.loss_change[[i, j]].sum()), rel=1e-9)
    assert found.pairs.mean_interaction.probes == 0, "all pairs: nothing is estimated"


def test_random_pairs_are_drawn_once_from_the_generator() -> None:
    block, params, x = linear_stack(6)

    def drawn(seed: int) -> flow.PairDeletion:
        generator = torch.Generator().manual_seed(seed)
        pairs = flow.deletion(block, params, x, loss=square, pairs=7, generator=generator).pairs
        assert pairs is not None
        return pairs

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first.indices.tolist() == again.indices.tolist() != other.indices.tolist()
    assert len({tuple(pair) for pair in first.indices.tolist()}) == 7
    assert first.mean_interaction.low < first.mean_interaction.value < first.mean_interaction.high


def test_the_interval_of_the_interaction_covers_it() -> None:
    """24 blocks that interact as normal numbers do: the loss is a quadratic form in the mask."""
    count, asked, trials = 24, 40, 1500
    names = [str(index) for index in range(count)]
    ones = {name: torch.ones(1, 1, dtype=FLOAT64) for name in names}
    form = normal(0, count, count)

    def add(params: Any, x: Tensor) -> Tensor:
        parts = [pure.tag(params[name] * x, f"b{name}", kind="branch") for name in names]
        return pure.tag(torch.cat(parts, 1), "stream")

    block = pure.Function(add, lambda *_: ones)
    generator = torch.Generator().manual_seed(1)
    whole = flow.deletion(
        block, ones, torch.ones(1, 1, dtype=FLOAT64), loss=lambda y: (y @ form @ y.T).sum(), pairs=999
    )
    assert whole.pairs is not None
    truth, every = whole.pairs.mean_interaction.value, whole.pairs.interaction
    covered = 0
    for _ in range(trials):
        chosen = torch.randperm(len(every), generator=generator)[:asked].sort().values
        pairs = interactions(whole.pairs.indices[chosen], whole.loss_change, whole.pairs.loss_change[chosen])
        covered += truth in pairs.mean_interaction
    assert 0.93 < covered / trials < 0.97


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
def test_chunks_change_nothing(chunk_size: int) -> None:
    block, params, x = linear_stack()
    whole = flow.deletion(block, params, x, loss=square)
    parts = flow.deletion(block, params, x, loss=square, chunk_size=chunk_size)
    torch.testing.assert_close(parts.loss_change, whole.loss_change, rtol=1e-12, atol=0)


def test_one_forward_pass_and_one_mapped_pass_whatever_the_depth() -> None:
    calls = []

    def count(x: Tensor) -> Tensor:
        calls.append(1)
        return x * 1

    for depth in (2, 9):
        calls.clear()
        block = pure.Sequential(pure.Function(count), *[pure.Residual(pure.Linear(3, 3))] * depth)
        params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
        assert len(flow.deletion(block, params, normal(1, 2, 3), loss=square)) == depth
        assert len(calls) == 2


def test_targets_float32_and_batch_statistics() -> None:
    block = nets.create("resnet18", num_classes=3)
    params, state = block.init(torch.Generator().manual_seed(0))
    x, y = normal(1, 4, 3, 16, 16).float(), torch.arange(4) % 3
    before = pure.flatten(state)["bn1.running_mean"].clone()
    found = flow.deletion(block, params, x, state, loss=F.cross_entropy, targets=(y,), training=True)
    out, _ = block.apply(zeroed(params, "layer4.1.branch.bn2"), x, state, {}, True)
    expected = float(F.cross_entropy(out, y)) - found.loss
    assert found["layer4.1.branch"] == pytest.approx(expected, abs=1e-5)
    assert torch.equal(pure.flatten(state)["bn1.running_mean"], before)


@pytest.mark.parametrize(
    ("fn", "loss", "error", "message"),
    [
        (lambda x: x, square, UnsupportedError, r"tags no branch \(found: no tags at all\)"),
        (lambda x: pure.tag(x, "b", "branch"), torch.square, ShapeError, "expected the batch's scalar loss"),
        (lambda x: pure.tag(x, "b", "branch"), lambda y: y.sum() / 0, UnsupportedError, "loss is inf"),
        (lambda x: pure.tag(x + torch.rand(2), "b", "branch"), square, UnsupportedError, "draws random numbers"),
        (lambda x: pure.tag(x.add_(1), "b", "branch"), square, UnsupportedError, "works in place"),
        (lambda x: pure.tag(x, "b", "branch") if x.sum() > 0 else x, square, None, ""),
        (lambda x: pure.tag(x, "b", "branch").relu() * (1 if pure.tag(x, "c", "branch").sum() > 0 else 2), square,
         UnsupportedError, "vmap does not take: branch by torch.where"),
    ],
    ids=["no branch", "vector", "infinite", "random", "in place", "a branch on the input", "a branch on a branch"],
)  # fmt: skip
def test_functions_that_cannot_be_measured(fn: Any, loss: Any, error: type[Exception] | None, message: str) -> None:
    if error is None:
        assert flow.deletion(pure.Function(fn), {}, torch.ones(1, 2), loss=loss)["b"] == -2.0
        return
    with pytest.raises(error, match=message):
        flow.deletion(pure.Function(fn), {}, torch.ones(1, 2), loss=loss)


def test_arguments() -> None:
    block, params, x = linear_stack()
    with pytest.raises(ArgumentError, match="x holds NaN"):
        flow.deletion(block, params, x * torch.nan, loss=square)
    with pytest.raises(ArgumentError, match="chunk_size=0"):
        flow.deletion(block, params, x, loss=square, chunk_size=0)
    with pytest.raises(ArgumentError, match="pairs=-1"):
        flow.deletion(block, params, x, loss=square, pairs=-1)
    with pytest.raises(ArgumentError, match="generator"):
        flow.deletion(block, params, x, loss=square, pairs=2)
    with pytest.raises(KeyError):
        flow.deletion(block, params, x, loss=square)["7.branch"]


def test_a_loss_that_is_infinite_only_without_a_branch_is_reported() -> None:
    block = pure.Function(lambda x: pure.tag(x, "b", kind="branch"))
    found = flow.deletion(block, {}, torch.ones(1, 1), loss=lambda y: -y.log().sum())
    assert found["b"] == torch.inf
    check_layout(found.plot())


def test_pictures() -> None:
    block, params, x = linear_stack(12)
    check_layout(flow.deletion(block, params, x, loss=square).plot())
    check_layout(flow.deletion(block, params, x, loss=square, suffixes=True).plot())
