"""Composition: Repeat equals the unrolled chain, Parallel its formula, Function any bare function."""

import pickle
from typing import Any

import pytest
import torch
from torch.func import vmap

import pure
from pure import tree
from pure.errors import ArgumentError, ShapeError, TreeError


def dropped(rate: float = 0.5) -> pure.Block:
    return pure.Residual(pure.Sequential(fc=pure.Linear(4, 4), norm=pure.BatchNorm(4), drop=pure.Dropout(rate)))


def test_repeat_equals_the_chain_in_evaluation_and_training_with_noise_and_state() -> None:
    repeat, chain = pure.Repeat(dropped(), 3), pure.Sequential(*[dropped()] * 3)
    params, state = repeat.init(torch.Generator().manual_seed(0))
    chain_params, chain_state = chain.init(torch.Generator().manual_seed(0))
    parts = {str(i): part for i, part in enumerate(pure.unstack(params))}
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(parts), tree.leaves(chain_params), strict=True))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(repeat(params, x, state), chain(chain_params, x, chain_state))
    noise = repeat.noise((5, 4), torch.Generator().manual_seed(2))
    assert noise["branch"]["drop"]["mask"].shape == (5, 3, 4), "batch on axis 0, depth on axis 1"
    chain_noise = {str(i): part for i, part in enumerate(pure.unstack(noise, 1))}
    y, new_state = repeat.apply(params, x, state, {}, True, noise)
    expected, chain_new = chain.apply(chain_params, x, chain_state, {}, True, chain_noise)
    assert torch.equal(y, expected)
    assert torch.equal(new_state["branch"]["norm"]["running_var"][1], chain_new["1"]["branch"]["norm"]["running_var"])
    assert tree.names(new_state) == tree.names(state)


def test_repeat_varies_numbers_by_depth() -> None:
    repeat = pure.Repeat(dropped(), 3, vary={"branch.drop.rate": (0.0, 0.25, 0.5), "scale": (1.0, 0.5, 0.25)})
    rates = [child.branch.children()["drop"].rate for child in repeat.children().values()]
    assert rates == [0.0, 0.25, 0.5]
    assert [child.scale for child in repeat.children().values()] == [1.0, 0.5, 0.25]
    assert hash(repeat) == hash(pure.Repeat(dropped(), 3, vary=repeat.vary))
    noise = repeat.noise((8, 4), torch.Generator().manual_seed(0))
    assert torch.equal(noise["branch"]["drop"]["mask"][:, 0], torch.ones(8, 4)), "a depth that drops nothing keeps all"
    params, state = repeat.init(torch.Generator().manual_seed(0))
    y, _ = repeat.apply(params, torch.ones(8, 4), state, {}, True, noise)
    assert y.shape == (8, 4)
    with pytest.raises(ArgumentError, match="2 values for depth 3"):
        pure.Repeat(dropped(), 3, vary={"scale": (1.0, 2.0)})
    with pytest.raises(ArgumentError, match="no field 'rate'"):
        pure.Repeat(dropped(), 1, vary={"rate": (0.1,)})


def test_repeat_of_another_depth_is_a_clear_error() -> None:
    params, _ = pure.Repeat(pure.Linear(3, 3), 4).init(torch.Generator().manual_seed(0))
    with pytest.raises(TreeError, match="stacked 4 deep, expected depth 3"):
        pure.Repeat(pure.Linear(3, 3), 3)(params, torch.zeros(1, 3))


def test_a_thousand_blocks_keep_four_leaves() -> None:
    net = pure.Repeat(pure.nets.residual_mlp_block(4, 4, scale=0.01), 1000)
    params, _ = net.init(torch.Generator().manual_seed(0))
    assert len(tree.leaves(params)) == 4
    assert torch.isfinite(net(params, torch.ones(1, 4))).all()


@pytest.mark.parametrize(("join", "expected"), [("sum", 5.0), ("mean", 2.5), ("product", 6.0)])
def test_parallel_joins(join: Any, expected: float) -> None:
    block = pure.Parallel(pure.Function(lambda x: x * 2), pure.Function(lambda x: x * 3), join=join)
    assert torch.equal(block({}, torch.ones(2, 3)), torch.full((2, 3), expected))


def test_parallel_concatenates_and_refuses_to_broadcast() -> None:
    both = pure.Parallel(a=pure.Linear(3, 2), b=pure.Linear(3, 4), join="concat")
    params, _ = both.init(torch.Generator().manual_seed(0))
    assert both(params, torch.ones(5, 3)).shape == (5, 6)
    summed = pure.Parallel(a=pure.Linear(3, 1), b=pure.Linear(3, 4))
    with pytest.raises(ShapeError, match=r"a: \(5, 1\), b: \(5, 4\)"):
        summed(summed.init(torch.Generator())[0], torch.ones(5, 3))


def test_function_reads_what_its_function_takes() -> None:
    x = torch.ones(2, 3)
    assert torch.equal(pure.Function(torch.neg)({}, x), -x)
    assert torch.equal(pure.Function(lambda x, factor=3: x * factor)({}, x), 3 * x)
    scale = pure.Function(lambda params, x: x * params["s"], init=lambda generator: {"s": torch.full((), 2.0)})
    params, state = scale.init(torch.Generator(), torch.float64)
    assert params["s"].dtype == torch.float64
    assert state == {}
    shift = pure.Function(
        lambda params, x, state, extras: x + extras["shift"] + state["s"],
        lambda generator, dtype, device: ({}, {"s": torch.ones(())}),
    )
    params, state = shift.init(torch.Generator())
    assert torch.equal(shift(params, x, state, {"shift": 1.0}), x + 2)
    residual = pure.Residual(branch=scale)
    params, _ = residual.init(torch.Generator())
    assert torch.equal(residual(params, x), 3 * x)
    assert torch.equal(vmap(lambda row: residual(params, row[None])[0])(x), 3 * x)


def test_rename_goes_both_ways_for_params_and_state() -> None:
    block = pure.Rename(dropped(0.0), {"branch.fc": "fc", "branch.norm": "bn"})
    params, state = block.init(torch.Generator().manual_seed(0))
    assert tree.names(params) == ["fc.weight", "fc.bias", "bn.weight", "bn.bias"]
    _, new_state = block.apply(params, torch.ones(4, 4), state, {}, True)
    assert tree.names(new_state) == tree.names(state)
    assert block.children().keys() == {"branch", "shortcut"}
    with pytest.raises(ArgumentError, match="different keys"):
        pure.Rename(dropped(), {"branch.fc": "a", "branch.norm": "a"})


def test_mixed_precision_keeps_wide_parameters_and_gradients() -> None:
    inner = pure.Sequential(fc=pure.Linear(6, 5), norm=pure.BatchNorm(5))
    block = pure.MixedPrecision(inner, torch.bfloat16)
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    y, new_state = block.apply(params, x, state, {}, True)
    low, _ = inner.apply(pure.cast(params, torch.bfloat16), x.bfloat16(), state, {}, True)
    assert torch.equal(y, low.float())
    assert all(leaf.dtype in (torch.float32, torch.int64) for leaf in tree.leaves(new_state))
    gradient = torch.func.grad(lambda p: block.apply(p, x, state, {}, True)[0].square().sum())(params)
    assert all(leaf.dtype == torch.float32 for leaf in tree.leaves(gradient))
    assert tree.names(params) == ["fc.weight", "fc.bias", "norm.weight", "norm.bias"]
    with pytest.raises(ArgumentError, match="bfloat16"):
        pure.MixedPrecision(inner, torch.int8)


def test_repeat_draws_noise_where_only_a_part_of_a_depth_is_stochastic() -> None:
    block = pure.Sequential(first=pure.Dropout(0.5), fc=pure.Linear(3, 3), second=pure.Dropout(0.1))
    repeat = pure.Repeat(block, 2, vary={"first.rate": (0.0, 0.5)})
    params, state = repeat.init(torch.Generator().manual_seed(0))
    noise = repeat.noise((4, 3), torch.Generator().manual_seed(1))
    assert noise["first"]["mask"].shape == (4, 2, 3)
    y, _ = repeat.apply(params, torch.ones(4, 3), state, {}, True, noise)
    assert y.shape == (4, 3)


def test_rename_loses_no_leaf() -> None:
    pair = pure.Sequential(a=pure.Linear(2, 2), b=pure.Linear(2, 2))
    with pytest.raises(ArgumentError, match="leaves of that name already"):
        pure.Rename(pair, {"a": "b"}).init(torch.Generator())
    swapped = pure.Rename(pair, {"a": "b", "b": "a"})
    residual = pure.Rename(pure.Residual(pair), {"branch.a": "a", "branch": "rest"})
    x = torch.ones(1, 2)
    for block, plain in ((swapped, pair), (residual, pure.Residual(pair))):
        params, _ = block.init(torch.Generator().manual_seed(0))
        expected, _ = plain.init(torch.Generator().manual_seed(0))
        assert torch.equal(block(params, x), plain(expected, x))


def test_function_hands_the_dtype_to_an_init_that_takes_it() -> None:
    own = pure.Function(lambda params, x: x @ params["weight"].T, pure.Linear(3, 3).init)
    drawn, _ = own.init(torch.Generator().manual_seed(0), torch.float64)
    expected, _ = pure.Linear(3, 3).init(torch.Generator().manual_seed(0), torch.float64)
    assert torch.equal(drawn["weight"], expected["weight"])


def test_a_block_with_the_identity_activation_is_picklable() -> None:
    block = pure.Sequential(pure.Linear(2, 2), pure.Activation("identity"))
    assert pickle.loads(pickle.dumps(block)) == block


def test_names_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ArgumentError, match="no leaf"):
        pure.Rename(pure.Residual(pure.Linear(2, 2)), {"brnch": "b"}).init(torch.Generator())
    with pytest.raises(ArgumentError, match="take"):
        pure.Function(lambda x: x, lambda generator: {"w": torch.ones(1)})
    with pytest.raises(ArgumentError, match="without"):
        pure.Sequential(**{"a.b": pure.Linear(1, 1)})
    with pytest.raises(ShapeError, match=r"\(2, 4\), expected"):
        pure.Sequential(pure.Linear(3, 4), pure.Linear(5, 6)).out_shape((2, 3))


def test_sizes_may_be_lists_and_widths_zero() -> None:
    assert pure.Conv2d(1, 1, [3, 3], padding=[1, 0]).out_shape((1, 1, 5, 5)) == (1, 1, 5, 3)  # type: ignore[arg-type]
    assert pure.Sequential(pure.Conv1d(1, 1, [3])) == pure.Sequential(pure.Conv1d(1, 1, (3,)))  # type: ignore[arg-type]


def test_a_subclass_that_defines_apply_alone_is_not_bypassed() -> None:
    class Doubled(pure.Residual):
        def apply(self, params: Any, x: Any, state: Any, extras: Any, training: bool = False, noise: Any = None) -> Any:
            y, new_state = super().apply(params, x, state, extras, training, noise)
            return 2 * y, new_state

    block, plain = Doubled(pure.Linear(2, 2)), pure.Residual(pure.Linear(2, 2))
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.ones(3, 2)
    assert torch.equal(block(params, x), 2 * plain(params, x))
    assert torch.equal(pure.Sequential(block)({"0": params}, x), 2 * plain(params, x))
