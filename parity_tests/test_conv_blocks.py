"""What the convolutional residual blocks promise beside their formulas: traps, initial values, errors, tags."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pure
from pure import tree
from pure.block import Block, specification
from pure.errors import ArgumentError, NoiseError, RankError, ShapeError, TreeError
from pure.layers.conv import divisible
from pure.layers.squeeze import SqueezeExcite
from pure.layers.weight_standard import GAMMA, ScaledActivation, ScaledStdConv2d
from pure.skips.additive.conv_blocks import basic_block, bottleneck
from pure.skips.additive.fractal import Fractal, FractalJoin
from pure.skips.additive.multi_scale import MultiScale, res2net_block
from pure.skips.additive.preactivation import preact_basic, preact_bottleneck, pyramid_block
from pure.skips.additive.shake import Shake
from pure.skips.scaled.norm_free import norm_free_block


def drawn(block: Block, dtype: torch.dtype = torch.float64) -> tuple[pure.tree.Tree, pure.tree.Tree]:
    return block.init(torch.Generator().manual_seed(0), dtype)


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_two_places_of_the_stride_have_one_size_and_other_outputs() -> None:
    late, early = bottleneck(8, 16, 2), bottleneck(8, 16, 2, stride_in="1x1")
    params, state = drawn(late)
    assert tree.names(specification(late)[0]) == tree.names(specification(early)[0])
    x = image(2, 8, 6, 6)
    assert not torch.allclose(late(params, x, state), early(params, x, state))


@pytest.mark.parametrize(
    "block", [basic_block(4, 4, zero_gamma=True), bottleneck(4, 4, hidden=3, zero_gamma=True)], ids=str
)
def test_zero_gamma_starts_as_the_relu_of_the_stream(block: Block) -> None:
    params, state = drawn(block)
    x = image(2, 4, 5, 5)
    y, _ = block.apply(params, x, state, {}, True)
    assert torch.equal(y, x.relu())


@pytest.mark.parametrize("skip_init", [False, True])
def test_a_norm_free_block_starts_as_its_shortcut(skip_init: bool) -> None:
    block = norm_free_block(8, 8, skip_init=skip_init)
    params, _ = drawn(block)
    x = image(2, 8, 5, 5)
    assert torch.equal(block(params, x), x)


def test_norm_free_branches_keep_unit_variance() -> None:
    block = norm_free_block(256, 256, alpha=1.0, skip_init=True)
    params, _ = block.init(torch.Generator().manual_seed(0))
    params["branch"]["skip_init"]["weight"] = torch.ones(())
    x = torch.randn(8, 256, 14, 14, generator=torch.Generator().manual_seed(1))
    assert float((block(params, x) - x).var()) == pytest.approx(1.0, rel=0.25)


def test_a_standardised_weight_ignores_offset_and_scale_of_its_filters() -> None:
    block = ScaledStdConv2d(3, 4, 3, eps=1e-12)
    params, _ = drawn(block)
    moved = {**params, "weight": 3 * params["weight"] + 5}
    x = image(2, 3, 5, 5)
    torch.testing.assert_close(block(moved, x), block(params, x))


@pytest.mark.parametrize("name", GAMMA)
def test_gamma_makes_the_variance_of_each_activation_one(name: str) -> None:
    x = torch.randn(1_000_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(ScaledActivation(name, GAMMA[name])({}, x).var()) == pytest.approx(1.0, rel=0.01)


def test_preactivation_is_shared_where_the_shape_changes() -> None:
    names = tree.names(specification(preact_basic(4, 6))[0])
    assert [name for name in names if name.startswith("norm1")] == ["norm1.weight", "norm1.bias"]
    assert "residual.shortcut.conv.weight" in names
    assert all(name.startswith("branch.") for name in tree.names(specification(preact_basic(4, 4))[0]))


def test_pyramid_blocks_have_no_parameters_on_their_shortcut() -> None:
    assert all(name.startswith("branch.") for name in tree.names(specification(pyramid_block(4, 6, 2))[0]))


def test_shake_takes_one_share_forwards_and_another_backwards() -> None:
    noise = {"forward": torch.tensor([0.25, 1.0]), "backward": torch.tensor([0.5, 0.0])}

    def mixed(x: Tensor) -> Tensor:
        return Shake().apply({}, x, {}, {}, True, noise)[0]

    x = torch.tensor([[4.0, 8.0], [4.0, 8.0]])
    assert mixed(x).tolist() == [[7.0], [4.0]]
    by = torch.func.grad(lambda x: mixed(x).sum())(x)
    assert by.tolist() == [[0.5, 0.5], [0.0, 1.0]]


def test_a_fractal_join_always_keeps_a_column() -> None:
    masks = FractalJoin(3, 0.9).noise((4000, 3, 2), torch.Generator().manual_seed(0))["mask"]
    assert float(masks.sum(1).min()) == 1
    alone = masks[masks.sum(1) == 1].mean(0)
    torch.testing.assert_close(alone, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    x = image(4, 3, 2)
    given = {"mask": torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]])}
    y, _ = FractalJoin(3, 0.5).apply({}, x, {}, {}, True, given)
    torch.testing.assert_close(y, torch.stack([x[0, 0], x[1, 1:].mean(0), x[2].mean(0), x[3, 2]]))


def test_a_fractal_has_twice_the_depth_with_each_column() -> None:
    names = {name.rpartition(".conv.")[0] for name in tree.names(specification(Fractal(3, 3, columns=3))[0])}
    assert {"column0_3", "column1_1", "column2_0"} <= names
    assert len(names - {""}) == 7


def test_tags_name_gates_branches_and_streams() -> None:
    block = bottleneck(8, 8, squeeze=2)
    params, state = drawn(block)
    _, seen = pure.capture(block)(params, image(2, 8, 5, 5), state)
    assert list(seen) == ["branch.se.gate", "branch", "stream"]
    gate = seen["branch.se.gate"]
    assert gate.shape == (2, 8, 1, 1)
    assert 0 <= float(gate.min()) <= float(gate.max()) <= 1


@pytest.mark.parametrize("channels", [16, 24, 64, 100, 256, 2048])
def test_widths_round_as_timm_does(channels: int) -> None:
    from timm.layers import make_divisible

    for factor in (0.1, 0.25, 1 / 16, 1.3):
        assert divisible(channels * factor) == make_divisible(channels * factor)
        assert divisible(channels * factor, keep=0.0) == make_divisible(channels * factor, round_limit=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bottleneck(8, 8, stride_in="2x2"), "3x3, 1x1"),
        (lambda: bottleneck(8, 8, hidden=3, groups=2), "divisor"),
        (lambda: preact_bottleneck(8, 16, project=False), "project=False"),
        (lambda: MultiScale(2, 1), "at least 2"),
        (lambda: MultiScale(2, 4, stride=2), "restarts=True"),
        (lambda: SqueezeExcite(0), "at least 1"),
        (lambda: Fractal(3, 3, columns=0), "at least 1"),
        (lambda: Fractal(3, 3, columns=2, rate=1.0), r"\[0, 1\)"),
        (lambda: SqueezeExcite(4, gate="sigmoidal"), "sigmoid"),
        (lambda: ScaledStdConv2d(3, 4, 3, eps=0.0), "positive"),
        (lambda: ScaledActivation("rleu", 1.0), "relu"),
        (lambda: norm_free_block(8, 8, activation="hardswish"), "expected one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_say_what_is_expected(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ArgumentError, match=message):
        make()


def test_wrong_inputs_say_what_is_expected() -> None:
    squeeze = SqueezeExcite(4, 2)
    with pytest.raises(RankError, match=r"unsqueeze"):
        squeeze(drawn(squeeze)[0], image(4, 5, 5))
    block = res2net_block(8, 8, width=2)
    params, state = drawn(block)
    with pytest.raises(ShapeError, match="conv1"):
        block(params, image(1, 6, 5, 5), state)
    with pytest.raises(ShapeError, match="6 channels"):
        MultiScale(2, 3)(*(part[0] for part in [drawn(MultiScale(2, 3))]), image(1, 4, 5, 5), {})
    with pytest.raises(ShapeError, match="two halves"):
        Shake()({}, image(1, 3, 2, 2))
    with pytest.raises(ShapeError, match="2, …"):
        FractalJoin(2)({}, image(1, 3, 2, 2))


def test_wrong_noise_and_trees_say_what_is_expected() -> None:
    with pytest.raises(NoiseError, match=r"block\.noise"):
        Shake().apply({}, image(2, 4), {}, {}, True, None)
    with pytest.raises(NoiseError, match="draw it for this one"):
        Shake().apply({}, image(2, 4), {}, {}, True, Shake().noise((3, 4), torch.Generator()))
    join = FractalJoin(2, 0.5)
    with pytest.raises(NoiseError, match=r"block\.noise"):
        join.apply({}, image(2, 2, 4), {}, {}, True, None)
    with pytest.raises(NoiseError, match="draw it for this one"):
        join.apply({}, image(2, 2, 4), {}, {}, True, join.noise((3, 2, 4), torch.Generator()))
    block = ScaledStdConv2d(3, 4, 3)
    params, _ = drawn(block)
    with pytest.raises(TreeError, match="gain"):
        block({name: leaf for name, leaf in params.items() if name != "gain"}, image(1, 3, 5, 5))
    with pytest.raises(TreeError, match="gain"):
        block({**params, "gain": torch.ones(4, dtype=torch.float64)}, image(1, 3, 5, 5))
