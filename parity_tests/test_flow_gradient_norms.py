"""`flow.gradient_norms` gives the norms that autograd gives on the module form, and exact activation gradients."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pure
from parity_tests.modules import ResidualMLP
from pure import flow, nets
from pure.interop import to_module

FLOAT64 = torch.float64
CLOSE = 1e-12


def drawn(block: pure.Block, seed: int = 0) -> dict[str, Any]:
    return block.init(torch.Generator().manual_seed(seed), FLOAT64)[0]


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def square(block: pure.Block) -> Callable[..., Tensor]:
    return lambda params, x: block(params, x).square().mean()


@pytest.mark.parametrize(
    ("block", "x_shape"),
    [
        (nets.residual_mlp(5, 7, 4, scale=0.5), (6, 5)),
        (nets.tutorial_resnet((3, 4, 6)), (2, 3, 6, 5)),
        (nets.highway_mlp(5, 6, 3, 4), (6, 5)),
        (nets.dense_mlp(5, 6, 3, 4), (6, 5)),
        (nets.plain_mlp(5, 6, 3, 4), (6, 5)),
    ],
)
def test_leaf_norms_are_those_of_autograd_through_the_module(block: pure.Block, x_shape: tuple[int, ...]) -> None:
    params, x = drawn(block), inputs(*x_shape)
    norms = flow.gradient_norms(square(block), params, x)
    module = to_module(block, params, {})
    module(x).square().mean().backward()
    expected = {name: leaf.grad.norm().item() for name, leaf in module.named_parameters()}
    assert list(norms) == pure.tree.names(params)
    assert {name: pytest.approx(value, rel=CLOSE) for name, value in expected.items()} == dict(norms)
    assert norms.loss == pytest.approx(module(x).square().mean().item(), rel=CLOSE)


def load(module: nn.Module, block: pure.Block, seed: int = 0) -> dict[str, Any]:
    """Gives the hand-written module the block's parameters, by position; both list them in the same order."""
    params = drawn(block, seed)
    with torch.no_grad():
        for own, leaf in zip(module.parameters(), pure.tree.leaves(params), strict=True):
            own.copy_(leaf)
    return params


def test_activation_gradients_are_those_of_autograd_by_the_modules_own_values() -> None:
    block, module = nets.residual_mlp(5, 7, 4, scale=0.5), ResidualMLP(5, 7, 4, scale=0.5).double()
    params, x = load(module, block), inputs(6, 5)
    kept = []
    for layer in module:
        layer.register_forward_hook(lambda _module, _args, out: (out.retain_grad(), kept.append(out))[0])
    module(x).square().mean().backward()
    norms = flow.gradient_norms(square(block), params, x)
    streams = [a for a in norms.activations.values() if a.kind == "stream"]
    assert [a.path for a in streams] == [f"{depth}.stream" for depth in range(4)]
    assert [a.depth for a in streams] == [0, 1, 2, 3]
    for activation, value in zip(streams, kept, strict=True):
        rows = value.grad.norm(dim=1)
        torch.testing.assert_close(activation.sample_l2, rows, rtol=CLOSE, atol=0)
        assert activation.l2 == pytest.approx(value.grad.norm().item(), rel=CLOSE)
        assert activation.rms == pytest.approx(value.grad.square().mean().sqrt().item(), rel=CLOSE)
        assert activation.median == pytest.approx(rows.quantile(0.5).item(), rel=CLOSE)
        assert activation.p10 == pytest.approx(rows.quantile(0.1).item(), rel=CLOSE)
        assert activation.p90 == pytest.approx(rows.quantile(0.9).item(), rel=CLOSE)


def test_branch_and_stream_of_a_sum_have_the_same_gradient() -> None:
    block = nets.residual_mlp(5, 7, 3)
    found = flow.gradient_norms(square(block), drawn(block), inputs(6, 5)).activations
    for depth in range(3):
        assert found[f"{depth}.branch"].l2 == pytest.approx(found[f"{depth}.stream"].l2, rel=CLOSE)


def test_image_activations_keep_the_batch_apart() -> None:
    block = nets.tutorial_resnet((3, 4, 6))
    params, x = drawn(block), inputs(3, 3, 6, 5)
    found = flow.gradient_norms(square(block), params, x).activations["block1.stream"]
    assert found.sample_l2.shape == (3,)
    assert found.l2 == pytest.approx(found.sample_l2.norm().item(), rel=CLOSE)


def test_blocks_add_the_squares_of_their_leaves() -> None:
    block = nets.residual_mlp(5, 7, 3)
    norms = flow.gradient_norms(square(block), drawn(block), inputs(6, 5))
    for prefix, gradient in norms.blocks.items():
        below = [name for name in norms if not prefix or name.startswith(prefix + ".")]
        assert gradient.l2 == pytest.approx(math.sqrt(sum(norms[name] ** 2 for name in below)), rel=CLOSE)
        assert gradient.size == sum(norms.leaves[name].size for name in below)
        assert gradient.rms == pytest.approx(gradient.l2 / math.sqrt(gradient.size), rel=CLOSE)
    assert {"", "0", "0.branch", "0.branch.fc1"} <= set(norms.blocks)


@pytest.mark.parametrize("outer", [False, True])
def test_a_repeat_reports_each_depth_as_the_unrolled_network_does(outer: bool) -> None:
    cell, depth = nets.residual_mlp_block(5, 7), 3
    chain, repeat = nets.residual_mlp(5, 7, depth), pure.Repeat(cell, depth)
    if outer:
        chain, repeat = pure.Sequential(body=chain), pure.Sequential(body=repeat)
    x = inputs(6, 5)
    unrolled = flow.gradient_norms(square(chain), drawn(chain), x)
    stacked = flow.gradient_norms(square(repeat), drawn(repeat), x)
    assert len(stacked) == 4
    for prefix, gradient in unrolled.blocks.items():
        assert stacked.blocks[prefix].l2 == pytest.approx(gradient.l2, rel=CLOSE), prefix
        assert stacked.blocks[prefix].size == gradient.size
    assert list(stacked.activations) == list(unrolled.activations)
    assert stacked.blocks[""].size == unrolled.blocks[""].size, "no leaf counts twice"


def test_a_loss_that_maps_over_its_samples_has_the_same_activation_gradients() -> None:
    block = nets.residual_mlp(5, 7, 3)
    params, x = drawn(block), inputs(6, 5)
    whole = flow.gradient_norms(square(block), params, x)

    def mapped(params: Any, x: Tensor) -> Tensor:
        return torch.func.vmap(lambda p, row: block(p, row[None]).square().mean(), (None, 0))(params, x).mean()

    found = flow.gradient_norms(mapped, params, x)
    assert dict(found) == {name: pytest.approx(norm, rel=CLOSE) for name, norm in whole.items()}
    for path, activation in whole.activations.items():
        torch.testing.assert_close(found.activations[path].sample_l2, activation.sample_l2, rtol=CLOSE, atol=0)


def test_a_value_mapped_along_another_axis_keeps_its_samples_apart() -> None:
    x = inputs(5, 6)
    sample = lambda w, row: (pure.tag(row, "input") ** 2 * w).sum()  # noqa: E731
    loss = lambda params, x: torch.func.vmap(sample, (None, 1))(params["w"], x).sum()  # noqa: E731
    found = flow.gradient_norms(loss, {"w": torch.ones(5, dtype=FLOAT64)}, x)
    torch.testing.assert_close(found.activations["input"].sample_l2, 2 * x.norm(dim=0), rtol=CLOSE, atol=0)


def test_a_tagged_input_has_its_gradient() -> None:
    x = inputs(6, 5)
    loss = lambda params, x: (pure.tag(x, "input") * params["w"]).sum()  # noqa: E731
    found = flow.gradient_norms(loss, {"w": torch.full((), 3.0, dtype=FLOAT64)}, x)
    assert found.activations["input"].sample_l2.tolist() == pytest.approx([3 * math.sqrt(5)] * 6, rel=CLOSE)


def test_tiny_gradients_do_not_become_zero() -> None:
    loss = lambda params, x: (params["w"] * x * 1e-30).sum()  # noqa: E731
    norms = flow.gradient_norms(loss, {"w": torch.ones(4)}, torch.ones(4))
    assert norms["w"] == pytest.approx(2e-30, rel=1e-6)


def test_kinds_choose_the_tags() -> None:
    block = nets.highway_mlp(5, 6, 3, 2)
    params, x = drawn(block), inputs(6, 5)
    assert not flow.gradient_norms(square(block), params, x, kinds=()).activations
    gates = flow.gradient_norms(square(block), params, x, kinds="gate").activations
    assert list(gates) == ["layers.0.gate", "layers.1.gate"]


def test_no_layers_no_parameters_and_one_sample_are_fine() -> None:
    empty = pure.Sequential()
    norms = flow.gradient_norms(square(empty), {}, inputs(1, 5))
    assert dict(norms) == {}
    assert norms.blocks == {}
    assert norms.table().splitlines()[0].startswith("leaf")
    block = nets.residual_mlp(5, 7, 1)
    (stream,) = flow.gradient_norms(square(block), drawn(block), inputs(1, 5), kinds="stream").activations.values()
    assert stream.p10 == stream.median == stream.p90 == pytest.approx(stream.l2, rel=CLOSE)


def test_an_unused_leaf_has_norm_zero_and_nothing_given_is_changed() -> None:
    params = {"used": torch.ones(3), "idle": torch.ones(3)}
    before = {name: leaf.clone() for name, leaf in params.items()}
    x = torch.ones(2, 3)
    norms = flow.gradient_norms(lambda p, x: (p["used"] * x).sum(), params, x)
    assert norms["idle"] == 0.0
    assert norms["used"] == pytest.approx(math.sqrt(12))
    assert all(torch.equal(params[name], before[name]) and not params[name].requires_grad for name in params)
    assert not x.requires_grad


def test_bound_parameters_and_integer_targets_take_part() -> None:
    block = nets.plain_mlp(5, 6, 3, 2)
    params, targets = drawn(block), torch.tensor([0, 1, 2, 0])
    norms = flow.gradient_norms(lambda p, x, y: F.cross_entropy(block(p, x), y), params, inputs(4, 5), targets)
    assert all(norm > 0 for norm in norms.values())


def test_the_result_reads_as_a_mapping_a_table_and_plain_data() -> None:
    block = nets.residual_mlp(5, 7, 2)
    norms = flow.gradient_norms(square(block), drawn(block), inputs(3, 5))
    assert len(norms.table().splitlines()) == 2 + len(norms)
    assert len(norms.table("blocks").splitlines()) == 2 + len(norms.blocks)
    assert len(norms.table("activations").splitlines()) == 2 + len(norms.activations)
    plain = json.loads(json.dumps(norms.to_dict()))
    assert plain["leaves"]["0.branch.fc1.weight"]["l2"] == norms["0.branch.fc1.weight"]
    assert len(plain["activations"]["1.stream"]["sample_l2"]) == 3
    with pytest.raises(pure.errors.ArgumentError, match="'leaves', 'blocks' or 'activations'"):
        norms.table("rows")  # type: ignore[arg-type]
