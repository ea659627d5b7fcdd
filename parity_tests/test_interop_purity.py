"""A module block is one pure function: nothing lasts from call to call, and grad mode changes no value."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.utils.checkpoint import checkpoint

import export
import pure
from pure import interop, tree
from pure.errors import UnsupportedError


def sampled(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class InDict(nn.Module):
    """Keeps what it computes from its parameter in a dict, as timm's LeViT does in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "exp" not in self.cache:
            self.cache["exp"] = self.bias.exp()
        return x + self.cache["exp"]

    def train(self, mode: bool = True) -> "InDict":
        if mode:
            self.cache = {}
        return super().train(mode)


class InAttribute(InDict):
    """Keeps it in an attribute, and counts its calls."""

    calls = 0
    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.kept is None:
            self.kept = self.bias.exp()
        return self.calls * (x + self.kept)


class Store:
    """An object that a module keeps things in."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []


class InObject(InDict):
    """Keeps it in a list of an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()

    def forward(self, x: Tensor) -> Tensor:
        self.store.seen.append(self.bias.exp())
        return x + self.store.seen[0]


class InTensor(InDict):
    """Adds to a tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        self.total += 1
        return x + self.total * self.bias.exp()


@pytest.mark.parametrize("kind", [InDict, InAttribute, InObject, InTensor])
def test_every_call_starts_from_the_module_as_it_was_given(kind: type[InDict]) -> None:
    block, params, _ = interop.from_module(kind().eval())
    x = torch.zeros(2, 3, dtype=torch.float64)
    for factor in (1.0, 2.0, 0.5):
        scaled = {"bias": params["bias"] * factor}
        expected = scaled["bias"].exp().expand(2, 3)
        torch.testing.assert_close(block(scaled, x), expected, rtol=1e-15, atol=0)
        if kind is InTensor:
            with pytest.raises(UnsupportedError, match="register_buffer"):
                grad(lambda p: block(p, x).sum())(scaled)
            continue
        found = grad(lambda p: block(p, x).sum())(scaled)["bias"]
        torch.testing.assert_close(found, expected.sum(0), rtol=1e-15, atol=0)


@pytest.mark.parametrize("kind", [InDict, InAttribute, InObject])
@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "file"])
def test_no_tensor_of_a_transform_stays_in_the_block(kind: type[InDict], transform: str, tmp_path: Path) -> None:
    block, params, _ = interop.from_module(kind().eval())
    x = torch.zeros(2, 3, dtype=torch.float64)
    if transform == "grad":
        grad(lambda p: block(p, x).sum())(params)
    elif transform == "vmap":
        vmap(block, (0, None))(pure.stack([params, params]), x)
    elif transform == "jvp":
        jvp(lambda p: block(p, x), (params,), (params,))
    else:
        path = tmp_path / "file.onnx"
        export.to_onnx(block, (params, x), path)
        doubled = {"bias": params["bias"] * 2}
        torch.testing.assert_close(export.load(path)(doubled, x), block(doubled, x), rtol=1e-14, atol=0)
    assert type(block(params, x)) is Tensor
    assert torch.equal(block(params, x), params["bias"].exp().expand(2, 3))


@pytest.mark.parametrize("kind", [InDict, InAttribute])
def test_a_compiled_call_starts_from_the_module_as_it_was_given(kind: type[InDict]) -> None:
    block, params, _ = interop.from_module(kind().eval())
    x = torch.zeros(2, 3, dtype=torch.float64)
    compiled = torch.compile(lambda p, x: block(p, x), fullgraph=True, backend="eager")
    for factor in (1.0, 2.0, 3.0):
        scaled = {"bias": params["bias"] * factor}
        torch.testing.assert_close(compiled(scaled, x), block(scaled, x), rtol=1e-15, atol=0)


def test_a_used_module_can_be_copied_and_converted() -> None:
    module, x = InDict().eval(), torch.zeros(2, 3, dtype=torch.float64)
    module(x)
    block, params, _ = interop.from_module(module)
    doubled = {"bias": params["bias"] * 2}
    assert torch.equal(block(doubled, x), doubled["bias"].exp().expand(2, 3))
    assert "exp" in module.cache, "the module stays as it was"
    twin = copy.deepcopy(block)
    assert torch.equal(twin(doubled, x), block(doubled, x))


def test_a_memory_computed_from_parameters_is_refused() -> None:
    module = InAttribute().eval()
    module(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(UnsupportedError, match=r"'kept'.*clear it"):
        interop.from_module(module)


class Rescaling(nn.Module):
    """Halves its weight at the first call, as RWKV does in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.done = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.done:
            with torch.no_grad():
                self.weight.div_(2)
            self.done = True
        return x * self.weight


def test_a_module_that_writes_to_its_weights_leaves_the_caller_s_alone() -> None:
    block, params, _ = interop.from_module(Rescaling().eval())
    x = torch.ones(1, 3)
    for _ in range(3):
        assert torch.equal(block(params, x), torch.full((1, 3), 0.5))
    stacked = pure.stack([params, params])
    assert torch.equal(vmap(block, (0, None))(stacked, x), torch.full((2, 1, 3), 0.5))
    assert torch.equal(params["weight"], torch.ones(3))
    assert torch.equal(stacked["weight"], torch.ones(2, 3))


def test_vmap_of_a_fresh_block_that_writes_to_its_weights() -> None:
    block, params, _ = interop.from_module(Rescaling().eval())
    stacked = pure.stack([params, params])
    for _ in range(2):
        assert torch.equal(vmap(block, (0, None))(stacked, torch.ones(1, 3)), torch.full((2, 1, 3), 0.5))
    assert torch.equal(stacked["weight"], torch.ones(2, 3))


class RescalingData(Rescaling):
    """Does so to the data, which autograd does not see."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data /= 2
        return x * self.weight


class RescalingCopy(Rescaling):
    """Puts other data into the parameter."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = self.weight.data / 2
        return x * self.weight


class RescalingOut(Rescaling):
    """Writes through `out=` to a view."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            torch.div(self.weight, 2, out=self.weight.view(3))
        return x * self.weight


@pytest.mark.parametrize("kind", [Rescaling, RescalingData, RescalingCopy, RescalingOut])
def test_no_way_of_writing_reaches_the_caller_s_weights(kind: type[Rescaling]) -> None:
    block, params, _ = interop.from_module(kind().eval())
    for _ in range(2):
        assert torch.equal(block(params, torch.ones(1, 3)), torch.full((1, 3), 0.5))
        assert torch.equal(params["weight"], torch.ones(3))


def test_an_embedding_with_a_largest_norm_leaves_the_caller_s_weights_alone() -> None:
    module = nn.Embedding(4, 3, max_norm=0.5)
    block, params, _ = interop.from_module(module)
    before, indices = params["weight"].clone(), torch.tensor([0, 2])
    assert torch.equal(block(params, indices), module(indices).detach())
    assert torch.equal(params["weight"], before)


def test_a_compiled_module_that_writes_to_its_weights_leaves_the_caller_s_alone() -> None:
    block, params, _ = interop.from_module(Rescaling().eval())
    compiled = torch.compile(lambda p, x: block(p, x), fullgraph=True, backend="eager")
    for _ in range(2):
        assert torch.equal(compiled(params, torch.ones(1, 3)), torch.full((1, 3), 0.5))
    assert torch.equal(params["weight"], torch.ones(3))


def test_a_write_that_the_first_call_did_not_show_is_refused() -> None:
    class Sometimes(Rescaling):
        def forward(self, x: Tensor) -> Tensor:
            self.done = bool(x.sum() < 0)
            return super().forward(x) if not self.done else x * self.weight

    block, params, _ = interop.from_module(Sometimes())
    block(params, -torch.ones(1, 3))
    with pytest.raises(UnsupportedError, match=r"'weight'.*first call"):
        block(params, torch.ones(1, 3))


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_the_encoder_s_fast_path_is_not_taken() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64)
    net = nn.TransformerEncoder(layer, 2).eval()
    x, padding = sampled(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    block, params, state = interop.from_module(net)
    extras = {"src_key_padding_mask": padding}
    expected = net(x, src_key_padding_mask=padding).detach()
    torch.testing.assert_close(block(params, x, state, extras), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(block(params, x, state, extras), expected, rtol=1e-12, atol=1e-12)
        fused = net(x, src_key_padding_mask=padding)
    assert float((fused - expected).abs().max()) > 0.1, "the fused kernel zeroes padded positions"
    value, _ = pure.value_and_grad(lambda p: block(p, x, state, extras).square().sum())(params)
    torch.testing.assert_close(value, expected.square().sum(), rtol=1e-13, atol=0)
    assert torch.backends.mha.get_fastpath_enabled()


class Branching(nn.Module):
    """Computes something else without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.is_grad_enabled() else x * 3


def test_a_forward_that_looks_at_grad_mode_takes_the_branch_of_autograd(tmp_path: Path) -> None:
    block, params, _ = interop.from_module(Branching())
    x = torch.ones(2, 3, requires_grad=True)
    assert block(params, x).requires_grad
    with torch.no_grad():
        quiet = block(params, x)
        assert not torch.is_grad_enabled()
    assert not quiet.requires_grad
    assert torch.equal(quiet, 2 * x)
    with torch.inference_mode():
        assert torch.equal(block(params, torch.ones(2, 3)), torch.full((2, 3), 2.0))
    assert torch.equal(vmap(lambda x: block(params, x))(x.detach()), 2 * x)
    assert torch.equal(grad(lambda x: block(params, x).sum())(x.detach()), torch.full((2, 3), 2.0))
    path = tmp_path / "branch.onnx"
    with torch.no_grad():
        export.to_onnx(block, (params, x.detach()), path)
    assert torch.equal(export.load(path)(params, x.detach()), 2 * x)


class Checkpointed(nn.Module):
    """A layer below a checkpoint of either kind, called by a name that the module holds."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, dtype=torch.float64)
        self.call: Callable[..., Any] = partial(checkpoint, use_reentrant=reentrant)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(lambda z: self.layer(z).relu(), x)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_modules_have_their_gradients(reentrant: bool) -> None:
    module, x = Checkpointed(reentrant=reentrant), sampled(3, 4)
    block, params, _ = interop.from_module(module)

    def loss(params: Any) -> Tensor:
        return block(params, x).square().sum()

    def plain(params: Any) -> Tensor:
        return (x @ params["layer"]["weight"].T + params["layer"]["bias"]).relu().square().sum()

    for derivative in (grad, pure.grad):
        for name, value in tree.flatten(derivative(loss)(params)).items():
            expected = tree.flatten(grad(plain)(params))[name]
            torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-13)
    leaf = tree.tree_map(lambda leaf: leaf.clone().requires_grad_(), params)
    loss(leaf).backward()
    torch.testing.assert_close(
        leaf["layer"]["weight"].grad, grad(plain)(params)["layer"]["weight"], rtol=1e-13, atol=1e-13
    )
    calls = []
    checkpoint(lambda z: calls.append(z) or z.sin().sin(), x.requires_grad_(), use_reentrant=reentrant).sum().backward()
    assert len(calls) == 2, "checkpoints outside the block recompute as before"


def test_a_memory_efficient_densenet_has_the_gradients_of_the_plain_one() -> None:
    torch.manual_seed(0)
    sizes = {"growth_rate": 4, "block_config": (2, 2), "num_init_features": 8, "num_classes": 3}
    efficient = torchvision.models.DenseNet(**sizes, memory_efficient=True).double().eval()
    plain = torchvision.models.DenseNet(**sizes).double().eval()
    block, params, state = interop.from_module(efficient)
    other, _, _ = interop.from_module(plain)
    x = sampled(2, 3, 32, 32)
    found = pure.grad(lambda p: block(p, x, state).square().sum())(params)
    expected = pure.grad(lambda p: other(p, x, state).square().sum())(params)
    for name, value in tree.flatten(found).items():
        assert torch.equal(value, tree.flatten(expected)[name]), name
