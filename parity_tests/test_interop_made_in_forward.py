"""Modules whose forward makes buffers, parameters and submodules; and calls from several threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

import export
from pure.errors import NoiseError, PureExportError, UnsupportedError
from pure.interop import from_module
from pure.tags import capture


class LazyBias(nn.Module):
    """Keeps a bias for the longest input so far, as x-transformers' ALiBi does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("bias", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None or self.bias.shape[0] < x.shape[1]:
            slopes = torch.arange(x.shape[1], device=x.device)[:, None]
            self.register_buffer("bias", slopes * self.linear.weight[0], persistent=False)
        return self.linear(x) + self.bias[: x.shape[1]]


def test_a_buffer_made_from_sizes_and_parameters_is_made_by_each_call() -> None:
    module = LazyBias()
    block, params, state = from_module(module)
    assert state == {}
    for length in (4, 2, 6):
        x = torch.randn(2, length, 3)
        doubled = {"linear": {name: 2 * leaf for name, leaf in params["linear"].items()}}
        for given in (params, doubled):
            fresh = copy.deepcopy(module)
            fresh.load_state_dict({f"linear.{name}": leaf for name, leaf in given["linear"].items()})
            y, new = block.apply(given, x, state, {}, True)
            assert torch.equal(y, fresh(x))
            assert new == {}
            assert torch.equal(block(given, x, state), y)


def test_it_has_its_gradient_its_tags_and_its_file(tmp_path: Path) -> None:
    module = LazyBias()
    block, params, state = from_module(module)
    x = torch.randn(2, 4, 3)
    block_grad = grad(lambda params: block(params, x, state).square().sum())(params)
    module(x).square().sum().backward()
    torch.testing.assert_close(block_grad["linear"]["weight"], module.linear.weight.grad)
    assert list(capture(block)(params, x, state)[1]) == ["linear"]
    mapped = vmap(lambda x: block(params, x[None], state)[0])(x)
    torch.testing.assert_close(mapped, block(params, x, state))
    export.to_onnx(block, (params, x, state), tmp_path / "f.onnx")
    torch.testing.assert_close(
        export.load(tmp_path / "f.onnx", device="cpu")(params, x, state), block(params, x, state), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("warm", [False, True], ids=["first call compiled", "called before"])
def test_compiled_calls_leave_no_buffer_behind(warm: bool) -> None:
    module = LazyBias()
    block, params, state = from_module(module)
    compiled = torch.compile(lambda params, x: block(params, x, state), backend="eager")
    for length in (4, 2, 6):
        x = torch.randn(2, length, 3)
        if warm:
            block(params, x, state)
        torch.testing.assert_close(compiled(params, x), copy.deepcopy(module)(x))
        assert block.evaluating.module.bias is None


def _count(module: Any, x: Tensor) -> Tensor:
    if not hasattr(module, "calls"):
        module.register_buffer("calls", torch.zeros(()))
    module.calls += 1
    return x * module.calls


def _replace(module: Any, x: Tensor) -> Tensor:
    module.register_buffer("mean", torch.ones(3) if not hasattr(module, "mean") else 0.5 * module.mean)
    return x - module.mean


def _first_batch(module: Any, x: Tensor) -> Tensor:
    if not hasattr(module, "mean"):
        module.register_buffer("mean", x.mean(0))
    return x - module.mean


def _first_draw(module: Any, x: Tensor) -> Tensor:
    if not hasattr(module, "projection"):
        module.register_buffer("projection", torch.randn(3, 3))
    return x @ module.projection


class Keeping(nn.Module):
    def __init__(self, act: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self, x)


@pytest.mark.parametrize("act", [_count, _replace, _first_batch, _first_draw])
def test_a_buffer_that_later_calls_build_on_is_an_error(act: Callable[[Any, Tensor], Tensor]) -> None:
    block, params, state = from_module(Keeping(act))
    x = torch.randn(4, 3)
    noise = {"seed": torch.arange(4)}
    for transform in (lambda f: f, lambda f: lambda x: vmap(f)(x[None])):
        with pytest.raises(UnsupportedError, match="which later calls would build on"):
            transform(lambda x: block.apply(params, x, state, {}, True, noise)[0])(x)


class Rebuilding(nn.Module):
    """Builds a layer in forward and gives it the weights of another, as other libraries do."""

    def __init__(self, *, reads: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.reads = reads

    @staticmethod
    def value(linear: Tensor) -> Tensor:
        return linear + 1

    def forward(self, x: Tensor) -> Tensor:
        layer = nn.Linear(3, 3)
        if not self.reads:
            nn.init.ones_(layer.bias)
            layer.weight.data.copy_(torch.eye(3))
            return layer(self.linear(x))
        return layer(self.linear(x))


class Assigned(nn.Module):
    """Takes the layer that it builds for its own, as BigBird does for short sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    @staticmethod
    def value(linear: Tensor) -> Tensor:
        return linear.tanh()

    def forward(self, x: Tensor) -> Tensor:
        whole = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        whole[0] = self.linear
        self.whole = whole
        return self.whole(x)


@pytest.mark.parametrize("kind", [Rebuilding, Assigned])
def test_initial_values_that_nothing_reads_are_not_drawn(kind: Any, tmp_path: Path) -> None:
    module = kind()
    block, params, state = from_module(module)
    x = torch.randn(2, 3)
    before = torch.get_rng_state()
    for _ in range(2):
        y = block(params, x, state)
        slopes = grad(lambda params: block(params, x, state).square().sum())(params)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(y, module(x))
    expected = grad(lambda weight: kind.value(x @ weight.T + params["linear"]["bias"]).square().sum())
    torch.testing.assert_close(slopes["linear"]["weight"], expected(params["linear"]["weight"]))
    export.to_onnx(block, (params, x, state), tmp_path / "f.onnx")
    file = export.load(tmp_path / "f.onnx", device="cpu")
    torch.testing.assert_close(file(params, x, state), y, rtol=1e-5, atol=1e-5)


def test_initial_values_that_are_read_come_from_the_noise() -> None:
    block, params, state = from_module(Rebuilding(reads=True))
    x = torch.randn(2, 3)
    with pytest.raises(NoiseError, match="needs a seed"):
        block(params, x, state)
    seeds = [{"seed": torch.tensor([seed, 5])} for seed in (1, 1, 2)]
    values = [block.apply(params, x, state, {}, False, noise)[0] for noise in seeds]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_calls_from_several_threads_are_each_right() -> None:
    block, params, state = from_module(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)))
    x = torch.randn(8, 3)
    noise = block.noise((8, 3), torch.Generator().manual_seed(0))
    failures: list[str] = []

    def values(scale: int) -> list[Tensor]:
        own = {name: {key: scale * leaf for key, leaf in part.items()} for name, part in params.items()}
        train: Any = lambda own: block.apply(own, x, state, {}, True, noise)[0].square().sum()  # noqa: E731
        mapped = vmap(lambda row: block(own, row[None], state))(x)
        return [block(own, x, state), grad(train)(own)["0"]["weight"], mapped]

    expected = [values(scale) for scale in range(4)]

    def work(scale: int) -> None:
        for _ in range(30):
            torch.rand(3)  # another thread's draws are none of the block's
            try:
                found = values(scale)
            except (PureExportError, RuntimeError, TypeError, AttributeError) as error:
                failures.append(repr(error))
                return
            if not all(map(torch.equal, found, expected[scale])):
                failures.append(f"thread {scale} has other values")

    threads = [threading.Thread(target=work, args=(scale,)) for scale in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_block_can_be_copied_and_called_beside_the_original() -> None:
    block, params, state = from_module(nn.Linear(3, 2))
    x = torch.randn(4, 3)
    assert torch.equal(copy.deepcopy(block)(params, x, state), block(params, x, state))


class OwnLeaf(nn.Module):
    """Makes a tensor that requires a gradient, as transformers' MRA does without its kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y.sin() + torch.full_like(y, 0.5).requires_grad_() * y + y.requires_grad_(True)


def test_a_tensor_that_requires_a_gradient_is_made_under_transforms_and_in_files(tmp_path: Path) -> None:
    module = OwnLeaf()
    block, params, state = from_module(module)
    x = torch.randn(4, 3)
    expected = torch.autograd.grad(module(x).cos().sum(), module.linear.weight)[0]

    def loss(params: Any, x: Tensor) -> Tensor:
        return block(params, x, state).cos().sum()

    torch.testing.assert_close(grad(loss)(params, x)["linear"]["weight"], expected)
    each = vmap(grad(loss), (None, 0))(params, x[:, None])
    torch.testing.assert_close(each["linear"]["weight"].sum(0), expected)
    file = export.to_onnx(grad(loss), (params, x), tmp_path / "f.onnx", dynamic=(None, {0: "batch"}))
    torch.testing.assert_close(file.load("cpu")(params, x)["linear"]["weight"], expected)
