"""Same noise, same value: every module class of torch.nn, timm.layers and torchvision.ops that draws in training."""

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import timm.layers
import torch
import torchvision.ops
from torch import Tensor, nn
from torch.func import grad, vmap

import pure
from pure import interop, tree
from pure.errors import NoiseError

LIBRARIES: tuple[ModuleType, ...] = (nn, timm.layers, torchvision.ops)
DRAWING = re.compile(
    r"dropout|rrelu|drop_path|bernoulli|\brand|uniform_|normal_|randn|randint|randperm|multinomial|stochastic_depth|"
    r"drop_block|fractional_max"
)
"""What the source of a method that draws mentions."""

VECTORS, SEQUENCES, IMAGES, VOLUMES = (4, 8), (4, 6, 8), (4, 8, 8, 8), (2, 8, 4, 4, 4)
SMALL_IMAGES = (4, 8, 7, 7)
HALF = {"drop": 0.5}
RATE = {"drop_rate": 0.5}
BOTH = {"attn_drop": 0.5, "proj_drop": 0.5}
LAYER = {"drop_layer": partial(nn.Dropout, 0.5)}

Case = tuple[dict[str, Any], tuple[int, ...]]
CASES: dict[str, dict[str, Case]] = {
    "torch.nn": {
        "AlphaDropout": ({}, VECTORS),
        "Dropout": ({}, VECTORS),
        "Dropout1d": ({}, SEQUENCES),
        "Dropout2d": ({}, IMAGES),
        "Dropout3d": ({}, VOLUMES),
        "FeatureAlphaDropout": ({}, IMAGES),
        "FractionalMaxPool2d": ({"kernel_size": 2, "output_ratio": 0.7}, IMAGES),
        "FractionalMaxPool3d": ({"kernel_size": 2, "output_ratio": 0.6}, (2, 8, 5, 5, 5)),
        **dict.fromkeys(
            ("GRU", "LSTM", "RNN"),
            ({"input_size": 8, "hidden_size": 5, "num_layers": 2, "dropout": 0.5, "batch_first": True}, SEQUENCES),
        ),
        "MultiheadAttention": ({"embed_dim": 8, "num_heads": 2, "dropout": 0.5, "batch_first": True}, SEQUENCES),
        "RReLU": ({}, VECTORS),
        "Transformer": (
            {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "num_encoder_layers": 1, "num_decoder_layers": 1}
            | {"dropout": 0.5, "batch_first": True},
            SEQUENCES,
        ),
        **dict.fromkeys(
            ("TransformerDecoderLayer", "TransformerEncoderLayer"),
            ({"d_model": 8, "nhead": 2, "dim_feedforward": 16, "dropout": 0.5, "batch_first": True}, SEQUENCES),
        ),
    },
    "timm.layers": {
        "Attention": ({"dim": 8, "num_heads": 2, **BOTH}, SEQUENCES),
        "Attention2d": ({"dim": 8, "num_heads": 2, **BOTH}, IMAGES),
        "AttentionPool2d": ({"in_features": 8, "feat_size": 8, "head_dim": 4, **RATE}, IMAGES),
        "AttentionPoolLatent": ({"in_features": 8, "num_heads": 2, **HALF}, SEQUENCES),
        "AttentionRope": ({"dim": 8, "num_heads": 2, **BOTH}, SEQUENCES),
        "BatNonLocalAttn": ({"in_channels": 8, "block_size": 4, **RATE}, IMAGES),
        "ClNormMlpClassifierHead": ({"in_features": 8, "num_classes": 3, "hidden_size": 6, **RATE}, IMAGES),
        "ClassifierHead": ({"in_features": 8, "num_classes": 3, **RATE}, IMAGES),
        **dict.fromkeys(
            ("ConvBnAct", "ConvNormAct", "ConvNormActAa", "SeparableConvNormAct"),
            ({"in_channels": 8, "out_channels": 8, **LAYER}, IMAGES),
        ),
        "ConvMlp": ({"in_features": 8, **HALF}, IMAGES),
        "DiffAttention": ({"dim": 8, "num_heads": 2, **BOTH}, SEQUENCES),
        "DropBlock2d": ({"drop_prob": 0.5, "block_size": 3}, IMAGES),
        "DropPath": ({"drop_prob": 0.5}, SEQUENCES),
        "GatedMlp": ({"in_features": 8, **HALF}, SEQUENCES),
        "GlobalResponseNormMlp": ({"in_features": 8, **HALF}, (4, 4, 4, 8)),
        **dict.fromkeys(("GluMlp", "Mlp", "SwiGLU"), ({"in_features": 8, "hidden_features": 12, **HALF}, SEQUENCES)),
        **dict.fromkeys(("BatchNormAct2d", "FrozenBatchNormAct2d"), ({"num_features": 8, **LAYER}, IMAGES)),
        **dict.fromkeys(
            ("GroupNorm1Act", "LayerNormAct2d", "LayerNormAct2dFp32", "RmsNormAct2d", "RmsNormAct2dFp32"),
            ({"num_channels": 8, **LAYER}, IMAGES),
        ),
        "GroupNormAct": ({"num_channels": 8, "num_groups": 2, **LAYER}, IMAGES),
        **dict.fromkeys(("LayerNormAct", "LayerNormActFp32"), ({"normalization_shape": 8, **LAYER}, SEQUENCES)),
        **dict.fromkeys(("RmsNormAct", "RmsNormActFp32"), ({"num_channels": 8, **LAYER}, SEQUENCES)),
        "MultiQueryAttention2d": ({"dim": 8, "num_heads": 2, **BOTH}, IMAGES),
        "MultiQueryAttentionV2": ({"dim": 8, "num_heads": 2, "key_dim": 4, "value_dim": 4, **BOTH}, IMAGES),
        "NormMlpClassifierHead": ({"in_features": 8, "num_classes": 3, "hidden_size": 6, **RATE}, IMAGES),
        **dict.fromkeys(("PatchDropout", "PatchDropoutWithIndices"), ({}, SEQUENCES)),
        "RotAttentionPool2d": ({"in_features": 8, "ref_feat_size": 8, "head_dim": 4, **RATE}, IMAGES),
        **dict.fromkeys(("SelectiveKernel", "SplitAttn"), ({"in_channels": 8, **LAYER}, IMAGES)),
    },
    "torchvision.ops": {
        "DropBlock2d": ({"p": 0.3, "block_size": 3}, IMAGES),
        "DropBlock3d": ({"p": 0.3, "block_size": 3}, VOLUMES),
        "MLP": ({"in_channels": 8, "hidden_channels": [8, 4], "dropout": 0.5}, VECTORS),
        "StochasticDepth": ({"p": 0.5, "mode": "row"}, SEQUENCES),
    },
}
"""{library: {class: (constructor's arguments, the input's shape)}}."""

NOT_BUILT = {"RNNBase": "has no forward", "InplaceAbn": "needs a package that is not on PyPI"}
"""{class: why it is not in the table}."""


def methods(kind: type[nn.Module]) -> Iterator[Callable[..., Any]]:
    """Yield the methods of a class that a call may run."""
    for base in kind.__mro__:
        if base in (nn.Module, object):
            return
        for name, method in vars(base).items():
            if inspect.isfunction(method) and not re.search("init|reset|extra_repr", name):
                yield method


def may_draw(kind: type[nn.Module]) -> bool:
    """Tell by a constructor's arguments and by the methods' source whether a module may draw."""
    if any("drop" in name for name in inspect.signature(kind.__init__).parameters):
        return True
    return any(DRAWING.search(inspect.getsource(method)) for method in methods(kind))


def drawing_classes(library: ModuleType) -> dict[str, type[nn.Module]]:
    public = {name: value for name, value in vars(library).items() if not name.startswith("_")}
    kinds = {name: k for name, k in public.items() if isinstance(k, type) and issubclass(k, nn.Module)}
    return {name: kind for name, kind in kinds.items() if kind is not nn.Module and may_draw(kind)}


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
def test_every_class_that_may_draw_is_in_the_table(library: ModuleType) -> None:
    assert set(drawing_classes(library)) - NOT_BUILT.keys() == set(CASES[library.__name__])


each_class = pytest.mark.parametrize(
    ("library", "name"), [(library.__name__, name) for library in LIBRARIES for name in CASES[library.__name__]]
)


def made(library: str, name: str) -> tuple[nn.Module, Any]:
    """Build a module in training, with gains and biases that are not 1 and 0, and an input."""
    torch.manual_seed(0)
    arguments, shape = CASES[library][name]
    (module,) = (getattr(each, name)(**arguments) for each in LIBRARIES if each.__name__ == library)
    with torch.no_grad():
        for leaf in module.parameters():
            leaf.add_(0.1 * torch.randn_like(leaf))
    x = torch.randn(shape) + 0.5
    several = {"MultiheadAttention": 3, "Transformer": 2, "TransformerDecoderLayer": 2}.get(name, 1)
    return module.train(), x if several == 1 else (x,) * several


def noise_for(block: interop.ModuleBlock, params: Any, x: Any, state: Any, seed: int) -> Any:
    if not block.stochastic:  # nothing shows it but a call
        with pytest.raises(NoiseError, match=r"block\.noise"):
            block.apply(params, x, state, {}, True)
    first = x[0] if isinstance(x, tuple) else x
    return block.noise(tuple(first.shape), torch.Generator().manual_seed(seed))


def floats(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree.leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def equal(found: Any, expected: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # vmap over fractional pooling loops
@each_class
def test_the_same_noise_gives_the_same_value_and_gradient(library: str, name: str) -> None:
    module, x = made(library, name)
    block, params, state = interop.from_module(module)
    noises = [noise_for(block, params, x, state, seed) for seed in range(4)]
    before = torch.get_rng_state()

    def run(params: Any, x: Any, noise: Any) -> list[Tensor]:
        return floats(block.apply(params, x, state, {}, True, noise)[0])

    def loss(params: Any, x: Any, noise: Any) -> Tensor:
        return torch.stack([leaf.tanh().sum() for leaf in run(params, x, noise)]).sum()

    values = [run(params, x, noise) for noise in noises]
    assert equal(run(params, x, noises[0]), values[0])
    gradients = [grad(loss, argnums=(0, 1))(params, x, noises[0]) for _ in range(2)]
    assert equal(*gradients)
    plain = pure.grad(loss, argnums=(0, 1))(params, x, noises[0])
    for found, expected in zip(tree.leaves(gradients[0]), tree.leaves(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not all(equal(value, values[0]) for value in values[1:]), "other noise gives another value"
    mapped = vmap(lambda noise: run(params, x, noise))(pure.stack(noises))
    for index, value in enumerate(values):
        for found, expected in zip(mapped, value, strict=True):
            torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before), "PyTorch's generator was not drawn from"


COUNT = 300
DEVIATIONS = 6.5
"""Largest distance of two means in standard errors; 1e-10 for one normal number, and there are up to 8,000."""


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # vmap over fractional pooling loops
@each_class
def test_the_mean_over_seeds_is_that_of_the_module(library: str, name: str) -> None:
    module, x = made(library, name)
    block, params, state = interop.from_module(module)
    noises = pure.stack([noise_for(block, params, x, state, seed) for seed in range(COUNT)])

    def run(noise: Any) -> Tensor:
        return floats(block.apply(params, x, state, {}, True, noise)[0])[0]

    with torch.no_grad():
        ours = vmap(run, chunk_size=50)(noises).double()
        args = x if isinstance(x, tuple) else (x,)
        theirs = torch.stack([floats(module(*args))[0] for _ in range(COUNT)]).double()
    error = ((ours.var(0) + theirs.var(0)) / COUNT).sqrt()
    assert float(error.max()) > 0
    apart = (ours.mean(0) - theirs.mean(0)).abs()
    assert bool((apart <= DEVIATIONS * error + 1e-4).all()), float((apart / error.clamp(min=1e-9)).max())
    spread = (ours.var(0).mean() / theirs.var(0).mean()).sqrt()
    assert 0.8 < float(spread) < 1.25, "the draws vary as much as the module's"
