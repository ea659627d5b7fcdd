"""What papers promise of a placement at the start: DeepNorm's constants and bounded update, growth of the stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch.func import grad, jvp

import pure
from pure import tree
from pure.block import Block
from pure.compose import Sequential
from pure.compose.initialize import Initialize
from pure.errors import ArgumentError
from pure.initializers import Constant, XavierNormal
from pure.layers import Linear
from pure.nets.transformers.layer import transformer_layer
from pure.skips.scaled.norm_placement import deep_norm_constants, deep_norm_encoder_decoder

FEATURES, HEADS, SEEDS = 16, 2, range(4)


@pytest.mark.parametrize("layers", [1, 6, 12, 100, 1000])
def test_constants_are_the_paper_s(layers: int) -> None:
    alpha, beta = deep_norm_constants(layers)
    assert alpha**4 == pytest.approx(2 * layers)
    assert beta**-4 == pytest.approx(8 * layers)
    assert 2 * layers * (beta**2 + beta**2) / alpha**2 == pytest.approx(1), "the bound on a step's change, any depth"


@pytest.mark.parametrize(("encoder", "decoder"), [(6, 6), (18, 18), (100, 100), (12, 3)])
def test_constants_of_encoder_and_decoder_are_the_paper_s(encoder: int, decoder: int) -> None:
    (alpha, beta), (alpha_decoder, beta_decoder) = deep_norm_encoder_decoder(encoder, decoder)
    assert (alpha / 0.81) ** 16 == pytest.approx(encoder**4 * decoder)
    assert (beta / 0.87) ** -16 == pytest.approx(encoder**4 * decoder)
    assert alpha_decoder**4 == pytest.approx(3 * decoder)
    assert beta_decoder**-4 == pytest.approx(12 * decoder)
    assert decoder * 3 * (2 * beta_decoder**2) / alpha_decoder**2 == pytest.approx(1), "three branches a layer"


def test_no_layers_are_refused() -> None:
    with pytest.raises(ArgumentError, match="at least 1"):
        deep_norm_constants(0)
    with pytest.raises(ArgumentError, match="at least 1"):
        deep_norm_encoder_decoder(0, 3)


def test_beta_scales_feed_forward_value_and_output_only() -> None:
    features, layers = 128, 50
    block = transformer_layer(features, 4, placement="deep", layers=layers, mlp="relu")
    flat = tree.flatten(block.init(torch.Generator().manual_seed(0))[0])
    beta = deep_norm_constants(layers).beta
    found = {name.split(".")[-2]: leaf for name, leaf in flat.items() if ".f." in name and leaf.ndim == 2}
    gains = {"q": 1.0, "k": 1.0, "v": beta, "out": beta, "fc1": beta, "fc2": beta}
    assert found.keys() == gains.keys()
    for name, gain in gains.items():
        expected = gain * math.sqrt(2 / sum(found[name].shape))
        assert float(found[name].std()) == pytest.approx(expected, rel=0.03), name


def stack(placement: str, depth: int) -> Block:
    """Return `depth` layers; all but DeepNorm's start with Xavier's rule of gain 1."""
    options: dict[str, Any] = {"layers": depth} if placement == "deep" else {"weight_init": XavierNormal()}
    layer = transformer_layer(FEATURES, HEADS, mlp="relu", placement=placement, **options)  # type: ignore[arg-type]
    return Sequential(*[layer] * depth)


def drawn(block: Block, seed: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    params, _ = block.init(generator, torch.float64)
    x, weights = torch.randn(2, 4, 6, FEATURES, generator=generator, dtype=torch.float64)
    return params, x, weights


def change(placement: str, depth: int, seed: int) -> float:
    """Return how fast the output changes per unit of learning rate, when all matrices of the branches take a step."""
    block = stack(placement, depth)
    params, x, weights = drawn(block, seed)
    gradient: Callable[[Any], Any] = grad(lambda p: (block(p, x) * weights).mean())
    step = {
        name: -leaf if ".f." in name and leaf.ndim == 2 else torch.zeros_like(leaf)
        for name, leaf in tree.flatten(gradient(params)).items()
    }
    moved = jvp(lambda p: block(p, x), (params,), (tree.unflatten(step),))[1]
    return float(moved.square().mean().sqrt())


@lru_cache
def typical(placement: str, depth: int) -> float:
    """Return the geometric mean over seeds."""
    return math.exp(sum(math.log(change(placement, depth, seed)) for seed in SEEDS) / len(SEEDS))


def test_an_update_stays_small_with_deep_norm_and_grows_with_post_norm() -> None:
    growth = {}
    for placement in ("deep", "post"):
        growth[placement] = typical(placement, 32) / typical(placement, 8)
    # Measured: 1.4 for DeepNorm, 4.8 for post-norm.
    assert growth["deep"] < 2
    assert growth["post"] > 3
    assert typical("deep", 32) < 0.2 < 1 < typical("post", 8)


def sizes(placement: str, depth: int) -> tuple[list[float], list[float]]:
    """Return the root mean squares of the stream after each layer and of every branch."""
    block = stack(placement, depth)
    params, x, _ = drawn(block, 0)
    streams = []
    value = x
    for name, layer in block.children().items():
        value = layer(params[name], value)
        streams.append(float(value.square().mean().sqrt()))
    _, seen = pure.capture(block)(params, x)
    return streams, [float(leaf.square().mean().sqrt()) for name, leaf in seen.items() if name.endswith("branch")]


def test_the_stream_grows_with_the_root_of_depth_before_the_norm_and_not_behind_it() -> None:
    for placement in ("post", "deep"):
        streams, _ = sizes(placement, 32)
        assert all(size == pytest.approx(1, abs=1e-4) for size in streams)
    for placement in ("pre", "sandwich"):
        streams, _ = sizes(placement, 64)
        assert 3 < (streams[63] / streams[15]) ** 2 < 7, "the mean square grows in proportion to depth"


def test_a_sandwiched_branch_has_size_one_and_the_sum_of_them_is_predicted() -> None:
    streams, branches = sizes("sandwich", 32)
    assert len(branches) == 64
    assert all(size == pytest.approx(1, abs=1e-2) for size in branches)
    assert streams[-1] ** 2 == pytest.approx(1 + 64, rel=0.3), "as if the branches were uncorrelated"


def test_a_layer_scaled_block_is_nearly_the_identity_at_first() -> None:
    block = transformer_layer(FEATURES, HEADS, layer_scale=1e-5)
    params, x, _ = drawn(block, 0)
    assert float((block(params, x) - x).norm() / x.norm()) < 1e-4


def test_wrong_combinations_are_refused() -> None:
    for options in (
        {"placement": "deep"},
        {"layers": 3},
        {"placement": "deep", "layers": 3, "fused": True},
        {"scale": 0.5, "layer_scale": 0.1},
        {"placement": "before"},
        {"norm": "batch"},
        {"mlp": "swish"},
    ):
        with pytest.raises(ArgumentError):
            transformer_layer(8, 2, **options)  # type: ignore[arg-type]


def test_initial_values_by_name() -> None:
    net = Sequential(Linear(2, 3), Linear(3, 2))
    params, _ = Initialize(net, {"0.weight": Constant(2.0), "*.bias": Constant(1.0)}).init(torch.Generator())
    same, _ = net.init(torch.Generator())
    assert bool((params["0"]["weight"] == 2).all())
    assert bool((params["0"]["bias"] == 1).all())
    assert params["1"]["weight"].shape == same["1"]["weight"].shape
    with pytest.raises(ArgumentError, match="fits no leaf"):
        Initialize(net, {"2.weight": Constant()}).init(torch.Generator())
    with pytest.raises(ArgumentError, match="earlier pattern"):
        Initialize(net, {"*": Constant(), "0.*": Constant()}).init(torch.Generator())
