"""`flow.audit`: each part is what its own definition gives on small networks, and what cannot be audited is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
import torch

from pure import Block, Function, LayerNorm, Linear, Repeat, Residual, Sequential, flow, nets, tag, tree
from pure.errors import ArgumentError, SaveError, ShapeError, UnsupportedError
from pure.flow.activations.channel_moments import log_moments
from pure.initializers import Normal
from pure.layers import Embedding
from pure.skips import Highway, pre_norm

DTYPE = torch.float64
DEPTH, WIDTH, BATCH = 6, 5, 4


def drawn(net, seed=0, dtype=DTYPE):
    return net.init(torch.Generator().manual_seed(seed), dtype)


def batch(*shape, dtype=DTYPE):
    return torch.randn(*(shape or (BATCH, WIDTH)), generator=torch.Generator().manual_seed(1), dtype=dtype)


def squared(y):
    return y.square().mean()


NET = nets.residual_mlp(WIDTH, 7, DEPTH, scale=0.7)


@pytest.fixture(scope="module")
def params():
    return drawn(NET)[0]


@pytest.fixture(scope="module")
def found(params):
    return flow.audit(NET, params, batch(), loss=squared, orders=DEPTH, deletions=DEPTH, stations=3)


def test_paths_add_up_to_the_gradient(found, params):
    """All lengths are asked for, and each is the sum over the subsets of branches of that size."""
    x = batch()
    jacobians = []
    for depth in range(DEPTH):
        branch = params[str(depth)]["branch"]
        jacobians.append((branch, x))
        x = NET.children()[str(depth)](params[str(depth)], x)
    gradient = torch.func.grad(squared)(x)
    parts = {0: gradient}
    for branch, x in reversed(jacobians):
        block = NET.children()["0"].branch
        pull = torch.func.vjp(lambda x, block=block, branch=branch: 0.7 * block(branch, x), x)[1]
        longer = {k + 1: pull(part)[0] for k, part in parts.items()}
        zero = torch.zeros_like(gradient)
        parts = {k: parts.get(k, zero) + longer.get(k, zero) for k in range(len(parts) + 1)}
    assert len(found.paths.log10_norms) == DEPTH + 1
    for k, measured in enumerate(found.paths.log10_norms):
        assert math.isclose(10**measured, parts[k].norm(), rel_tol=1e-11)
    assert math.isclose(10**found.log10_input_gradient, sum(parts.values()).norm(), rel_tol=1e-12)


def test_deletions_are_runs_without_one_branch(found, params):
    x = batch()
    whole = NET(params, x)
    for deletion in found.deletions:
        y = x
        for depth in range(DEPTH):
            y = y if depth == deletion.depth else NET.children()[str(depth)](params[str(depth)], y)
        assert math.isclose(deletion.loss_change, squared(y) - squared(whole), rel_tol=1e-10)
        assert math.isclose(deletion.relative_change, (y - whole).norm() / whole.norm(), rel_tol=1e-10)
    assert [deletion.depth for deletion in found.deletions] == list(range(DEPTH))


def test_the_stream_and_its_branches(found, params):
    x = batch()
    for depth, block in enumerate(found.values()):
        y = NET.children()[str(depth)](params[str(depth)], x)
        branch = y - x
        assert math.isclose(10**block.stream.log10_second_moment, y.square().mean(), rel_tol=1e-12)
        assert math.isclose(10**block.stream.log10_squared_mean, y.mean(0).square().mean(), rel_tol=1e-12)
        assert math.isclose(10**block.stream.log10_variance, y.var(0, correction=0).mean(), rel_tol=1e-12)
        assert math.isclose(10**block.branch.log10_second_moment, branch.square().mean(), rel_tol=1e-12)
        assert math.isclose(block.branch_to_skip, branch.norm() / x.norm(), rel_tol=1e-12)
        x = y


def test_partial_jacobians_lie_in_their_intervals():
    """‖J‖²_F / n is exact from the Jacobian; 95% intervals over 64 samples hold nearly all of 6 pairs."""
    params, _ = drawn(NET, seed=2)
    x = batch(64, WIDTH)
    found = flow.audit(NET, params, x, stations=3, deletions=0)
    inside = 0
    for pair in found.pairs:
        y = x
        for depth in range(pair.source):
            y = NET.children()[str(depth)](params[str(depth)], y)

        def stretch(y, pair=pair):
            for depth in range(pair.source, pair.target):
                y = NET.children()[str(depth)](params[str(depth)], y[None])[0]
            return y

        jacobian = torch.func.vmap(torch.func.jacrev(stretch))(y)
        exact = math.log10(float(jacobian.square().sum((1, 2)).mean()) / WIDTH)
        inside += pair.log10_low <= exact <= pair.log10_high
        assert abs(exact - pair.log10_value) < 0.15
    assert [(pair.source, pair.target) for pair in found.pairs] == [(0, 2), (0, 4), (0, 6), (2, 4), (2, 6), (4, 6)]
    assert inside >= 5


def test_one_sample_has_no_interval():
    params, _ = drawn(NET)
    found = flow.audit(NET, params, batch(1, WIDTH), stations=1)
    assert [(pair.log10_low, pair.log10_high) for pair in found.pairs] == [(-math.inf, math.inf)]


def test_a_pre_norm_stream_grows_as_its_law_says():
    """q_l = 1 + l at infinite width (Xiong et al. 2020); at width 256 within a fifth."""
    width, depth = 256, 24
    net = Repeat(
        pre_norm(Linear(width, width, bias=False, weight_init=Normal(0, width**-0.5)), LayerNorm(width)), depth
    )
    params, _ = drawn(net)
    found = flow.audit(net, params, batch(32, width), deletions=0, orders=-1)
    for block in found.values():
        assert abs(10**block.stream.log10_second_moment / (2 + block.depth) - 1) < 0.2
    to_last = [pair for pair in found.pairs if pair.target == depth]
    for pair in to_last:
        assert abs(10**pair.log10_value / ((1 + depth) / (1 + pair.source)) - 1) < 0.25
    assert found.advice == ()


def test_gates_are_counted():
    net = Sequential(*[Highway.dense(WIDTH, gate_bias=bias) for bias in (-2.0, -9.0, 9.0)])
    params, _ = drawn(net)
    found = flow.audit(net, params, batch() * 0.01)
    assert [round(block.gates.mean, 2) for block in found.values()] == [0.12, 0.0, 1.0]
    assert [block.gates.shut for block in found.values()] == [0.0, 1.0, 0.0]
    assert [block.gates.open for block in found.values()] == [0.0, 0.0, 1.0]
    assert [block.gates.saturated for block in found.values()] == [0.0, 1.0, 1.0]


def test_a_block_that_is_no_chain_is_run_whole():
    @dataclass(frozen=True)
    class Loop(Block):
        def init(self, generator, dtype=torch.float32, device="cpu"):
            return {"w": torch.eye(WIDTH, dtype=dtype) / 3}, {}

        def apply(self, params, x, state, extras, training=False, noise=None):
            for depth in range(4):
                x = tag(x + tag(x @ params["w"], f"{depth}.branch", kind="branch"), f"{depth}.stream")
            return x, state

    params, _ = drawn(Loop())
    found = flow.audit(Loop(), params, batch(), loss=squared)
    whole = flow.gradient_norms(lambda p, x: squared(Loop()(p, x)), params, batch())
    assert (found.method, list(found)) == ("whole", ["0", "1", "2", "3"])
    for name, block in found.items():
        assert math.isclose(10**block.log10_gradient, whole.activations[f"{name}.stream"].l2, rel_tol=1e-12)
        assert math.isclose(block.branch_to_skip, 1 / 3, rel_tol=1e-12)
    assert math.isclose(found.stream_growth.factor, 16 / 9, rel_tol=1e-12)


def test_a_network_of_tokens_is_run_whole():
    net = nets.gpt2(vocab_size=11, features=8, depth=2, heads=2, positions=6)
    params, _ = drawn(net)
    tokens = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))
    found = flow.audit(net, params, tokens, loss=squared)
    whole = flow.gradient_norms(lambda p, x: squared(net(p, x)), params, tokens)
    streams = {path: entry for path, entry in whole.activations.items() if entry.kind == "stream"}
    assert (found.method, len(found)) == ("whole", len(streams))
    assert math.isclose(found.loss, whole.loss, rel_tol=1e-12)
    for block, expected in zip(found.values(), streams.values(), strict=True):
        assert math.isclose(10**block.log10_gradient, expected.l2, rel_tol=1e-12)
    assert math.isnan(found.log10_input_gradient)


def test_tokens_that_reach_no_stream_are_refused():
    net = Sequential(Embedding(7, 4), Linear(4, 2))
    with pytest.raises(ArgumentError, match="no gradient reaches it"):
        flow.audit(net, drawn(net)[0], torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_a_whole_network(name):
    net = (
        nets.create("resnet18", num_classes=3)
        if name == "resnet18"
        else nets.create("vit_tiny_patch16_224", num_classes=3, image_size=32)
    )
    params, state = net.init(torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 2])
    found = flow.audit(
        net, params, x, loss=torch.nn.functional.cross_entropy, targets=(target,), state=state, deletions=2
    )
    whole = flow.gradient_norms(
        lambda p, x: torch.nn.functional.cross_entropy(net(p, x, state), target), params, x, kinds=()
    )
    assert math.isclose(found.loss, whole.loss, rel_tol=1e-4)
    parts = [2 * block.log10_parameter_gradient for block in found.values()]
    assert math.isclose(math.sqrt(sum(10**part for part in parts)), whole.blocks[""].l2, rel_tol=1e-3)
    assert found.paths is not None
    assert found.advice == ()


def test_moments_of_images_and_tokens():
    x = batch(2, 3, 4, 5)
    image = log_moments(x)
    assert math.isclose(10**image.log10_variance, x.var((0, 2, 3), correction=0).mean(), rel_tol=1e-12)
    tokens = log_moments(x[0])
    assert math.isclose(10**tokens.log10_squared_mean, x[0].mean((0, 1)).square().mean(), rel_tol=1e-12)


class TestResult:
    def test_it_is_a_mapping_with_tables(self, found):
        assert list(found) == [str(depth) for depth in range(DEPTH)]
        assert found["3"].kind == "Residual"
        assert repr(found) == "Audit(6 blocks, chain, 0 advice: no advice)"
        for of, rows in (("blocks", DEPTH), ("deletions", DEPTH), ("pairs", 6), ("paths", DEPTH + 1)):
            assert len(found.table(of).splitlines()) == rows + 2
        with pytest.raises(ArgumentError, match="table of 'rows'"):
            found.table("rows")

    def test_it_is_written_whole(self, found, tmp_path):
        flow.save_json(found, tmp_path / "audit.json")
        read = json.loads((tmp_path / "audit.json").read_text())
        assert read["blocks"]["2"]["stream"] == found.to_dict()["blocks"]["2"]["stream"]
        assert [entry.name for entry in tmp_path.iterdir()] == ["audit.json"]

    def test_numbers_that_json_lacks_are_text(self, tmp_path):
        params, _ = drawn(NET)
        flow.save_json(flow.audit(NET, params, batch()), tmp_path / "audit.json")
        read = json.loads((tmp_path / "audit.json").read_text(), parse_constant=pytest.fail)
        assert read["loss"] == "nan"
        assert math.isnan(float(read["loss"]))

    def test_a_file_that_cannot_be_written_leaves_nothing(self, found, tmp_path):
        with pytest.raises(SaveError, match="folder that exists"):
            flow.save_json(found, tmp_path / "missing" / "audit.json")
        with pytest.raises(ArgumentError, match="to_dict"):
            flow.save_json({"a": 1}, tmp_path / "audit.json")
        assert list(tmp_path.iterdir()) == []

    def test_rich_draws_the_same_cells(self, found):
        from rich.console import Console

        console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        flow.show(found.table(), console)
        shown = console.export_text()
        assert [line.split() for line in shown.splitlines()][1:] == [
            line.split() for line in found.table().splitlines()[2:]
        ]
        console.file.close()

    @pytest.mark.parametrize("case", ["residual", "gated", "plain", "stopped", "one"])
    def test_it_is_drawn(self, case, found):
        if case != "residual":
            net = {
                "gated": Repeat(Highway.dense(WIDTH, gate_bias=-9.0), 4),
                "plain": nets.plain_mlp(WIDTH, WIDTH, 2, 4),
                "stopped": Repeat(Residual(Linear(WIDTH, WIDTH), scale=1e6), 20),
                "one": Linear(WIDTH, 2),
            }[case]
            params, _ = drawn(net, dtype=torch.float32)
            found = flow.audit(net, params, batch(dtype=torch.float32), loss=squared)
        figure = found.plot()
        assert len(figure.axes) == 6
        figure.canvas.draw()


class TestRefused:
    def refused(self, net, error, match, x=None, loss=squared, **options):
        params, state = drawn(net) if isinstance(net, Block) else ({}, {})
        with pytest.raises(error, match=match):
            flow.audit(net, params, batch() if x is None else x, loss=loss, state=state, **options)

    def test_no_blocks(self):
        self.refused(Sequential(), ArgumentError, "holds no blocks")
        self.refused(torch.nn.Linear(2, 2), ArgumentError, r"expected a pure\.Block")

    def test_input_that_is_nan(self):
        self.refused(NET, ArgumentError, "x holds NaN", x=batch() * torch.nan)

    def test_loss_that_is_no_scalar_or_nan(self):
        self.refused(NET, ShapeError, "scalar", loss=lambda y: y.sum(1))
        self.refused(NET, UnsupportedError, "loss is nan", loss=lambda y: y.sum() * torch.nan)

    @pytest.mark.parametrize("where", ["input", "later"])
    def test_what_writes_into_its_input(self, where):
        blocks = [Function(lambda x: x.add_(1.0)), Function(lambda x: x * 2.0)]
        x = batch()
        before = x.clone()
        self.refused(Sequential(*(blocks if where == "input" else blocks[::-1])), UnsupportedError, "not pure", x=x)
        assert torch.equal(x, before)

    def test_what_writes_into_its_parameters(self):
        def grow(params, x):
            return x * params["w"].add_(1.0)

        net = Sequential(Function(grow, lambda *_: {"w": torch.ones(1)}), Linear(WIDTH, 2))
        self.refused(net, UnsupportedError, "in place")

    def test_what_draws_random_numbers(self):
        self.refused(
            Sequential(Function(lambda x: x + torch.rand_like(x)), Linear(WIDTH, 2)), UnsupportedError, "random"
        )

    def test_what_remembers(self):
        calls = []

        def remember(x):
            calls.append(1)
            return x * len(calls)

        self.refused(Sequential(Linear(WIDTH, WIDTH), Function(remember)), UnsupportedError, "1 is not pure")

    def test_counts_below_what_they_can_be(self):
        for option in ("orders", "deletions", "stations"):
            self.refused(NET, ArgumentError, option, **{option: -2})

    def test_inside_a_transform(self):
        params, _ = drawn(NET)
        with pytest.raises(UnsupportedError, match=r"inside a torch\.func transform"):
            torch.func.vmap(lambda x: flow.audit(NET, params, x[None], loss=squared).loss)(batch())

    def test_a_stream_of_whole_numbers(self):
        net = Sequential(Function(lambda x: x.long()), Function(lambda x: x.double()))
        self.refused(net, UnsupportedError, "no floating-point tensor")


def test_a_stream_of_several_tensors():
    two = Function(lambda x: (x[0] + x[1].sin(), x[1] * 0.9) if isinstance(x, tuple) else (x, x * 0.5))
    join = Function(lambda x: x[0] + x[1])
    net = Sequential(two, two, two, join)
    x = batch()
    found = flow.audit(net, {}, x, loss=squared)
    expected = torch.func.grad(lambda x: squared(net({}, x)))(x).norm()
    assert math.isclose(10**found.log10_input_gradient, expected, rel_tol=1e-12)


def test_it_is_deterministic_and_takes_a_generator(params):
    one, two = (flow.audit(NET, params, batch()).to_dict() for _ in range(2))
    other = flow.audit(NET, params, batch(), generator=torch.Generator().manual_seed(5)).to_dict()
    assert repr(one) == repr(two) != repr(other)


def test_nothing_it_was_given_changes():
    params, _ = drawn(NET)
    leaves, x = {name: leaf.clone() for name, leaf in tree.flatten(params).items()}, batch()
    flow.audit(NET, params, x, loss=squared, progress=True)
    assert all(
        torch.equal(leaf, leaves[name]) and not leaf.requires_grad for name, leaf in tree.flatten(params).items()
    )
    assert torch.equal(x, batch())
    assert not x.requires_grad
