"""`flow.per_sample_norms` gives the norms of materialised per-sample gradients, and forms none for linear and conv."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import pure
from pure import flow, nets
from pure.interop import from_module

FLOAT64 = torch.float64
CLOSE = 1e-12
Loss = Callable[..., Tensor]


def drawn(block: pure.Block, seed: int = 0, dtype: torch.dtype = FLOAT64) -> dict[str, Any]:
    return block.init(torch.Generator().manual_seed(seed), dtype)[0]


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def one(block: pure.Block) -> Loss:
    return lambda params, x: block(params, x[None]).square().sum()


def materialised(loss: Loss, params: Any, *batch: Any) -> dict[str, Tensor]:
    gradients = vmap(grad(loss), (None, *(0 for _ in batch)))(params, *batch)
    return {name: leaf.flatten(1).norm(dim=1) for name, leaf in pure.flatten(gradients).items()}


def agree(norms: flow.PerSampleNorms, expected: dict[str, Tensor]) -> None:
    assert list(norms) == list(expected)
    for name, norm in expected.items():
        torch.testing.assert_close(
            norms[name], norm, rtol=CLOSE, atol=1e-14, msg=lambda text, name=name: f"{name}: {text}"
        )
    total = torch.stack(list(expected.values())).square().sum(0).sqrt()
    torch.testing.assert_close(norms.total, total, rtol=CLOSE, atol=1e-14)


def convolutional(conv: type, *, kernel: int = 3, **options: Any) -> pure.Block:
    return pure.Sequential(
        conv1=conv(4, 8, kernel, **options),
        norm=pure.GroupNorm(2, 8),
        act=pure.Activation("gelu"),
        conv2=conv(8, 6, kernel, bias=False, **options),
        pool=pure.GlobalAvgPool(),
        head=pure.Linear(6, 3),
    )


CONVOLUTIONS = [(pure.Conv1d, (20,)), (pure.Conv2d, (10, 9)), (pure.Conv3d, (7, 8, 9))]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"groups": 2, "padding": "same"},
    {"dilation": 2, "padding": (1,)},
    {"kernel": 2, "padding": "same"},
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize(("conv", "space"), CONVOLUTIONS, ids=["1d", "2d", "3d"])
def test_convolutions(conv: type, space: tuple[int, ...], options: dict[str, Any]) -> None:
    options = {k: v * len(space) if isinstance(v, tuple) else v for k, v in options.items()}
    block = convolutional(conv, **options)
    params, x = drawn(block), inputs(3, 4, *space)
    norms = flow.per_sample_norms(one(block), params, x)
    agree(norms, materialised(one(block), params, x))
    assert set(norms.methods.values()) == {"ghost"}


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (40, 5), (2, 6, 5)], ids=str)
def test_linear_maps_of_vectors_and_sequences(shape: tuple[int, ...]) -> None:
    block = nets.residual_mlp(5, 7, 3)
    params, x = drawn(block), inputs(4, *shape)
    loss = (lambda p, x: block(p, x).square().sum()) if len(shape) > 1 else one(block)
    norms = flow.per_sample_norms(loss, params, x)
    agree(norms, materialised(loss, params, x))
    assert set(norms.methods.values()) == {"ghost"}


def test_both_methods_through_a_sequence_give_one_answer() -> None:
    from pure.flow.per_sample.outer_products import outer_norm, outer_sum

    for time, width in ((3, 40), (40, 3)):
        a, g = inputs(4, time, 2, width, seed=time), inputs(4, time, 2, width + 1, seed=width)
        torch.testing.assert_close(outer_norm(a, g), outer_sum(a, g).flatten(1).norm(dim=1), rtol=CLOSE, atol=0)


def test_squares_sum_over_leaves_and_gradients_sum_over_samples() -> None:
    block = nets.residual_mlp(5, 7, 2)
    params, x = drawn(block), inputs(6, 5)
    norms = flow.per_sample_norms(one(block), params, x)
    torch.testing.assert_close(norms.total.square(), sum(n.square() for n in norms.values()), rtol=CLOSE, atol=0)
    single = [flow.gradient_norms(one(block), params, row) for row in x]
    for name, norm in norms.items():
        assert norm.tolist() == [pytest.approx(result[name], rel=CLOSE) for result in single]
    torch.testing.assert_close(norms.losses, torch.stack([one(block)(params, row) for row in x]), rtol=CLOSE, atol=0)


linear = pure.Linear(5, 5)
SHARED: dict[str, Loss] = {
    "twice": lambda p, x: linear(p, linear(p, x[None]).tanh()).square().sum(),
    "twice, one a sequence": lambda p, x: linear(p, linear(p, x.expand(3, 5)).tanh()).prod(1).sum(),
    "linear and penalty": lambda p, x: linear(p, x[None]).square().sum() + p["weight"].pow(4).sum() + p["bias"].sum(),
    "matrix product": lambda p, x: (x @ p["weight"].T).square().sum() + p["bias"].sum(),
    "matrix product beside linear": lambda p, x: (linear(p, x[None]) * (p["weight"] @ x)).sum(),
    "weight made from a leaf": lambda p, x: F.linear(x, p["weight"] * 2, p["bias"].exp()).square().sum(),
    "leaf as weight, bias made from one": lambda p, x: F.linear(x, p["weight"], p["bias"].exp()).square().sum(),
    "the same input for all samples": lambda p, x: linear(p, x.new_ones(3, 5)).square().sum() * x.sum(),
    "inner derivative": lambda p, x: grad(lambda x: linear(p, x[None]).pow(3).sum())(x).square().sum(),
    "inner map": lambda p, x: vmap(lambda row: F.linear(row, p["weight"], p["bias"]))(x.expand(3, 5)).prod(0).sum(),
    "changed in place afterwards": lambda p, x: linear(p, linear(p, x[None]).relu_()).relu_().square().sum(),
    "unused": lambda p, x: F.linear(x, p["weight"]).square().sum(),
}


@pytest.mark.parametrize("case", SHARED)
def test_whatever_a_parameter_does_its_norm_is_right(case: str) -> None:
    params, x = drawn(linear), inputs(4, 5)
    agree(flow.per_sample_norms(SHARED[case], params, x), materialised(SHARED[case], params, x))


def test_one_weight_in_two_convolutions_of_different_stride_and_groups() -> None:
    params = {"w": inputs(4, 2, 3, 3, seed=3)}
    strides: Loss = lambda p, x: sum(F.conv2d(x, p["w"], stride=s, groups=2).square().sum() for s in (1, 2))  # noqa: E731
    groups: Loss = lambda p, x: F.conv2d(x, p["w"], groups=2).sum().exp() + F.conv2d(x[:2], p["w"]).square().sum()  # noqa: E731
    x = inputs(3, 4, 6, 7) / 10
    both = flow.per_sample_norms(strides, params, x)
    agree(both, materialised(strides, params, x))
    assert both.methods == {"w": "ghost"}
    mixed = flow.per_sample_norms(groups, params, x)
    agree(mixed, materialised(groups, params, x))
    assert mixed.methods == {"w": "materialised"}


def test_slices_of_a_leaf() -> None:
    params = {"w": inputs(3, 5, 5, seed=3)}
    loss: Loss = lambda p, x: F.linear(F.linear(x, p["w"][0]).tanh(), p["w"][-1]).square().sum()  # noqa: E731
    overlapping: Loss = lambda p, x: loss(p, x) + sum(F.linear(x, w).sum() for w in p["w"].unbind(1))  # noqa: E731
    x = inputs(4, 5)
    norms = flow.per_sample_norms(loss, params, x)
    assert norms.methods == {"w": "ghost"}
    agree(norms, materialised(loss, params, x))
    agree(flow.per_sample_norms(overlapping, params, x), materialised(overlapping, params, x))


def test_a_leaf_beside_its_own_slice() -> None:
    params = {"w": inputs(4, 3, 2, 2, seed=3)}
    loss: Loss = lambda p, x: (F.conv2d(x, p["w"]).sum() * F.conv1d(x[:2, 0], p["w"][0])).sum()  # noqa: E731
    x = inputs(3, 3, 5, 6)
    norms = flow.per_sample_norms(loss, params, x)
    agree(norms, materialised(loss, params, x))
    assert norms.methods == {"w": "materialised"}


def test_a_repeat_reports_each_depth_as_the_unrolled_network_does() -> None:
    cell, depth = nets.residual_mlp_block(5, 7), 3
    chain, repeat = (
        nets.residual_mlp(5, 7, depth),
        pure.Repeat(pure.Sequential(cell=cell, norm=pure.LayerNorm(5)), depth),
    )
    unrolled = pure.Sequential(*[pure.Sequential(cell=cell, norm=pure.LayerNorm(5))] * depth)
    x = inputs(4, 5)
    assert len(drawn(chain)) == depth
    norms = flow.per_sample_norms(one(repeat), drawn(repeat), x)
    expected = flow.per_sample_norms(one(unrolled), drawn(unrolled), x)
    assert norms.methods["cell.branch.fc1.weight"] == "ghost"
    for prefix, norm in expected.blocks.items():
        torch.testing.assert_close(norms.blocks[prefix], norm, rtol=CLOSE, atol=0)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 99])
def test_chunks_change_nothing(chunk_size: int) -> None:
    block = convolutional(pure.Conv2d)
    params, x = drawn(block), inputs(5, 4, 8, 8)
    whole = flow.per_sample_norms(one(block), params, x)
    norms = flow.per_sample_norms(one(block), params, x, chunk_size=chunk_size)
    assert norms.chunk_size == min(chunk_size, 5)
    agree(norms, dict(whole))
    agree(flow.per_sample_norms(one(block), params, x, ghost=False), dict(whole))


def test_the_budget_cuts_only_what_is_formed() -> None:
    params, x = {"w": inputs(64, 64)}, inputs(32, 64)
    matrix: Loss = lambda p, x: (p["w"].tanh() @ x).square().sum()  # noqa: E731
    ghost: Loss = lambda p, x: F.linear(x, p["w"]).square().sum()  # noqa: E731
    per_sample_mib = 64 * 64 * 8 / 2**20
    cut = flow.per_sample_norms(matrix, params, x, budget_mib=5 * per_sample_mib)
    assert (cut.chunk_size, cut.methods) == (5, {"w": "materialised"})
    agree(cut, materialised(matrix, params, x))
    assert flow.per_sample_norms(ghost, params, x, budget_mib=5 * per_sample_mib).chunk_size == 32
    assert flow.per_sample_norms(ghost, params, x, budget_mib=5 * per_sample_mib, ghost=False).chunk_size == 5
    sequence = inputs(8, 40, 64)
    tight = flow.per_sample_norms(ghost, params, sequence, budget_mib=0.01)
    agree(tight, materialised(ghost, params, sequence))


def test_no_per_sample_gradient_of_a_weight_is_ever_formed() -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and not out._is_view():
                largest = max(largest, out.untyped_storage().nbytes() // 8)
            return out

    features, batch = 32, 16
    block = nets.residual_mlp(features, features, 3)
    params, x = drawn(block), inputs(batch, features)
    with Watch():
        flow.per_sample_norms(one(block), params, x)
    assert largest <= features * features, f"{largest} values in one tensor, {batch * features**2} are all gradients"
    with Watch():
        flow.per_sample_norms(one(block), params, x, ghost=False)
    assert largest == batch * features**2, "the watch sees gradients that are formed"


def test_a_module_joins_in_with_its_in_place_activations() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 2)).double()
    block, params, _ = from_module(module)
    x = inputs(3, 3, 8, 8)
    norms = flow.per_sample_norms(one(block), params, x)
    agree(norms, materialised(one(block), params, x))
    assert set(norms.methods.values()) == {"ghost"}


def test_nested_batches_targets_and_extras() -> None:
    net = nets.dynamic_net(5, 6, 3)
    params = drawn(net)
    batch = {"x": inputs(4, 5), "control": torch.tensor([0.0, 1.0, 0.2, 0.9], dtype=FLOAT64)}
    targets = torch.tensor([0, 2, 1, 1])

    def loss(params: Any, sample: dict[str, Tensor], target: Tensor) -> Tensor:
        return F.cross_entropy(net(params, sample["x"][None], {}, {"control": sample["control"]}), target[None])

    agree(flow.per_sample_norms(loss, params, batch, targets), materialised(loss, params, batch, targets))


def test_one_sample_no_layers_and_no_parameters_are_fine() -> None:
    block = nets.residual_mlp(5, 7, 2)
    params, x = drawn(block), inputs(1, 5)
    agree(flow.per_sample_norms(one(block), params, x), materialised(one(block), params, x))
    empty = flow.per_sample_norms(one(pure.Sequential()), {}, inputs(3, 5))
    assert dict(empty) == {}
    assert empty.total.tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_dtypes_are_summed_in_float64(dtype: torch.dtype) -> None:
    block = nets.residual_mlp(5, 7, 2)
    params, x = drawn(block, dtype=dtype), inputs(4, 3, 5).to(dtype)
    loss: Loss = lambda p, x: block(p, x).square().sum()  # noqa: E731
    norms = flow.per_sample_norms(loss, params, x)
    exact = materialised(loss, pure.cast(params, FLOAT64), x.double())
    assert all(norm.dtype == FLOAT64 for norm in norms.values())
    # Every value is rounded to the dtype at each of about 10 steps, so that norms differ by a few of its spacings.
    for name, norm in exact.items():
        torch.testing.assert_close(norms[name], norm, rtol=10 * torch.finfo(dtype).eps, atol=0)


def test_tiny_gradients_do_not_become_zero() -> None:
    loss: Loss = lambda p, x: F.linear(x, p["w"]).sum() * 1e-30  # noqa: E731
    for shape in ((4,), (3, 4)):
        norms = flow.per_sample_norms(loss, {"w": torch.ones(2, 4)}, torch.ones(1, *shape))
        assert norms["w"].item() == pytest.approx(math.sqrt(8) * math.prod(shape[:-1]) * 1e-30, rel=1e-6)


def test_nothing_given_is_changed_and_the_result_is_plain_data() -> None:
    block = nets.residual_mlp(5, 7, 2)
    params, x = drawn(block), inputs(3, 5)
    before = {name: leaf.clone() for name, leaf in pure.flatten(params).items()}
    norms = flow.per_sample_norms(one(block), params, x)
    assert all(torch.equal(leaf, before[name]) for name, leaf in pure.flatten(params).items())
    assert not any(leaf.requires_grad for leaf in pure.tree.leaves(params))
    assert not any(norm.requires_grad for norm in [*norms.values(), norms.losses, norms.total])
    plain = json.loads(json.dumps(norms.to_dict()))
    assert plain["leaves"]["0.branch.fc1.weight"] == norms["0.branch.fc1.weight"].tolist()
    assert len(norms.table().splitlines()) == 2 + len(norms)
    assert len(norms.table("blocks").splitlines()) == 2 + len(norms.blocks)
