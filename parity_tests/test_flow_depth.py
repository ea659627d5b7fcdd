"""`flow.depth_profile` measures each residual step exactly: what its gradients, norms and cosines are by hand."""

import json
import math
from itertools import pairwise
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
from pure.flow import plot
from pure.flow.activations.step_profile import spread_of
from pure.skips import DenseSkip

FLOAT64 = torch.float64


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def half_square(y: Tensor) -> Tensor:
    return y.square().sum() / 2


def square(y: Any) -> Tensor:
    parts = [leaf.square().sum() for leaf in tree.leaves(y) if leaf.is_floating_point()]
    return torch.stack(parts).sum()


def samples(found: flow.Spread | None) -> Tensor:
    assert found is not None
    return found.samples


def close(found: flow.Spread | None, expected: Tensor) -> None:
    torch.testing.assert_close(samples(found), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("repeated", [False, True])
def test_every_measure_of_a_residual_chain_by_derivatives_of_what_follows(repeated: bool) -> None:
    depth, chain = 4, nets.residual_mlp(5, 7, 4, scale=0.7)
    params, _ = chain.init(torch.Generator().manual_seed(0), FLOAT64)
    x = normal(1, 6, 5)
    layers = list(chain.children().values())

    def rest(start: int, h: Tensor) -> Tensor:
        for index in range(start, depth):
            h = layers[index](params[str(index)], h)
        return half_square(h)

    inputs = [x]
    for index in range(depth):
        inputs.append(layers[index](params[str(index)], inputs[-1]))
    gradients = [torch.func.grad(lambda h, i=i: rest(i, h))(h) for i, h in enumerate(inputs)]
    branches = [after - before for before, after in pairwise(inputs)]
    if repeated:
        block: pure.Block = pure.Repeat(nets.residual_mlp_block(5, 7, scale=0.7), depth)
        found = flow.depth_profile(block, pure.stack(list(params.values())), x, loss=half_square)
    else:
        found = flow.depth_profile(chain, params, x, loss=half_square)
    assert list(found) == [f"{index}.stream" for index in range(depth)]
    assert found.loss == pytest.approx(float(rest(0, x)), rel=1e-12)
    for index, step in enumerate(found.values()):
        g, after, f = gradients[index], gradients[index + 1], branches[index]
        close(step.preservation, g.norm(dim=1) / after.norm(dim=1))
        close(step.branch_ratio, f.norm(dim=1) / inputs[index].norm(dim=1))
        close(step.inference, F.cosine_similarity(f, -g))
        if index + 1 < depth:
            expected = F.cosine_similarity(f, branches[index + 1])
            close(step.consecutive, expected)
        else:
            assert step.consecutive is None


def test_a_step_down_the_loss_has_cosine_one_and_a_step_up_minus_one() -> None:
    """x − ½x under ‖y‖²/2: f = −½x and ∂loss/∂x = ¼x."""
    net = pure.Residual(pure.Linear(3, 3, bias=False))
    for factor in (-0.5, 0.25):
        params = {"branch": {"weight": factor * torch.eye(3, dtype=FLOAT64)}}
        step = flow.depth_profile(net, params, normal(0, 4, 3), loss=half_square)["stream"]
        torch.testing.assert_close(samples(step.inference), torch.full((4,), -math.copysign(1, factor), dtype=FLOAT64))
        torch.testing.assert_close(samples(step.branch_ratio), torch.full((4,), abs(factor), dtype=FLOAT64))
        torch.testing.assert_close(samples(step.preservation), torch.full((4,), 1 + factor, dtype=FLOAT64))


def test_the_scale_of_the_loss_changes_nothing_and_nothing_vanishes() -> None:
    chain = nets.residual_mlp(5, 7, 3)
    params, _ = chain.init(torch.Generator().manual_seed(0))
    x = normal(1, 6, 5).float()
    whole = flow.depth_profile(chain, params, x, loss=half_square)
    tiny = flow.depth_profile(chain, params, x, loss=lambda y: half_square(y) * 2**-100)
    for path, step in whole.items():
        torch.testing.assert_close(samples(tiny[path].preservation), samples(step.preservation))
        torch.testing.assert_close(samples(tiny[path].inference), samples(step.inference))


def test_what_goes_into_a_step_is_what_its_block_was_given() -> None:
    """Behind the first block stands a relu: the second block's input is not the first one's stream."""
    block = nets.tutorial_resnet((4, 4, 4), shortcut="identity")
    params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
    x = normal(1, 3, 4, 5, 5)
    found = flow.depth_profile(block, params, x, loss=half_square)
    _, seen = pure.capture(block)(params, x)
    given = torch.relu(seen["block1.stream"])
    ratio = seen["block2.branch"].flatten(1).norm(dim=1) / given.flatten(1).norm(dim=1)
    torch.testing.assert_close(samples(found["block2.stream"].branch_ratio), ratio)


def test_dense_layers_have_no_cosine() -> None:
    block = pure.Sequential(DenseSkip(pure.Linear(4, 2)), DenseSkip(pure.Linear(6, 2)))
    params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
    found = flow.depth_profile(block, params, normal(1, 3, 4), loss=half_square)
    for step in found.values():
        assert step.inference is None
        assert step.consecutive is None
        assert step.preservation is not None
        assert step.branch_ratio is not None
    assert "-" in found.table()


def test_a_plain_network_has_preservation_between_its_tags() -> None:
    layer = pure.Sequential(linear=pure.Linear(4, 4, bias=False), out=pure.Tag())
    block = pure.Sequential(*[layer] * 3)
    params, _ = block.init(torch.Generator().manual_seed(0), FLOAT64)
    found = flow.depth_profile(block, params, normal(1, 3, 4), loss=half_square)
    weights = [params[str(index)]["linear"]["weight"] for index in range(3)]
    _, seen = pure.capture(block)(params, normal(1, 3, 4))
    after = seen["2.out.stream"]
    for index in reversed(range(3)):
        before = after @ weights[index]
        step = found[f"{index}.out.stream"]
        torch.testing.assert_close(samples(step.preservation), before.norm(dim=1) / after.norm(dim=1))
        assert step.branch_ratio is None
        after = before


def test_a_branch_of_zero_has_no_direction() -> None:
    block = pure.skips.rezero(pure.Linear(3, 3))
    params, _ = block.init(torch.Generator().manual_seed(0))
    step = flow.depth_profile(block, params, torch.ones(4, 3), loss=half_square)["stream"]
    assert step.branch_ratio is not None
    assert step.branch_ratio.median == 0.0
    assert step.inference is not None
    assert math.isnan(step.inference.mean.value)
    assert samples(step.preservation).tolist() == [1.0] * 4
    json.dumps(step.to_dict(), allow_nan=False)


def test_a_resnet_and_a_network_of_tokens() -> None:
    block = nets.create("resnet18", num_classes=3)
    params, state = block.init(torch.Generator().manual_seed(0))
    x, y = normal(1, 4, 3, 16, 16).float(), torch.arange(4) % 3
    found = flow.depth_profile(block, params, x, state, loss=F.cross_entropy, targets=(y,), training=True)
    assert len(found) == 8
    assert found["layer1.0.stream"].inference is not None
    assert found["layer2.0.stream"].inference is None, "the branch changes the shape"
    gpt, params, state, tokens, extras = pure.catalogue.case("gpt2_tiny").example()
    streams = flow.depth_profile(gpt, params, tokens, state, extras, loss=half_square)
    assert all(step.preservation is not None for step in streams.values())


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_block_of_the_catalogue(row: Case) -> None:
    block, params, state, x, extras = row.example(dtype=FLOAT64)
    _, seen = pure.capture(block, "stream")(params, x, state, extras)
    if not seen:
        with pytest.raises(UnsupportedError, match="depth_profile of a function that tags no stream"):
            flow.depth_profile(block, params, x, state, extras, loss=square)
        return
    found = flow.depth_profile(block, params, x, state, extras, loss=square)
    assert list(found) == list(seen)
    gradients = flow.gradient_norms(lambda p, x: square(block(p, x, state, extras)), params, x, kinds="stream")
    previous = None
    for path, step in found.items():
        for spread_ in (step.inference, step.consecutive):
            known = [] if spread_ is None else spread_.samples[spread_.samples.isfinite()].tolist()
            assert all(abs(value) <= 1 + 1e-12 for value in known)
        if row.name in ("repeat", "residual_mlp") and previous is not None:
            ratio = gradients.activations[previous].sample_l2 / gradients.activations[path].sample_l2
            torch.testing.assert_close(samples(step.preservation), ratio, rtol=1e-12, atol=0)
        previous = path
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.table().count("\n") == len(found) + 1


def test_the_interval_over_samples_covers_the_mean() -> None:
    chain = nets.residual_mlp(6, 8, 3)
    params, _ = chain.init(torch.Generator().manual_seed(0), FLOAT64)
    batch, trials = 20, 1500
    found = flow.depth_profile(chain, params, normal(1, batch * trials, 6), loss=half_square)
    for step in found.values():
        for measure in (step.preservation, step.inference):
            every = samples(measure)
            truth = float(every.mean())
            covered = sum(truth in spread_of(part).mean for part in every.reshape(trials, batch))
            assert 0.93 < covered / trials < 0.97, step.path


@pytest.mark.parametrize(
    ("fn", "loss", "error", "message"),
    [
        (lambda x: x, square, UnsupportedError, r"depth_profile of a function that tags no stream"),
        (lambda x: pure.tag(x, "s"), torch.square, ShapeError, "expected the batch's scalar loss"),
        (lambda x: pure.tag(x, "s"), lambda y: y.sum() * torch.nan, UnsupportedError, "loss is nan"),
        (lambda x: pure.tag(x + torch.rand(2), "s"), square, UnsupportedError, "draws random numbers"),
        (lambda x: pure.tag(x.add_(1), "s"), square, UnsupportedError, "works in place"),
    ],
    ids=["no stream", "vector", "NaN", "random", "in place"],
)
def test_errors(fn: Any, loss: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        flow.depth_profile(pure.Function(fn), {}, torch.ones(1, 2), loss=loss)


def test_nan_given() -> None:
    with pytest.raises(ArgumentError, match="targets '0' holds NaN"):
        flow.depth_profile(pure.Tag(), {}, torch.ones(1, 2), loss=F.mse_loss, targets=(torch.full((1, 2), torch.nan),))


def test_pictures() -> None:
    chain = nets.residual_mlp(6, 8, 14)
    params, _ = chain.init(torch.Generator().manual_seed(0), FLOAT64)
    found = flow.depth_profile(chain, params, normal(1, 8, 6), loss=half_square)
    check_layout(plot.depth_measures({"one": found, "two": found}))
    dense = pure.Sequential(DenseSkip(pure.Linear(4, 2)), DenseSkip(pure.Linear(6, 2)))
    own, _ = dense.init(torch.Generator().manual_seed(0), FLOAT64)
    check_layout(flow.depth_profile(dense, own, normal(1, 3, 4), loss=half_square).plot())
    counts = pure.Function(lambda x: pure.tag(x.float(), "stream"))
    without = flow.depth_profile(counts, {}, torch.ones(1, 2, dtype=torch.int64), loss=torch.sum)
    with pytest.raises(ArgumentError, match="nothing to draw"):
        without.plot()
