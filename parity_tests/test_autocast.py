"""Blocks under `torch.autocast` compute what the same modules compute there, to the modules' own rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import hessian, jvp, vmap

import export
import pure
from parity_tests.oracles import oracles
from parity_tests.oracles.oracle import Flat, install, shifted
from pure import interop, layers, tree
from pure.catalogue import CASES, Case

pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
UNIT = 2.0**-8
"""Of bfloat16: the largest relative error of one rounding."""


def _measured(f: Callable[[], Tensor], leaves: Flat, dtype: torch.dtype | None) -> Flat:
    """Return the output, and the gradients of a weighted sum of it, with the forward pass under autocast."""
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        y = f()
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    (y.double() * weights).sum().backward()
    return {"output": y.detach(), **{n: _gradient(leaf) for n, leaf in leaves.items()}}


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _errors(found: Flat, reference: Flat) -> tuple[float, float]:
    """Return the relative errors of the output, and of all gradients together."""
    output = float((found["output"].double() - reference["output"]).norm() / reference["output"].norm())
    names = [name for name in reference if name != "output"]
    if not names:
        return output, 0.0
    ours, theirs = (torch.cat([flat[name].double().reshape(-1) for name in names]) for flat in (found, reference))
    return output, float((ours - theirs).norm() / theirs.norm())


def _three(row: Case, training: bool) -> tuple[Flat, Flat, Flat]:
    """Return what block and module compute under autocast, and the block in float64, by the module's names."""
    oracle = oracles()[row.name]
    block, params, state, x, extras = row.example()
    params, state = shifted(params, 1), shifted(state, 2)
    noise = block.noise(tuple(x.shape), torch.Generator().manual_seed(0)) if training else None

    def input_as(dtype: torch.dtype) -> Tensor:
        return x.to(dtype, copy=True).requires_grad_() if x.is_floating_point() else x

    def block_run(dtype: torch.dtype, autocast: torch.dtype | None) -> Flat:
        leaves, spec = tree.tree_flatten(tree.cast(params, dtype))
        own, z = tree.tree_unflatten([leaf.clone().requires_grad_() for leaf in leaves], spec), input_as(dtype)
        others = tree.cast(state, dtype), tree.cast(extras, dtype), training, tree.cast(noise or {}, dtype)
        found = _measured(lambda: block.apply(own, z, *others)[0], tree.flatten(own), autocast)
        y = found.pop("output")
        return {"output": y, "input": _gradient(z), **oracle.translate(found)}

    module, z = oracle.make().float(), input_as(torch.float32)
    install(module, oracle.translate({**tree.flatten(params), **tree.flatten(state)}), oracle.unused)
    module.train(training)
    named = {n: p for n, p in module.named_parameters() if not (oracle.unused and n.startswith(oracle.unused))}
    theirs = _measured(lambda: oracle.run(module, z, extras, noise), {"input": z, **named}, torch.bfloat16)
    return block_run(torch.float32, torch.bfloat16), theirs, block_run(torch.float64, None)


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_a_block_has_its_modules_rounding(row: Case) -> None:
    differs_in_training = row.make().stochastic or bool(row.example()[2])
    for training in (False, True) if differs_in_training else (False,):
        ours, theirs, reference = _three(row, training)
        assert sorted(ours) == sorted(theirs)
        for mine, other in zip(_errors(ours, reference), _errors(theirs, reference), strict=True):
            assert mine <= 2 * other + UNIT, (training, mine, other)


NORMS: dict[str, tuple[pure.Block, Callable[..., nn.Module]]] = {
    "LayerNorm": (layers.LayerNorm(4), partial(nn.LayerNorm, 4)),
    "RMSNorm": (layers.RMSNorm(4), partial(nn.RMSNorm, 4)),
    "GroupNorm": (layers.GroupNorm(2, 6), partial(nn.GroupNorm, 2, 6)),
    "BatchNorm": (layers.BatchNorm(6), partial(nn.BatchNorm1d, 6)),
}


@contextmanager
def _autocast_on_a_gpu_that_is_not_there() -> Iterator[None]:
    with FakeTensorMode():
        before = torch.get_autocast_dtype("cuda")
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            yield
        finally:
            torch.set_autocast_dtype("cuda", before)
            torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", NORMS)
def test_norms_have_their_modules_dtype_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    block, make = NORMS[name]
    with _autocast_on_a_gpu_that_is_not_there():
        x = torch.empty(3, 6, 4, device="cuda", dtype=dtype)
        params, state = block.init(torch.Generator(), device="cuda")
        theirs = make(device="cuda")(x)
        for training in (False, True):
            assert block.apply(params, x, state, {}, training)[0].dtype == theirs.dtype


def _net() -> tuple[pure.Block, Any, Tensor]:
    net = pure.Sequential(
        a=pure.Linear(4, 8),
        norm=pure.LayerNorm(8),
        act=pure.Activation("gelu"),
        rest=pure.Residual(pure.Sequential(b=pure.Linear(8, 8), scale=pure.Scale(8, 0.5))),
        out=pure.Linear(8, 3),
    )
    params, _ = net.init(torch.Generator().manual_seed(0))
    return net, params, torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def _loss(net: pure.Block, dtype: torch.dtype) -> Callable[..., Tensor]:
    def loss(params: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return net(params, x).float().square().mean()

    return loss


def test_transforms_under_autocast_agree_with_plain_autograd() -> None:
    net, params, x = _net()
    loss = _loss(net, torch.bfloat16)
    module = interop.to_module(net, params)
    with torch.autocast("cpu", torch.bfloat16):
        value = module(x).float().square().mean()
    value.backward()
    expected = {name: p.grad for name, p in module.named_parameters()}
    for found in (pure.grad(loss)(params, x), torch.func.grad(loss)(params, x)):
        for name, leaf in tree.flatten(found).items():
            assert leaf.dtype == torch.float32
            assert torch.equal(leaf, expected[name]), name
    alone = vmap(torch.func.grad(loss), (None, 0))(params, x[:, None])
    for name, leaf in tree.flatten(alone).items():
        torch.testing.assert_close(leaf.mean(0), expected[name], rtol=4 * UNIT, atol=UNIT * float(leaf.abs().max()))
    tangent = jvp(lambda p: loss(p, x), (params,), (params,))[1]
    inner = sum((expected[name] * leaf).sum() for name, leaf in tree.flatten(params).items())
    torch.testing.assert_close(tangent, inner, rtol=4 * UNIT, atol=0.0)


def test_a_hessian_through_a_norm_under_autocast_is_that_of_float64_to_rounding() -> None:
    net, params, x = _net()
    exact = hessian(lambda z: net(tree.cast(params, torch.float64), z).square().mean())(x[:1].double())
    found = hessian(lambda z: _loss(net, torch.bfloat16)(params, z))(x[:1])
    torch.testing.assert_close(found.double(), exact, rtol=0.0, atol=8 * UNIT * float(exact.abs().max()))


FILES = (
    "linear",
    "layer_norm",
    "basic_block",
    "pre_norm",
    "layer_scale",
    "gated_mlp",
    "attention",
    "transformer_block",
)


@pytest.mark.parametrize("row", [row for row in CASES if row.name in FILES], ids=lambda row: row.name)
def test_files_hold_the_casts_of_autocast(row: Case) -> None:
    block, params, state, x, extras = row.example()
    params, state = shifted(params, 1), shifted(state, 2)

    def forward(params: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return block(params, x, state, extras)

    verdict = export.verify(forward, (params, x), device="cpu")
    assert verdict, verdict.table()


def test_a_gradients_file_holds_the_casts_whether_autocast_is_inside_or_around(tmp_path: Any) -> None:
    net, params, x = _net()
    gradient = pure.grad(_loss(net, torch.float16))
    verdict = export.verify(gradient, (params, x), device="cpu")
    assert verdict, verdict.table()
    with torch.autocast("cpu", torch.float16):
        export.to_onnx(net, (params, x), tmp_path / "around.onnx")
        expected = net(params, x)
    found = export.load(tmp_path / "around.onnx", device="cpu")(params, x)
    assert found.dtype == expected.dtype == torch.float16
    torch.testing.assert_close(found, expected, rtol=0, atol=2.0**-11 * float(expected.abs().max()) * 4)


def test_without_autocast_other_dtypes_are_refused_and_the_error_names_it() -> None:
    for block in (layers.LayerNorm(4), layers.Scale(4), layers.Linear(4, 4), layers.LearnedPositions(4, 4)):
        params, state = block.init(torch.Generator())
        with pytest.raises(pure.errors.DtypeError, match=r"torch\.autocast or in pure\.MixedPrecision"):
            block(params, torch.ones(2, 4, 4, dtype=torch.bfloat16), state)
