"""Published initial values do what their papers say, shown on numbers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import tree
from pure.block import Block
from pure.catalogue.parts import conv, mlp
from pure.compose import Sequential
from pure.initializers import Constant, Initializer, KaimingNormal, Normal
from pure.layers import Activation, BatchNorm, Conv2d, Linear
from pure.nets.convolutional.fixup import fixup_resnet110
from pure.nets.transformers.gpt2 import gpt2_block
from pure.skips.additive.residual import Residual
from pure.skips.gated.glu import GLU
from pure.skips.gated.gru_gate import GatedSkip
from pure.skips.gated.highway import Highway
from pure.skips.gated.scalar_gate import ScalarGate
from pure.skips.gated.spatial_gating import SpatialGating
from pure.skips.scaled.factors import Weighted, layer_scale, rezero, skip_init
from pure.skips.scaled.fixup import FixupNormal, fixup_basic, fixup_bottleneck

DOUBLE = torch.float64
ZERO = Constant(0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=DOUBLE)


def started(block: Block, x: Tensor, *, training: bool = False) -> Tensor:
    """Return the output of freshly initialised parameters."""
    params, state = block.init(seeded(), DOUBLE)
    return block.apply(params, x, state, {}, training, None)[0]


def relative(y: Tensor, x: Tensor) -> float:
    """Return ‖y − x‖ / ‖x‖."""
    return float((y - x).norm() / x.norm())


def zero_gamma() -> Block:
    branch = conv(4, 4).children()
    return Residual(Sequential(**{**branch, "norm2": BatchNorm(4, weight_init=ZERO)}), activation="relu")


IDENTITIES: dict[str, tuple[Callable[[], Block], tuple[int, ...]]] = {
    "rezero": (lambda: rezero(mlp()), (64, 6)),
    "skip_init": (lambda: skip_init(conv(4, 4)), (4, 4, 7, 7)),
    "zero_last_layer": (
        lambda: Residual(Sequential(fc1=Linear(6, 8), act=Activation("relu"), fc2=Linear(8, 6, True, ZERO, ZERO))),
        (64, 6),
    ),
    "zero_down_projection": (lambda: Residual(GLU(6, 8, bias=False, down_init=ZERO)), (64, 6)),
    "tanh_gate": (lambda: ScalarGate(mlp(), "tanh", 0.0), (64, 6)),
}
IDENTITIES_OF_POSITIVE_INPUT: dict[str, tuple[Callable[[], Block], tuple[int, ...]]] = {
    "zero_gamma": (zero_gamma, (4, 4, 7, 7)),
    "fixup_basic": (lambda: fixup_basic(4, 4, depth=9), (4, 4, 7, 7)),
    "fixup_bottleneck": (lambda: fixup_bottleneck(8, 2, 8, depth=16), (4, 8, 7, 7)),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", IDENTITIES)
def test_the_block_is_exactly_the_identity_for_any_input(name: str, training: bool) -> None:
    make, shape = IDENTITIES[name]
    x = 10 * normal(*shape)
    assert torch.equal(started(make(), x, training=training), x)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", IDENTITIES_OF_POSITIVE_INPUT)
def test_the_block_is_exactly_the_identity_for_input_not_below_zero_and_only_there(name: str, training: bool) -> None:
    make, shape = IDENTITIES_OF_POSITIVE_INPUT[name]
    x = normal(*shape)
    assert torch.equal(started(make(), x.relu(), training=training), x.relu())
    assert torch.equal(started(make(), x, training=training), x.relu()), "the final relu cuts what is below zero"


@pytest.mark.parametrize("name", IDENTITIES | IDENTITIES_OF_POSITIVE_INPUT)
def test_the_identity_can_be_learnt_away_from(name: str) -> None:
    make, shape = (IDENTITIES | IDENTITIES_OF_POSITIVE_INPUT)[name]
    block, x = make(), normal(*shape).relu() + 0.1
    params, state = block.init(seeded(), DOUBLE)

    def loss(params: Any) -> Tensor:
        return (block.apply(params, x, state, {}, True, None)[0] * normal(*x.shape, seed=3)).sum()

    grads = tree.flatten(torch.func.grad(loss)(params))
    assert max(float(leaf.abs().max()) for leaf in grads.values()) > 1e-3, "some parameter of the branch moves"


@pytest.mark.parametrize("depth", [1, 9, 54])
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_fixup_scales_he_by_the_depth(depth: int, layers: int) -> None:
    shape = (256, 64, 3, 3)
    weight = FixupNormal(depth, layers)(shape, seeded(), DOUBLE)
    expected = math.sqrt(2 / (256 * 9)) * depth ** (-1 / (2 * layers - 2))
    sampling = 4 / math.sqrt(2 * weight.numel())
    assert float(weight.std()) == pytest.approx(expected, rel=sampling)
    assert float(weight.mean()) == pytest.approx(0.0, abs=4 * expected / math.sqrt(weight.numel()))


@pytest.mark.parametrize(
    ("block", "firsts", "layers"), [("basic", ("conv1",), 2), ("bottleneck", ("conv1", "conv2"), 3)]
)
def test_a_fixup_block_starts_as_published(block: str, firsts: tuple[str, ...], layers: int) -> None:
    depth = 16
    made = fixup_basic(64, 64, depth=depth) if block == "basic" else fixup_bottleneck(128, 64, 128, depth=depth)
    params = tree.flatten(made.init(seeded(), DOUBLE)[0])
    for name in firsts:
        weight = params.pop(f"{name}.weight")
        he = math.sqrt(2 / (weight.shape[0] * math.prod(weight.shape[2:])))
        assert float(weight.std()) == pytest.approx(he * depth ** (-1 / (2 * layers - 2)), rel=0.04)
    assert torch.equal(params.pop("scale.weight"), torch.tensor(1.0, dtype=DOUBLE))
    assert all(not leaf.any() for leaf in params.values()), "the last convolution and every bias are 0"
    assert f"conv{layers}.weight" in params


def test_a_fixup_network_of_110_layers_starts_with_a_zero_classifier_and_bounded_features() -> None:
    net = fixup_resnet110(num_classes=10)
    params, _ = net.init(seeded(), DOUBLE)
    images = normal(2, 3, 16, 16)
    assert not net(params, images).any()
    assert not params["fc"]["weight"].any()
    stem = torch.relu(torch.nn.functional.conv2d(images, params["conv1"]["weight"], padding=1))
    params["fc"] = {"weight": torch.eye(10, 64, dtype=DOUBLE), "bias": torch.zeros(10, dtype=DOUBLE)}
    places = stem[:, :10, ::2, ::2][:, :, ::2, ::2].mean((2, 3))
    torch.testing.assert_close(net(params, images), places), "54 blocks carry the stem's features unchanged"


@pytest.mark.parametrize("bias", [-1.0, -2.0, -3.0])
def test_a_highway_layer_carries_by_its_gate_bias(bias: float) -> None:
    features = 256
    x = normal(512, features)
    block = Highway.dense(features, gate_bias=bias)
    params, _ = block.init(seeded(), DOUBLE)
    gate = torch.sigmoid(x @ params["gate"]["weight"].T + params["gate"]["bias"])
    logits = bias + normal(100_000, seed=5) / math.sqrt(3)  # the weights have variance 1 / (3 features)
    assert float(gate.mean()) == pytest.approx(float(torch.sigmoid(logits).mean()), rel=0.02)
    assert float(gate.mean()) == pytest.approx(1 / (1 + math.exp(-bias)), abs=0.025)
    h = torch.relu(x @ params["transform"]["linear"]["weight"].T + params["transform"]["linear"]["bias"])
    expected = gate.square().mean() * (h - x).square().mean()  # the gate hardly depends on h − x
    assert relative(block(params, x), x) == pytest.approx(float((expected / x.square().mean()).sqrt()), rel=0.03)
    assert relative(block(params, x), x) < {-1.0: 0.4, -2.0: 0.2, -3.0: 0.1}[bias]


def test_without_its_bias_a_highway_layer_moves_half_of_the_stream() -> None:
    x = normal(512, 256)
    assert relative(started(Highway.dense(256, gate_bias=0.0), x), x) > 3 * relative(started(Highway.dense(256), x), x)


@pytest.mark.parametrize("value", [1e-4, 1e-6])
def test_layer_scale_moves_the_stream_by_its_value(value: float) -> None:
    x = normal(64, 6)
    block = layer_scale(mlp(), 6, value)
    params, _ = block.init(seeded(), DOUBLE)
    f = mlp()(params["branch"]["f"], x)
    assert relative(block(params, x), x) == pytest.approx(value * float(f.norm() / x.norm()), rel=1e-6)
    assert 0.1 < float(f.norm() / x.norm()) < 1


def growth(weight_init: Initializer, depth: int) -> float:
    """Return the variance that `depth` branches W relu(x₀) add up to, each with its own W."""
    x = normal(64, 256).relu()
    draws = seeded(2)  # one generator for all, and not the one of x: equal seeds would correlate them
    total = sum(x @ weight_init((256, 256), draws, DOUBLE, "cpu").T for _ in range(depth))
    assert isinstance(total, Tensor)
    return float(total.var())


def test_gpt2_scales_the_output_projections_by_the_number_of_branches() -> None:
    depth = 12
    params = tree.flatten(gpt2_block(128, 4, depth=depth).init(seeded(), DOUBLE)[0])
    deviations = {name: float(leaf.std()) for name, leaf in params.items() if leaf.ndim == 2}
    small = {name: std for name, std in deviations.items() if std < 0.01}
    assert len(small) == 2, "attention's and the MLP's output projection"
    assert list(small.values()) == pytest.approx([0.02 / math.sqrt(2 * depth)] * 2, rel=0.02)
    assert [std for name, std in deviations.items() if name not in small] == pytest.approx([0.02] * 2, rel=0.02)
    scaled = [growth(Normal(0.0, 0.02 / math.sqrt(2 * n)), 2 * n) for n in (2, 32)]
    plain = [growth(Normal(0.0, 0.02), 2 * n) for n in (2, 32)]
    assert scaled[1] / scaled[0] == pytest.approx(1.0, rel=0.1), "the sum's variance does not grow with depth"
    assert plain[1] / plain[0] == pytest.approx(16.0, rel=0.1)


def test_gmlp_starts_near_the_identity_gate() -> None:
    x = normal(32, 16, 24)
    u = x[..., :12]
    assert relative(started(SpatialGating(24, 16), x), u) < 1e-5
    far = SpatialGating(24, 16, std=0.1)
    assert relative(started(far, x), u) > 0.1


@pytest.mark.parametrize("kind", ["gru", "output", "highway", "sigtanh"])
def test_a_positive_gate_bias_of_gtrxl_carries_the_stream(kind: Any) -> None:
    x = normal(512, 64)
    branch = Sequential(fc=Linear(64, 64), act=Activation("relu"))
    distances = [relative(started(GatedSkip(branch, 64, kind, bias), x), x) for bias in (0.0, 2.0, 6.0)]
    assert distances[0] > 2.5 * distances[1] > 25 * distances[2]
    assert distances[1] < 0.25


def test_depth_weights_keep_the_variance_of_the_stream() -> None:
    layer = Linear(256, 256, bias=False, weight_init=KaimingNormal(nonlinearity="linear"))
    x = normal(256, 256)
    weights = Weighted.by_depth(16)
    kept, summed, draws = x, x, seeded(2)
    for index in range(16):
        params, _ = layer.init(draws, DOUBLE)
        carry, scale = weights["carry"][index], weights["scale"][index]
        kept = Weighted(layer, carry, scale)({"branch": params}, kept)
        summed = Residual(layer)({"branch": params}, summed)
    assert float(kept.var()) == pytest.approx(1.0, rel=0.1)
    assert float(summed.var()) > 2.0**15


def test_norm_free_betas_keep_the_variance_of_each_branch_input() -> None:
    alpha = 0.5
    layer = Linear(512, 512, bias=False, weight_init=KaimingNormal(nonlinearity="linear"))
    x, draws = normal(128, 512), seeded(2)
    for beta in Weighted.norm_free(12, alpha):
        assert float((beta * x).var()) == pytest.approx(1.0, rel=0.1)
        params, _ = layer.init(draws, DOUBLE)
        x = Weighted(layer, scale=alpha, inner=beta)({"branch": params}, x)
    assert float(x.var()) == pytest.approx(1 + 12 * alpha**2, rel=0.15)


def test_conv_with_zero_gamma_has_a_plain_he_start_elsewhere() -> None:
    params, _ = zero_gamma().init(seeded(), DOUBLE)
    assert not params["branch"]["norm2"]["weight"].any()
    assert bool((params["branch"]["norm1"]["weight"] == 1).all())
    rule = KaimingNormal(mode="fan_out")
    weight = Conv2d(64, 128, 3, weight_init=rule).init(seeded(), DOUBLE)[0]["weight"]
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
