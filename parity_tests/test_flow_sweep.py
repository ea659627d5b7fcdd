"""The block-wise sweep is the whole backward pass, holds few tensors, and has room for 1e±3000.

Claims: a chain walks every block once, in order, whatever it is nested in; gradients by depth are those of
`flow.gradient_norms` to rounding; products far outside a float's range come out right; memory is what is promised.
"""

from __future__ import annotations

import math

import pytest
import torch

from pure import Function, Initialize, Linear, Repeat, Residual, Sequential, flow, nets, tree
from pure.errors import ArgumentError, TreeError
from pure.flow.auditing.block_chain import Chain
from pure.flow.auditing.chain_sweep import Inputs, Pullback, floating, run_link
from pure.flow.shared.log_scale import Scaled
from pure.initializers import Constant
from pure.nets.small.tutorial import residual_mlp_block
from pure.skips import Highway

DTYPE = torch.float64


def draw(block, dtype=DTYPE, seed=0):
    return block.init(torch.Generator().manual_seed(seed), dtype)


def batch(*shape, dtype=DTYPE):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def squared(y):
    return y.square().mean()


NETS = {
    "residual": nets.residual_mlp(6, 9, depth=5),
    "repeat": Repeat(residual_mlp_block(6, 9), 5),
    "plain": nets.plain_mlp(6, 8, 3, depth=6),
    "highway": nets.highway_mlp(6, 8, 3, depth=5),
    "dense": nets.dense_mlp(6, 8, 3, depth=4, growth=3),
    "nested repeat": Sequential(stem=Linear(6, 6), layers=Repeat(nets.residual_mlp(6, 4, depth=2), 3)),
    "initialised": Initialize(nets.residual_mlp(6, 4, depth=3), {"*.bias": Constant(0.1)}),
    "one child": Sequential(Residual(Linear(6, 6))),
}


@pytest.mark.parametrize("name", NETS)
def test_a_chain_runs_every_block_in_order(name):
    net = NETS[name]
    params, state = draw(net)
    chain, x = Chain(net, params, state), batch(4, 6)
    y = x
    for link in chain:
        y = run_link(link, y, {})
    assert torch.equal(y, net(params, x))
    assert len({link.name for link in chain}) == len(chain)


@pytest.mark.parametrize("name", NETS)
def test_gradients_by_depth_are_those_of_the_whole_pass(name):
    net = NETS[name]
    params, _ = draw(net)
    x = batch(4, 6)
    found = flow.audit(net, params, x, loss=squared)
    whole = flow.gradient_norms(lambda p, x: squared(net(p, x)), params, x)
    assert math.isclose(found.loss, whole.loss, rel_tol=1e-12)
    compared = 0
    for path, expected in whole.activations.items():
        block = found.blocks.get(path.removesuffix(".stream").removesuffix(".out"))
        if expected.kind != "stream" or block is None:
            continue
        compared += 1
        for ours, theirs in (
            (block.log10_gradient, expected.l2),
            (block.log10_gradient_p10, expected.p10),
            (block.log10_gradient_median, expected.median),
            (block.log10_gradient_p90, expected.p90),
        ):
            assert math.isclose(10**ours, theirs, rel_tol=1e-12)
    assert compared == sum(a.kind == "stream" for a in whole.activations.values())
    for block_name, block in found.blocks.items():
        if block_name in whole.blocks:
            assert math.isclose(10**block.log10_parameter_gradient, whole.blocks[block_name].l2, rel_tol=1e-12)


def test_the_input_gradient_is_that_of_the_whole_pass():
    net = NETS["residual"]
    params, _ = draw(net)
    x = batch(4, 6)
    expected = torch.func.grad(lambda x: squared(net(params, x)))(x).norm()
    assert math.isclose(10 ** flow.audit(net, params, x, loss=squared).log10_input_gradient, expected, rel_tol=1e-12)


def test_repeat_and_sequential_give_the_same_numbers():
    one, many = nets.residual_mlp(6, 9, depth=7), Repeat(residual_mlp_block(6, 9), 7)
    params, _ = draw(one)
    stacked = tree.stack([params[str(depth)] for depth in range(7)])
    x = batch(4, 6)
    a, b = flow.audit(one, params, x, loss=squared), flow.audit(many, stacked, x, loss=squared)
    assert a.to_dict() == b.to_dict()


class TestScale:
    """A diagonal linear chain x ← d·x, whose product is known without a float that could hold it."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("factor", [2.0**-10, 2.0**10], ids=["vanishing", "exploding"])
    def test_gradients_far_outside_the_range_of_a_float(self, factor, dtype):
        depth = 1000  # 2^±10,000 = 1e±3010
        block = Function(lambda params, x: params["keep"] * x.detach() + params["pass"] * (x - x.detach()))
        net = Repeat(block, depth)  # the forward stays where it is, the gradient is multiplied
        params = {"keep": torch.ones(depth, 3, dtype=dtype), "pass": torch.full((depth, 3), factor, dtype=dtype)}
        found = flow.audit(net, params, torch.ones(2, 3, dtype=dtype), loss=torch.sum, deletions=0, stations=1)
        expected = math.log10(math.sqrt(6)) + depth * math.log10(factor)
        assert abs(found.log10_input_gradient - expected) < 1e-9
        middle = found[f"{depth // 2}"]
        assert abs(middle.log10_gradient - math.log10(math.sqrt(6)) - (depth // 2 - 1) * math.log10(factor)) < 1e-9

    def test_unequal_factors_against_the_sum_of_their_logarithms(self):
        depth, width = 600, 4
        logs = torch.rand(depth, width, generator=torch.Generator().manual_seed(3), dtype=DTYPE) * 12 - 13
        block = Function(lambda params, x: x.detach() + params["d"] * (x - x.detach()))
        params = {"d": 10**logs}
        x = torch.ones(1, width, dtype=DTYPE)
        found = flow.audit(Repeat(block, depth), params, x, loss=torch.sum, deletions=0, stations=0)
        sums = logs.sum(0)
        top = float(sums.max())
        expected = top + math.log10(float((10 ** (2 * (sums - top))).sum())) / 2
        assert expected < -3000
        assert abs(found.log10_input_gradient - expected) < 1e-9

    def test_scaling_rounds_nothing(self):
        parts = [torch.tensor([3e-30, -7e-31], dtype=DTYPE)]
        scaled = Scaled(parts, 5).rescaled()
        back = scaled.parts[0].double() * 2.0 ** (scaled.exponent - 5)
        assert torch.equal(back, parts[0])

    def test_the_paths_of_a_diagonal_chain(self):
        """x + d ⊙ x, L times: the part through k branches is C(L, k) d^k."""
        depth, d = 400, 0.3
        net = Repeat(Residual(Function(lambda params, x: params["d"] * x, lambda *_: {"d": torch.ones(1)})), depth)
        params = {"branch": {"d": torch.full((depth, 1), d, dtype=DTYPE)}}
        found = flow.audit(net, params, torch.full((1, 1), 1e-60, dtype=DTYPE), loss=torch.sum, orders=5)
        for k, measured in enumerate(found.paths.log10_norms):
            assert abs(measured - math.log10(math.comb(depth, k)) - k * math.log10(d)) < 1e-9
        assert found.paths.blocks == depth


@pytest.mark.parametrize("depth", [4, 10, 37, 100])
def test_inputs_beyond_the_budget_are_kept_every_root_depth(depth):
    net = Repeat(residual_mlp_block(4, 4), depth)
    params, _ = draw(net)
    chain, x = Chain(net, params), batch(2, 4)
    inputs, streams = Inputs(chain, {}, budget_bytes=0), [x]
    for index, link in enumerate(chain):
        inputs.keep(index, streams[-1])
        streams.append(run_link(link, streams[-1], {}))
    for index in reversed(range(depth)):
        assert torch.equal(inputs.take(index), streams[index])
    assert inputs.most <= 2 * math.ceil(math.sqrt(depth)) + 2


def test_a_small_budget_changes_no_number():
    net = NETS["residual"]
    params, _ = draw(net)
    x = batch(4, 6)
    large, small = (flow.audit(net, params, x, loss=squared, budget_mib=mib) for mib in (512, 0))
    assert small.held <= large.held
    assert {**small.to_dict(), "held": 0} == {**large.to_dict(), "held": 0}


def saved_at_once(depth):
    """Return the largest number of tensors saved for a backward and alive at one time."""
    net = Repeat(residual_mlp_block(4, 4), depth)
    params, _ = draw(net)
    alive, most = set(), 0

    class Saved:
        def __init__(self, tensor):
            nonlocal most
            self.tensor = tensor.detach()  # the tensor itself would hold its own graph alive
            alive.add(id(self))
            most = max(most, len(alive))

        def __del__(self):
            alive.discard(id(self))

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        flow.audit(net, params, batch(2, 4), loss=squared)
    return most


def test_what_autograd_saves_does_not_grow_with_the_depth():
    """Counts tensors, not seconds and not bytes: those of two blocks, one going and one coming."""
    assert 0 < saved_at_once(16) == saved_at_once(64)


def test_a_pullback_splits_the_cotangent_at_the_branch():
    block = residual_mlp_block(5, 7, scale=0.5)
    params, _ = draw(block)
    x, c = batch(3, 5), batch(3, 5).flip(0)
    pull = Pullback(Chain(block, params)[0], x, {}, "branch")
    past, through = pull.split([c])
    branch = torch.func.vjp(lambda x: 0.5 * block.branch(params["branch"], x), x)[1](c)[0]
    assert torch.equal(past[0], c)
    assert torch.allclose(through[0], branch, rtol=1e-12)
    assert torch.allclose(pull.through(Scaled([c])).parts[0], c + branch, rtol=1e-12)


def test_floating_takes_the_tensors_that_gradients_reach():
    assert [len(part) for part in floating({"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.int64)})] == [3]


def test_a_layer_with_a_norm_behind_its_sum_is_one_link():
    from pure import LayerNorm
    from pure.skips import post_norm

    net = Sequential(*[post_norm(Linear(4, 4), LayerNorm(4))] * 3, Highway.dense(4))
    params, state = draw(net)
    assert [link.name for link in Chain(net, params, state)] == ["0", "1", "2", "3"]


def test_parameters_that_are_not_stacked_as_deep_are_refused():
    net = Repeat(Residual(Linear(2, 2)), 3)
    params, _ = draw(Repeat(Residual(Linear(2, 2)), 4))
    with pytest.raises(TreeError, match="expected 3"):
        Chain(net, params)


def test_what_is_no_block_is_refused():
    with pytest.raises(ArgumentError, match=r"expected a pure\.Block"):
        Chain(torch.nn.Linear(2, 2), {})
