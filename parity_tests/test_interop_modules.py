"""Buffers, parametrisations, tied weights, hooks and failures of modules as blocks."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.nn.utils import parametrizations

import export
import pure
from pure import flow, interop, tree
from pure.errors import ArgumentError, DtypeError, ForwardError, ShapeError, UnsupportedError


def sampled(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x).tanh())


class Averaging(nn.Module):
    """Subtracts a running mean, and counts its calls in training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        self.register_buffer("mean", torch.full((4,), 0.5))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
            self.calls += 1
        return x - self.mean


def shared_layer() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


def hooked(register: Callable[[nn.Module], Any]) -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    register(module[0])
    return module


def old_style(function: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return function(nn.Linear(4, 3))


MODULES: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), False),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), False),
    "spectral_norm in training": (lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), True),
    "old weight_norm": (lambda: old_style(nn.utils.weight_norm), False),
    "old spectral_norm": (lambda: old_style(nn.utils.spectral_norm), False),
    "old spectral_norm in training": (lambda: old_style(nn.utils.spectral_norm), True),
    "tied weights": (Tied, False),
    "one layer twice": (shared_layer, False),
    "written buffers": (Averaging, True),
    "forward pre-hook": (lambda: hooked(lambda m: m.register_forward_pre_hook(lambda _, a: (a[0] * 2,))), False),
    "forward hook": (lambda: hooked(lambda m: m.register_forward_hook(lambda _, a, y: y * 3)), False),
    "pre-hook with names": (
        lambda: hooked(lambda m: m.register_forward_pre_hook(lambda _, a, k: ((a[0] + 1,), k), with_kwargs=True)),
        False,
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_value_gradient_and_new_buffers_are_the_module_s(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, training = MODULES[name]
    module, x = make().train(training), sampled(5, 4)
    block, params, state = interop.from_module(module)

    def step(params: Any, state: Any, x: Tensor) -> Any:
        def loss(params: Any) -> Any:
            y, new = block.apply(params, x, state, {}, training)
            return y.square().sum(), (y, new)

        return grad(loss, has_aux=True)(params)

    gradient, (y, new) = step(params, state, x)
    expected = module(x)
    expected.square().sum().backward()
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(y, expected.detach(), **close)
    torch.testing.assert_close(pure.flatten(gradient), {n: p.grad for n, p in module.named_parameters()}, **close)
    torch.testing.assert_close(pure.flatten(new), dict(module.named_buffers()), **close)

    each = [params, tree.tree_map(lambda leaf: 1.5 * leaf, params)]
    mapped = vmap(lambda p: block.apply(p, x, state, {}, training))(pure.stack(each))
    for index, one in enumerate(each):
        single = block.apply(one, x, state, {}, training)
        torch.testing.assert_close(tree.tree_map(lambda leaf, index=index: leaf[index], mapped), single, **close)

    path = tmp_path / "step.onnx"
    export.to_onnx(step, (params, state, x), path, dynamic=(None, None, {0: "batch"}))
    longer = sampled(7, 4, seed=1)
    found = export.load(path, device="cpu")(params, state, longer)
    torch.testing.assert_close(found, step(params, state, longer), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (4, 4)])
def test_orthogonal_weights_have_their_gradient_and_a_typed_error_in_files(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module, x = parametrizations.orthogonal(nn.Linear(*shape)), sampled(5, 4)
    block, params, state = interop.from_module(module)
    module(x).square().cos().sum().backward()
    found = grad(lambda p: block(p, x, state).square().cos().sum())(params)
    expected = {name: leaf.grad for name, leaf in module.named_parameters()}
    torch.testing.assert_close(pure.flatten(found), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(export.errors.UnsupportedOpError, match=r"source: parity_tests.test_interop_modules\.py"):
        export.verify(lambda p, x: block(p, x, state), (params, x), device="cpu")


@pytest.mark.parametrize("kind", ["matrix_exp", "cayley", "householder"])
def test_the_way_out_of_an_orthogonal_weight_works_as_it_is_written(kind: str) -> None:
    module, x = (
        nn.Sequential(nn.Tanh(), parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map=kind)),
        sampled(5, 4),
    )
    before = module(x)
    block, params, state = interop.from_module(module)
    with pytest.raises(export.errors.UnsupportedOpError) as raised:
        export.verify(block, (params, x, state), device="cpu")
    (advice,) = re.findall(r"way out: (torch\.nn\.utils\.parametrize\.\S+ \S+) before", str(raised.value))
    eval(advice, {"torch": torch, "module": module})
    block, params, state = interop.from_module(module)
    torch.testing.assert_close(block(params, x, state), before)
    assert export.verify(block, (params, x, state), device="cpu").passed


class MakesBuffer(nn.Module):
    """Makes a buffer in its first call."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "mean"):
            self.register_buffer("mean", x.mean(0))
        return x - self.mean


def test_lazily_made_buffers_and_parameters_are_refused_until_they_are_made() -> None:
    block, params, state = interop.from_module(MakesBuffer())
    with pytest.raises(UnsupportedError, match=r"\['mean'\].*calling the module once"):
        block(params, sampled(3, 4), state)
    used = MakesBuffer()
    used(sampled(3, 4))
    block, params, state = interop.from_module(used)
    torch.testing.assert_close(block(params, sampled(3, 4), state), used(sampled(3, 4)))
    for lazy in (nn.Sequential(nn.LazyLinear(4)), nn.LazyBatchNorm1d()):
        with pytest.raises(ArgumentError, match="call the module once"):
            interop.from_module(lazy)
        lazy(sampled(5, 3))
        block, params, state = interop.from_module(lazy)
        assert block(params, sampled(5, 3), state).shape[0] == 5


def test_gradient_hooks_are_refused_with_a_way_out() -> None:
    module = nn.Linear(4, 4)
    handle = module.weight.register_hook(lambda g: 2 * g)
    with pytest.raises(UnsupportedError, match=r"\['weight'\].*handle\.remove"):
        interop.from_module(module)
    handle.remove()
    interop.from_module(module)
    backward = hooked(lambda m: m.register_full_backward_hook(lambda _, given, out: (given[0] * 2,)))
    block, params, _ = interop.from_module(backward)
    x = sampled(3, 4)
    with pytest.raises(UnsupportedError, match=r"backward hook.*pure\.grad.*'0' \(Linear\)"):
        grad(lambda x: block(params, x).sum())(x)
    backward(x.requires_grad_()).sum().backward()
    torch.testing.assert_close(pure.grad(lambda x: block(params, x).sum())(x.detach()), x.grad)


class Inner(nn.Module):
    """Fails for reasons of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.weight)


def raising(error: Exception) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        raise error

    return function


@pytest.mark.parametrize(
    "error", [RuntimeError("no cache"), ValueError("no cache"), KeyError("no cache"), AssertionError("no cache")]
)
def test_an_unknown_cause_is_quoted_with_its_submodule_and_line(error: Exception) -> None:
    block, params, _ = interop.from_module(nn.Sequential(nn.Identity(), Inner(raising(error))))
    with pytest.raises(ForwardError, match=r"no cache") as caught:
        block(params, sampled(2, 4))
    assert "'1' (Inner)" in str(caught.value)
    assert "test_interop_modules.py" in str(caught.value)
    assert "does not fit" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_an_input_that_does_not_fit_is_said_to() -> None:
    block, params, _ = interop.from_module(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))
    with pytest.raises(ShapeError, match=r"\(2, 5\).*does not fit.*'0' \(Linear\)"):
        block(params, sampled(2, 5))
    with pytest.raises(DtypeError, match=r"float64.*'0.weight'.*pure\.cast"):
        block(params, sampled(2, 4).double())
    with pytest.raises(ArgumentError, match="extras"):
        block(params, (sampled(2, 4), sampled(2, 4)))
    embedding, weights, _ = interop.from_module(nn.Embedding(4, 3))
    with pytest.raises(DtypeError, match=r"float32"):
        embedding(weights, sampled(2))


def test_a_cause_under_vmap_is_no_matter_of_the_input_s_shape() -> None:
    block, params, _ = interop.from_module(Inner(lambda x: x if x.sum() > 0 else -x))
    with pytest.raises(UnsupportedError, match=r"tensor's value.*torch\.where"):
        vmap(lambda x: block(params, x))(sampled(2, 4))


class Caching(nn.Module):
    """Appends to the list, and writes to the tensor, that it is given."""

    def forward(self, x: Tensor, cache: list[Tensor]) -> Tensor:
        cache.append(x)
        x.add_(1)
        return x * len(cache)


def test_arguments_stay_as_they_are() -> None:
    block, params, _ = interop.from_module(Caching())
    x, cache = torch.zeros(3), [torch.ones(1)]
    for _ in range(2):
        assert torch.equal(block(params, x, {}, {"cache": cache}), torch.full((3,), 2.0))
        assert torch.equal(grad(lambda x: block(params, x, {}, {"cache": cache}).sum())(x), torch.full((3,), 2.0))
        assert torch.equal(x, torch.zeros(3))
        assert len(cache) == 1


def attention(causal: bool) -> Callable[[], tuple[Callable[..., Tensor], Any]]:
    def make() -> tuple[Callable[..., Tensor], Any]:
        module = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
        block, params, state = interop.from_module(module)
        mask = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64) if causal else None
        extras = {"need_weights": False, **({"is_causal": True, "attn_mask": mask} if causal else {})}
        return lambda params, x: block(params, (x, x, x), state, extras)[0], params

    return make


def encoder() -> tuple[Callable[..., Tensor], Any]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    block, params, state = interop.from_module(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    )
    return lambda params, x: block(params, x, state), params


@pytest.mark.parametrize(
    "make", [encoder, attention(causal=False), attention(causal=True)], ids=["encoder", "attention", "causal"]
)
def test_forward_mode_through_attention(make: Callable[[], tuple[Callable[..., Tensor], Any]]) -> None:
    torch.manual_seed(0)
    run, params = make()
    x, dx = (sampled(2, 3, 8, seed=seed, dtype=torch.float64) for seed in range(2))
    close = {"rtol": 1e-9, "atol": 1e-10}

    def fn(x: Tensor) -> Tensor:
        return run(params, x)

    def loss(x: Tensor) -> Tensor:
        return fn(x).sin().sum()

    difference = (fn(x + 1e-5 * dx) - fn(x - 1e-5 * dx)) / 2e-5
    torch.testing.assert_close(jvp(fn, (x,), (dx,))[1], difference, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(jacfwd(fn)(x), jacrev(fn)(x), **close)
    second = jacrev(grad(loss))(x)
    torch.testing.assert_close(hessian(loss)(x), second, **close)
    assert float(second.abs().max()) > 0.01
    product = jvp(grad(loss), (x,), (dx,))[1]
    torch.testing.assert_close(
        product, (grad(loss)(x + 1e-5 * dx) - grad(loss)(x - 1e-5 * dx)) / 2e-5, rtol=1e-5, atol=1e-7
    )
    found = flow.hvp(lambda p, x: run(p, x).sin().sum(), params, x)(tree.tree_map(torch.cos, params))
    direct = jvp(grad(lambda p: run(p, x).sin().sum()), (params,), (tree.tree_map(torch.cos, params),))[1]
    torch.testing.assert_close(found, direct, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dynamic", [None, (None, {0: "batch", 1: "length"})], ids=["static", "dynamic"])
def test_forward_mode_through_an_encoder_is_a_file(dynamic: Any) -> None:
    torch.manual_seed(0)
    run, params = encoder()
    args = tree.tree_map(lambda leaf: leaf.float(), (params, sampled(2, 3, 8)))
    verdict = export.verify(lambda p, x: jvp(lambda x: run(p, x), (x,), (x.cos(),))[1], args, dynamic=dynamic)
    assert verdict.passed, verdict.table()


def test_a_refused_operator_in_a_library_names_the_call_and_a_way_out() -> None:
    args = sampled(1, 8, 6, 6), torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])

    def mine(x: Tensor, boxes: Tensor) -> Tensor:
        return torchvision.ops.ps_roi_pool(x, boxes, 2)

    with pytest.raises(export.errors.UnsupportedOpError, match=r"(?s)called from: .*way out: compute") as caught:
        export.verify(mine, args, device="cpu")
    assert "torchvision/ops/ps_roi_pool.py" in caught.value.source
    assert "test_interop_modules.py" in caught.value.caller
    assert caught.value.caller.endswith("in mine")

    def own(x: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(x)

    with pytest.raises(export.errors.UnsupportedOpError) as caught:
        export.verify(own, (sampled(3, 3),), device="cpu")
    assert "test_interop_modules.py" in caught.value.source
    assert not caught.value.caller, "the source is the user's line"


def test_a_layer_s_unknown_cause_is_no_matter_of_its_input() -> None:
    with pytest.raises(ForwardError, match="RuntimeError: no cache"):
        pure.Activation(raising(RuntimeError("no cache")))({}, sampled(2, 4))
