"""Blocks that decide what to compute: their modes agree, the branch form saves the work, the numbers are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import GraphProto
from torch import Tensor
from torch.func import grad, vmap

import export
import pure
from parity_tests.oracles.dynamic import Thinker
from pure import Function, Linear, Residual, Sequential, tree
from pure.catalogue.parts import conv, mlp
from pure.errors import ArgumentError, NoiseError, PureError, RankError, ShapeError, TreeError
from pure.initializers import Constant, Normal
from pure.layers import BatchNorm
from pure.skips.dynamic.branching import Branching
from pure.skips.dynamic.early_exits import EarlyExit
from pure.skips.dynamic.external_control import Dynamic
from pure.skips.dynamic.halting import ACT, PonderNet, halting_unit
from pure.skips.dynamic.mixture_of_depths import MixtureOfDepths
from pure.skips.dynamic.mixture_of_experts import MixtureOfExperts
from pure.skips.dynamic.routing import AdaptiveResidual, HardGate, SkipLayer, gate_head
from pure.skips.dynamic.slimmable import SlimConv2d, SlimLinear, Slimmable, SwitchableBatchNorm

FREE = Normal(std=2.0)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(block: Any, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Any, Any]:
    return block.init(torch.Generator().manual_seed(seed), dtype)


def gate(features: int = 6, gumbel: bool = True) -> Sequential:
    return gate_head(features, 8, open_rate=0.5, pool=False, gumbel=gumbel, weight_init=FREE)


def seen(block: Any, *args: Any) -> dict[str, Tensor]:
    return pure.capture(block)(*args)[1]


ADAPTIVE = AdaptiveResidual(mlp(), gate())
SKIP = SkipLayer(Residual(mlp()), gate(gumbel=False))
THINK = ACT(Residual(mlp()), halting_unit(6, bias=-1.0), steps=4)
PONDER = PonderNet(Residual(mlp()), Linear(6, 1), steps=4, epsilon=0.3)
EXITS = EarlyExit((Residual(mlp()),) * 3, tuple(Linear(6, 3, weight_init=FREE) for _ in range(3)), 0.9)
EXPERTS = MixtureOfExperts.swiglu(6, 4, experts=4, top_k=2)
BRANCHING = {"aig": ADAPTIVE, "skipnet": SKIP, "act": THINK, "ponder_net": PONDER, "exits": EXITS, "moe": EXPERTS}
each = pytest.mark.parametrize("block", BRANCHING.values(), ids=list(BRANCHING))


def branched(block: Branching) -> Branching:
    return dataclasses.replace(block, mode="branch")


def conditions(graph: GraphProto, depth: int = 1) -> Iterator[int]:
    """The nesting depth of every If."""
    for node in graph.node:
        if node.op_type == "If":
            yield depth
            for attribute in node.attribute:
                yield from conditions(attribute.g, depth + 1)


@each
@pytest.mark.parametrize("batch", [1, 5])
def test_branch_mode_equals_select_mode(block: Branching, batch: int) -> None:
    params, state = made(block)
    for seed in range(3):
        x = drawn(batch, 6, seed=seed)
        assert torch.equal(branched(block)(params, x, state), block(params, x, state))
    assert branched(block).out_shape((batch, 6)) == block.out_shape((batch, 6))


@each
@pytest.mark.parametrize("mode", ["select", "branch"])
def test_the_file_of_the_branch_form_holds_an_if_and_passes(block: Branching, mode: str, tmp_path: Path) -> None:
    block = dataclasses.replace(block, mode=mode)
    params, state = made(block, torch.float32)
    x = drawn(4, 6, seed=3, dtype=torch.float32)
    path = tmp_path / "block.onnx"
    export.to_onnx(block, (params, x, state, {}), path, dynamic=(None, {0: "batch"}, None, None))
    verdict = export.verify(block, (params, x, state, {}), path, dynamic=(None, {0: "batch"}, None, None))
    assert verdict.passed, verdict.table()
    depths = sorted(conditions(onnx.load(path).graph))
    flat = {ADAPTIVE: 1, SKIP: 1, THINK: 3, PONDER: 3, EXPERTS: 4}
    expected = [1, 2] if isinstance(block, EarlyExit) else [1] * flat[dataclasses.replace(block, mode="select")]
    assert depths == (expected if mode == "branch" else [])
    f = export.load(path)
    for seed in range(3):
        one = drawn(1, 6, seed=seed, dtype=torch.float32)
        torch.testing.assert_close(f(params, one, state, {}), block(params, one, state))


@each
def test_branch_mode_is_for_evaluation(block: Branching) -> None:
    params, state = made(block)
    assert branched(block).noise((2, 6), torch.Generator()) == {}
    with pytest.raises(ArgumentError, match="mode='select'"):
        branched(block).apply(params, drawn(2, 6), state, {}, True, None)
    with pytest.raises(ArgumentError, match="select, branch"):
        dataclasses.replace(block, mode="static")


def poison(x: Tensor) -> Tensor:
    return x.square().neg().log()


def closed(gumbel: bool = True) -> Sequential:
    return gate_head(6, 8, open_rate=1e-3, pool=False, gumbel=gumbel)


def test_branch_mode_leaves_out_what_nobody_needs() -> None:
    x = drawn(3, 6)
    nan = Function(lambda params, x: poison(x))
    sure = Linear(6, 3, weight_init=Constant(0.0), bias_init=Constant(0.0))
    never = {
        AdaptiveResidual(nan, closed()): x,
        SkipLayer(nan, closed(False)): x,
        EarlyExit((Function(lambda params, x: x), nan), (sure, sure), 0.1): torch.zeros(3, 3, dtype=torch.float64),
    }
    for block, expected in never.items():
        params, state = made(block)
        assert torch.equal(branched(block)(params, x, state), expected)
    params, state = made(SkipLayer(nan, closed(False)))
    assert SkipLayer(nan, closed(False))(params, x, state).isnan().all(), "select mode computes it"


def test_branch_mode_takes_blocks_that_differ_in_a_number() -> None:
    x = drawn(3, 6)
    for scale in (0.25, 0.5, 0.75):
        block = SkipLayer(Residual(mlp(), scale=scale), gate(gumbel=False))
        params, state = made(block)
        assert torch.equal(branched(block)(params, x, state), block(params, x, state))


def test_branch_mode_compiles_whole() -> None:
    params, state = made(EXITS)
    x = drawn(3, 6)
    torch._dynamo.reset()
    compiled = torch.compile(branched(EXITS), fullgraph=True, backend="eager")
    assert torch.equal(compiled(params, x, state), EXITS(params, x, state))


def test_branch_mode_reads_batch_statistics() -> None:
    block = AdaptiveResidual(conv(4, 4), gate_head(4, 8, open_rate=0.4, weight_init=FREE, norm=True))
    params, state = made(block)
    state = tree.tree_map(lambda leaf: leaf + 1, state)
    x = 3 * drawn(6, 4, 1, 1) + drawn(6, 4, 5, 5, seed=1)
    opened = seen(block, params, x, state)["gate"]
    assert 0 < opened.sum() < 6
    y, same = branched(block).apply(params, x, state, {})
    assert torch.equal(y, block(params, x, state))
    assert same is state


@pytest.mark.parametrize("control", [0.9, 0.1])
def test_dynamic_branch_mode_with_one_control_a_sample(control: float, tmp_path: Path) -> None:
    params, state = made(Dynamic(mlp()), torch.float32)
    x = drawn(4, 6, dtype=torch.float32)
    extras = {"control": torch.tensor([control, 0.2, 0.3, 0.1])}
    branch = Dynamic(mlp(), mode="branch")
    expected = torch.stack([mlp()(params["branch"], x)[0] if control > 0.5 else x[0], *x[1:]])
    for block in (Dynamic(mlp()), branch):
        torch.testing.assert_close(block(params, x, state, extras), expected)
    path = tmp_path / "dynamic.onnx"
    dynamic = (None, {0: "batch"}, None, {"control": {0: "batch"}})
    export.to_onnx(branch, (params, x, state, extras), path, dynamic=dynamic)
    verdict = export.verify(branch, (params, x, state, extras), path, dynamic=dynamic)
    assert verdict.passed, verdict.table()
    assert list(conditions(onnx.load(path).graph)) == [1]


def test_aig_opens_85_percent_of_the_branches_at_first() -> None:
    block = AdaptiveResidual(mlp(), gate_head(6, pool=False))
    params, state = made(block)
    x = drawn(20_000, 6)
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(1), dtype=torch.float64)
    opened = seen(block.apply, params, x, state, {}, True, noise)["gate"]
    assert set(opened.tolist()) == {0.0, 1.0}
    assert float(opened.mean()) == pytest.approx(0.85, abs=0.01)
    assert bool((seen(block, params, x, state)["gate"] == 1).all())


def test_the_gates_gradient_is_that_of_the_softmax() -> None:
    logits = drawn(7, 2)
    block = HardGate(temperature=0.5)
    noise = block.noise((7, 2), torch.Generator().manual_seed(1), dtype=torch.float64)

    def hard(a: Tensor, g: Tensor) -> Tensor:
        return block.apply({}, a[None], {}, {}, True, {"gumbel": g[None]})[0].sum()

    def soft(a: Tensor, g: Tensor) -> Tensor:
        return torch.softmax((a + g) / 0.5, 0)[1]

    assert set(vmap(hard)(logits, noise["gumbel"]).tolist()) <= {0.0, 1.0}
    ours, theirs = (vmap(grad(f))(logits, noise["gumbel"]) for f in (hard, soft))
    assert float((ours - theirs).abs().max()) < 1e-14
    evaluated = grad(lambda a: block({}, a).sum())(logits)
    assert not evaluated.any(), "the hard decision has no gradient"


def test_gumbel_noise_has_its_mean_and_variance() -> None:
    noise = HardGate().noise((50_000, 2), torch.Generator().manual_seed(0))["gumbel"]
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(torch.pi**2 / 6, rel=0.03)


@pytest.mark.parametrize("name", ["aig", "skipnet"])
def test_gates_train_by_samples_as_by_the_batch(name: str) -> None:
    block = BRANCHING[name]
    params, state = made(block)
    x = drawn(5, 6)
    noise = block.noise((5, 6), torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(params: Any, x: Tensor, noise: Any) -> Tensor:
        return block.apply(params, x, state, {}, True, noise)[0].square().sum()

    def alone(params: Any, sample: Tensor, noise: Any) -> Tensor:
        return loss(params, sample[None], tree.tree_map(lambda leaf: leaf[None], noise))

    whole = tree.flatten(grad(loss)(params, x, noise))
    summed = vmap(grad(alone), (None, 0, 0 if noise else None))(params, x, noise)
    for key, leaf in tree.flatten(summed).items():
        torch.testing.assert_close(leaf.sum(0), whole[key], rtol=1e-10, atol=1e-10)
    assert whole["gate.fc1.weight"].any(), "the gate learns in training"


def thinker(block: Any, params: Any) -> Thinker:
    module = Thinker(6, 8, 4, isinstance(block, PonderNet), block.epsilon).double()
    leaves = [*tree.flatten(params["step"]).values(), *tree.flatten(params["halt"]).values()]
    for leaf, value in zip(module.parameters(), leaves, strict=True):
        leaf.data = value
    return module


@pytest.mark.parametrize("block", [THINK, dataclasses.replace(PONDER, epsilon=0.0)], ids=["act", "ponder_net"])
def test_halting_weights_sum_to_1_and_the_cost_is_the_papers(block: Any) -> None:
    params, state = made(block)
    x = drawn(9, 6)
    tags = seen(block, params, x, state)
    torch.testing.assert_close(tags["weights"].sum(1), torch.ones(9, dtype=torch.float64), rtol=0, atol=1e-14)
    module = thinker(block, params)
    torch.testing.assert_close(tags["ponder"], torch.stack([module.cost(row) for row in x]), rtol=1e-12, atol=1e-12)
    assert (tags["weights"][..., None] * tags["states"]).sum(1).sub(block(params, x, state)).abs().max() < 1e-14

    def cost(params: Any) -> Tensor:
        return pure.capture(block, "loss")(params, x, state)[1]["ponder"].sum()

    ours = tree.leaves(grad(cost)(params))
    module.zero_grad()
    sum(module.cost(row) for row in x).backward()
    for a, leaf in zip(ours, module.parameters(), strict=True):
        torch.testing.assert_close(a, leaf.grad, rtol=1e-10, atol=1e-12)


def test_act_takes_as_many_steps_as_a_sample_needs() -> None:
    params, state = made(THINK)
    tags = seen(THINK, params, 3 * drawn(40, 6), state)
    used = (tags["weights"] > 0).sum(1)
    assert len(set(used.tolist())) > 1
    last = tags["weights"].gather(1, used[:, None] - 1)[:, 0]
    torch.testing.assert_close(tags["ponder"], used + last)
    assert all(float(weights[: n - 1].sum()) < 0.99 for weights, n in zip(tags["weights"], used.tolist(), strict=True))


def test_a_ponder_net_at_its_prior_costs_nothing() -> None:
    logit = float(torch.logit(torch.tensor(0.3, dtype=torch.float64)))
    at_prior = Linear(6, 1, weight_init=Constant(0.0), bias_init=Constant(logit))
    block = PonderNet(mlp(), at_prior, steps=5, prior=0.3)
    params, state = made(block)
    tags = seen(block, params, drawn(2, 6), state)
    expected = torch.tensor([0.3 * 0.7**n for n in range(4)] + [0.7**4], dtype=torch.float64)
    torch.testing.assert_close(tags["weights"][0], expected)
    assert float(tags["ponder"].abs().max()) < 1e-15


def test_exits_of_threshold_0_and_above_1_are_the_first_and_the_last() -> None:
    params, state = made(EXITS)
    x = drawn(20, 6)
    every, _ = EXITS.apply(params, x, state, {}, True, None)
    assert every.shape == (20, 3, 3)
    for threshold, exit in ((0.0, 0), (1.5, -1)):
        for mode in ("select", "branch"):
            block = dataclasses.replace(EXITS, threshold=threshold, mode=mode)
            assert torch.equal(block(params, x, state), every[:, exit])
    taken = seen(EXITS, params, x, state)["gate"]
    assert torch.equal(taken.sum(1), torch.ones(20, dtype=torch.float64))
    assert bool((taken.sum(0) > 0).all()), "each exit is taken by some sample"
    assert torch.equal((taken[..., None] * every).sum(1), EXITS(params, x, state))


def test_mixture_of_all_experts_is_the_dense_mixture() -> None:
    block = MixtureOfExperts(Linear(6, 3), (mlp(), mlp(), mlp()), top_k=3)
    params, state = made(block)
    x = drawn(4, 5, 6)
    weights = torch.softmax(Linear(6, 3)(params["router"], x), -1)
    dense = sum(weights[..., e : e + 1] * mlp()(params[f"expert{e}"], x) for e in range(3))
    torch.testing.assert_close(block(params, x, state), dense, rtol=1e-12, atol=1e-12)


def test_the_balance_of_experts_is_the_librarys() -> None:
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    params, state = made(EXPERTS, torch.float32)
    x = drawn(7, 5, 6, dtype=torch.float32)
    logits = (x @ params["router"]["weight"].T).reshape(-1, 4)
    balance = seen(EXPERTS, params, x, state)["balance"]
    torch.testing.assert_close(balance, mixtral.load_balancing_loss_func((logits,), 4, 2))
    tags = seen(EXPERTS, params, x, state)
    assert bool(((tags["gate"] > 0).sum(-1) == 2).all())
    torch.testing.assert_close(tags["gate"].sum(-1), torch.ones(7, 5))


def test_mixture_of_depths_at_full_capacity_is_a_gated_residual() -> None:
    router = Linear(6, 1, bias=False)
    full, two = (MixtureOfDepths(mlp(), router, k) for k in (5, 2))
    params, state = made(full)
    x = drawn(3, 5, 6)
    expected = x + router(params["router"], x) * mlp()(params["branch"], x)
    torch.testing.assert_close(full(params, x, state), expected, rtol=1e-12, atol=1e-12)
    y, gates = two(params, x, state), seen(two, params, x, state)["gate"][..., None]
    assert torch.equal(gates.sum(1), torch.full((3, 1), 2.0, dtype=torch.float64))
    torch.testing.assert_close(y, gates * expected + (1 - gates) * x, rtol=1e-12, atol=1e-12)


def test_the_tokens_of_a_mixture_of_depths_keep_their_order() -> None:
    def running(params: Any, x: Tensor) -> Tensor:
        return x.cumsum(1)

    block = MixtureOfDepths(Function(running), Linear(1, 1, bias=False, weight_init=Constant(1.0)), 2)
    params, state = made(block)
    x = torch.tensor([[[1.0], [3.0], [2.0]]], dtype=torch.float64)
    expected = torch.tensor([[[1.0], [3 + 3 * 3.0], [2 + 2 * 5.0]]], dtype=torch.float64)
    assert torch.equal(block(params, x, state), expected)


def slim(active: int, widths: tuple[int, ...] = (3, 8)) -> Sequential:
    return Sequential(
        conv=SlimConv2d(4, 8, 3, active_out=widths[active]),
        norm=SwitchableBatchNorm(widths, active),
        pool=pure.GlobalAvgPool(),
        fc=SlimLinear(8, 2, active_in=widths[active]),
    )


def test_a_slim_network_is_the_plain_one_on_a_slice() -> None:
    block = Slimmable((slim(0), slim(1)), active=0)
    params, state = made(block)
    state = tree.tree_map(lambda leaf: leaf + 1, state)
    x = drawn(3, 4, 5, 5)
    plain = Sequential(conv=pure.Conv2d(4, 3, 3), norm=BatchNorm(3), pool=pure.GlobalAvgPool(), fc=Linear(3, 2))
    cut = {
        "conv": tree.tree_map(lambda leaf: leaf[:3], params["conv"]),
        "norm": params["norm"]["0"],
        "fc": {"weight": params["fc"]["weight"][:, :3], "bias": params["fc"]["bias"]},
    }
    assert torch.equal(block(params, x, state), plain(cut, x, {"norm": state["norm"]["0"]}))
    by = tree.flatten(grad(lambda p: block(p, x, state).square().sum())(params))
    assert not by["conv.weight"][3:].any()
    assert not by["fc.weight"][:, 3:].any()
    assert by["conv.weight"][:3].any()
    every, new_state = block.apply(params, x, state, {}, True, None)
    for index in range(2):
        alone, its_state = slim(index).apply(params, x, state, {}, True, None)
        assert torch.equal(every[:, index], alone)
        ours, theirs = new_state["norm"][str(index)], its_state["norm"][str(index)]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


REFUSED: list[tuple[Callable[[], Any], type[PureError], str]] = [
    (lambda: gate_head(4, open_rate=1.0), ArgumentError, "open_rate=1.0"),
    (lambda: HardGate(temperature=0.0), ArgumentError, "temperature"),
    (lambda: HardGate()({}, torch.ones(2, 3)), ShapeError, "two logits"),
    (partial(HardGate().apply, {}, torch.ones(2, 2), {}, {}, True), NoiseError, r"block\.noise"),
    (lambda: HardGate().apply({}, torch.ones(2, 2), {}, {}, True, {"gumbel": torch.ones(1, 2)}), NoiseError, "1, 2"),
    (lambda: run(AdaptiveResidual(Linear(6, 5), gate())), ShapeError, r"\(2, 5\)"),
    (lambda: run(AdaptiveResidual(Linear(6, 6), Linear(6, 1))), ShapeError, "one value a sample"),
    (lambda: run(SkipLayer(Linear(6, 5), gate())), ShapeError, "keeps the shape"),
    (lambda: AdaptiveResidual(Linear(6, 6), None), ArgumentError, "expected a Block"),  # type: ignore[arg-type]
    (lambda: ACT(mlp(), Linear(6, 1), steps=0), ArgumentError, "at least one step"),
    (lambda: ACT(conv(4, 4), Linear(4, 1)), ArgumentError, "LayerNorm"),
    (lambda: run(ACT(Linear(6, 5), Linear(5, 1))), ShapeError, "keeps the shape"),
    (lambda: run(ACT(mlp(), Linear(6, 2))), ShapeError, "one logit"),
    (lambda: PonderNet(mlp(), Linear(6, 1), prior=1.0), ArgumentError, "prior=1.0"),
    (lambda: EarlyExit((mlp(),), (Linear(6, 3), Linear(6, 3))), ArgumentError, "a head"),
    (lambda: EarlyExit((mlp(),), (None,)), ArgumentError, "head0=None"),  # type: ignore[arg-type]
    (lambda: run(EarlyExit((mlp(), mlp()), (Linear(6, 3), Linear(6, 2)))), ShapeError, "one shape"),
    (lambda: MixtureOfExperts(Linear(6, 2), (mlp(), mlp()), 3), ArgumentError, "top_k=3 of 2"),
    (lambda: run(MixtureOfExperts(Linear(6, 3), (mlp(), mlp()), 1)), ShapeError, "2 logits"),
    (lambda: run(MixtureOfExperts(Linear(6, 1), (Linear(6, 5),), 1)), ShapeError, "keep the shape"),
    (lambda: MixtureOfDepths(mlp(), Linear(6, 1), 0), ArgumentError, "capacity=0"),
    (lambda: run(MixtureOfDepths(mlp(), Linear(6, 1), 2)), RankError, "batch, tokens, features"),
    (lambda: run(MixtureOfDepths(mlp(), Linear(6, 1), 7), (2, 5, 6)), ShapeError, "5 tokens for a capacity of 7"),
    (lambda: run(MixtureOfDepths(mlp(), Linear(6, 2), 2), (2, 5, 6)), ShapeError, "one weight a token"),
    (lambda: SlimLinear(4, 6, active_in=5), ArgumentError, "active_in=5"),
    (lambda: SlimConv2d(4, 4, 3, groups=2), ArgumentError, "groups=2"),
    (lambda: SwitchableBatchNorm((2, 4), 2), ArgumentError, "active=2 of 2"),
    (lambda: Slimmable((Linear(3, 4), Linear(3, 5))), ArgumentError, "differ"),
    (lambda: SlimLinear(4, 6, active_in=2)({"weight": torch.ones(6, 2)}, torch.ones(1, 2)), TreeError, "weight"),
]
"""What is refused, with which error, and what its message says."""


def run(block: Any, shape: tuple[int, ...] = (2, 6)) -> Tensor:
    params, state = made(block)
    return block(params, drawn(*shape), state)


@pytest.mark.parametrize(("attempt", "error", "message"), REFUSED)
def test_what_cannot_be_is_refused_with_the_way_out(
    attempt: Callable[[], Any], error: type[PureError], message: str
) -> None:
    with pytest.raises(error, match=message):
        attempt()
