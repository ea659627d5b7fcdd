"""Every random draw inside a module is computed from the noise: same noise, same value, whatever runs it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers import DropPath
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

import export
import pure
from pure import interop, tree
from pure.errors import NoiseError, UnsupportedError
from pure.interop.replaced.counter_noise import CounterNoise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TOKENS = torch.randn(4, 5, 8, generator=seeded())
IMAGE = torch.randn(2, 3, 32, 32, generator=seeded())


class Calls(nn.Module):
    """Calls a function with its one parameter in the way."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x * self.weight)


class Functional(nn.Module):
    """Drops by a function; nothing but its code shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5, self.training)


class Attention(nn.Module):
    """Attention with dropped weights, which it returns or not."""

    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
        self.weights = weights

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x, need_weights=self.weights)[0]


def recurrent(kind: type[nn.Module], **options: Any) -> nn.Module:
    return kind(8, 4, 2, dropout=0.5, batch_first=True, **options)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "Dropout": lambda: nn.Dropout(0.3),
    "Dropout in place": lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3, inplace=True)),
    "Dropout1d": lambda: nn.Dropout1d(0.3),
    "AlphaDropout": lambda: nn.AlphaDropout(0.3),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.3),
    "RReLU": lambda: nn.RReLU(),
    "F.dropout": Functional,
    "attention": lambda: Attention(weights=False),
    "attention with weights": lambda: Attention(weights=True),
    "encoder layer": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True),
    "LSTM": lambda: recurrent(nn.LSTM),
    "LSTM both ways": lambda: recurrent(nn.LSTM, bidirectional=True),
    "GRU": lambda: recurrent(nn.GRU),
    "RNN": lambda: recurrent(nn.RNN),
    "DropPath": lambda: DropPath(0.5),
    "StochasticDepth row": lambda: torchvision.ops.StochasticDepth(0.5, "row"),
    "StochasticDepth batch": lambda: torchvision.ops.StochasticDepth(0.5, "batch"),
    "DropBlock2d": lambda: nn.Sequential(nn.Unflatten(0, (4, 1)), torchvision.ops.DropBlock2d(0.3, 3)),
    "rand": lambda: Calls(lambda x: x * torch.rand(8)),
    "rand_like": lambda: Calls(lambda x: x * torch.rand_like(x)),
    "randn": lambda: Calls(lambda x: x + torch.randn(x.shape)),
    "randn_like": lambda: Calls(lambda x: x + torch.randn_like(x)),
    "randint": lambda: Calls(lambda x: x * torch.randint(1, 9, (8,))),
    "randperm": lambda: Calls(lambda x: x[..., torch.randperm(8)]),
    "normal": lambda: Calls(lambda x: x + torch.normal(0.0, 1.0, (8,))),
    "normal_": lambda: Calls(lambda x: x + torch.empty(8).normal_(1, 2)),
    "uniform_": lambda: Calls(lambda x: x + torch.empty(8).uniform_(-1, 1)),
    "bernoulli": lambda: Calls(lambda x: x * torch.bernoulli(torch.full_like(x, 0.5))),
    "bernoulli_": lambda: Calls(lambda x: x * torch.empty(8).bernoulli_(0.5)),
    "gumbel_softmax": lambda: Calls(lambda x: F.gumbel_softmax(x)),
    "normal of torch.distributions": lambda: Calls(lambda x: torch.distributions.Normal(x, 1.0).rsample()),
}
TRANSFORMED = ("Dropout", "F.dropout", "attention", "encoder layer", "DropPath", "StochasticDepth row", "randn_like")


def made(name: str) -> tuple[interop.ModuleBlock, Any, Any]:
    torch.manual_seed(0)
    return interop.from_module(MODULES[name]().train())


def noise_for(block: interop.ModuleBlock, params: Any, x: Tensor, seed: int = 0) -> Any:
    if not block.stochastic:  # nothing shows it but a call, as with a function in an attribute
        with pytest.raises(NoiseError, match=r"block\.noise"):
            block.apply(params, x, {}, {}, True)
    assert block.stochastic
    return block.noise(tuple(x.shape), seeded(seed))


@pytest.mark.parametrize("name", MODULES)
def test_the_same_noise_gives_the_same_value(name: str) -> None:
    block, params, state = made(name)
    first = noise_for(block, params, TOKENS)
    before = torch.get_rng_state()

    def run(noise: Any) -> list[Tensor]:
        return tree.leaves(block.apply(params, TOKENS, state, {}, True, noise)[0])

    once, again = run(first), run(first)
    others = [run(block.noise(TOKENS.shape, seeded(seed))) for seed in range(1, 6)]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert any(not torch.equal(once[0], other[0]) for other in others)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(NoiseError, match=r"block\.noise"):
        block.apply(params, TOKENS, state, {}, True)


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transforms_see_the_same_noise(name: str) -> None:
    block, params, state = made(name)
    noises = [noise_for(block, params, TOKENS, seed) for seed in range(2)]

    def run(params: Any, noise: Any, x: Tensor = TOKENS) -> Tensor:
        return block.apply(params, x, state, {}, True, noise)[0]

    expected = torch.stack([run(params, noise) for noise in noises])
    found = vmap(lambda noise: run(params, noise))(pure.stack(noises))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    if tree.leaves(params):
        found = vmap(run)(pure.stack([params, params]), pure.stack(noises))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    one_by_one = vmap(lambda x, seed: run(params, {"seed": seed[None]}, x[None])[0])(TOKENS, noises[0]["seed"])
    torch.testing.assert_close(one_by_one, expected[0], rtol=1e-5, atol=1e-6)
    gradient = grad(lambda x: (run(params, noises[0], x) * expected[1]).sum())(TOKENS)
    leaf = TOKENS.clone().requires_grad_()
    (run(params, noises[0], leaf) * expected[1]).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Dropout", "attention", "rand_like", "LSTM"])
def test_the_compiler_breaks_its_graph_at_draws(name: str) -> None:
    block, params, state = made(name)
    noise = noise_for(block, params, TOKENS)

    def run(params: Any, noise: Any) -> Any:
        return block.apply(params, TOKENS, state, {}, True, noise)[0]

    compiled = torch.compile(run, backend="eager")
    for seeds in (noise, block.noise(tuple(TOKENS.shape), seeded(3))):
        for found, expected in zip(tree.leaves(compiled(params, seeds)), tree.leaves(run(params, seeds)), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_file_replays_the_noise(name: str, tmp_path: Path) -> None:
    block, params, state = made(name)
    noise = noise_for(block, params, TOKENS)

    def run(params: Any, x: Tensor, noise: Any) -> Tensor:
        return block.apply(params, x, state, {}, True, noise)[0]

    path = tmp_path / "training.onnx"
    export.to_onnx(run, (params, TOKENS, noise), path)
    other = block.noise(tuple(TOKENS.shape), seeded(7))
    for each in (noise, other):
        expected = run(params, TOKENS, each)
        torch.testing.assert_close(export.load(path)(params, TOKENS, each), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Dropout", "attention", "DropPath"])
def test_a_file_with_any_batch_size_replays_the_noise(name: str, tmp_path: Path) -> None:
    block, params, state = made(name)

    def run(params: Any, x: Tensor, noise: Any) -> Tensor:
        return block.apply(params, x, state, {}, True, noise)[0]

    path = tmp_path / "training.onnx"
    batch = {0: "batch"}
    noise = noise_for(block, params, TOKENS)
    export.to_onnx(run, (params, TOKENS, noise), path, dynamic=(None, batch, {"seed": batch}))
    x = torch.randn(7, 5, 8, generator=seeded(1))
    other = block.noise(tuple(x.shape), seeded(2))
    torch.testing.assert_close(export.load(path)(params, x, other), run(params, x, other), rtol=1e-4, atol=1e-5)


def test_the_blocks_of_timm_and_torchvision_replay_their_noise() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3, drop_path_rate=0.5)
    convnext = torchvision.models.ConvNeXt(
        [torchvision.models.convnext.CNBlockConfig(8, None, 2)], stochastic_depth_prob=0.5, num_classes=3
    )
    for module in (vit, convnext):
        block, params, state = interop.from_module(module)
        assert block.stochastic
        noise = block.noise(tuple(IMAGE.shape), seeded())
        once, again = (block.apply(params, IMAGE, state, {}, True, noise)[0] for _ in range(2))
        assert torch.equal(once, again)


def test_a_module_without_draws_needs_no_noise() -> None:
    block, params, state = interop.from_module(torchvision.models.resnet18())
    assert not block.stochastic
    assert block.noise((2, 3, 32, 32), seeded()) == {}
    block.apply(params, IMAGE, state, {}, True)
    assert not block.stochastic


def test_draws_without_a_counterpart_are_refused_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    for function in (lambda x: x * torch.poisson(x.abs()), lambda x: torch.multinomial(x.abs()[0], 2)):
        block, params, _ = interop.from_module(Calls(function))
        with pytest.raises(UnsupportedError, match=r"torch\.rand"):
            block.apply(params, TOKENS, {}, {}, True, {"seed": torch.arange(4)})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_module_that_draws_in_evaluation_takes_noise_there() -> None:
    block, params, _ = interop.from_module(Calls(lambda x: F.dropout(x, 0.5)).eval())
    with pytest.raises(NoiseError, match=r"block\.noise"):
        block(params, TOKENS)
    noise = {"seed": torch.arange(4)}
    once, again = (block.apply(params, TOKENS, {}, {}, False, noise)[0] for _ in range(2))
    assert torch.equal(once, again)


def test_the_numbers_are_distributed_as_they_should() -> None:
    count = 200_000
    noise = CounterNoise(torch.randint(2**62, (4,), generator=seeded()))
    for dtype in (torch.float32, torch.float64):
        draws = [noise.uniform((4, count), dtype), noise.uniform((1, 4 * count), dtype).view(4, count)]
        for uniform in draws:
            assert 0 < float(uniform.min()) < 1e-4
            assert 1 - 1e-4 < float(uniform.max()) < 1
            cells = torch.histc(uniform.float(), 100, 0, 1)
            chi_squared = float(((cells - 4 * count / 100) ** 2 / (4 * count / 100)).sum())
            assert 50 < chi_squared < 160, "99 degrees of freedom: 1e-4 quantiles 55 and 158"
            flat = (uniform.double() - 0.5) * math.sqrt(12)
            for lag in (1, 2, 8, 64, 1024):
                assert abs(float((flat[:, lag:] * flat[:, :-lag]).mean())) < 5 / math.sqrt(4 * count)
            correlation = torch.corrcoef(flat) - torch.eye(4)
            assert float(correlation.abs().max()) < 5 / math.sqrt(count)
        between = ((draws[0] - 0.5) * (draws[1] - 0.5) * 12).mean()
        assert abs(float(between)) < 5 / math.sqrt(4 * count)
    normal = noise.normal((4, count), torch.float64)
    moments = [float((normal**power).mean()) for power in (1, 2, 3, 4)]
    for moment, expected in zip(moments, (0, 1, 0, 3), strict=True):
        assert abs(moment - expected) < 0.05


def test_dropout_keeps_the_rate_and_the_mean() -> None:
    block, params, _ = interop.from_module(nn.Dropout(0.3))
    x = torch.ones(64, 10_000)
    y, _ = block.apply(params, x, {}, {}, True, block.noise(tuple(x.shape), seeded()))
    assert abs(float((y == 0).float().mean()) - 0.3) < 0.003
    torch.testing.assert_close(y.max(), torch.tensor(1 / 0.7))


class DrawsThenWrites(nn.Module):
    """Draws before the first write to its parameters, at which the first call starts again."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rand_like(x)
        with torch.no_grad():
            self.weight.mul_(2.0)
        return x * self.weight * torch.rand_like(x)


def test_the_first_call_of_a_module_that_writes_draws_what_later_ones_draw() -> None:
    block, params, state = interop.from_module(DrawsThenWrites())
    x, noise = torch.ones(4, 3), {"seed": torch.arange(4)}
    first, second = (block.apply(params, x, state, {}, True, noise)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(params["weight"], torch.ones(3))
