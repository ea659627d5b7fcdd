"""Gradients of normalisations of one sample that is read as tokens: the bias' is a plain sum over positions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pure
from pure.block import Block
from pure.interop import from_module
from pure.layers import BatchNorm

CHANNELS = 8


def own() -> tuple[Block, Any, Any]:
    block = BatchNorm(CHANNELS)
    params, state = block.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    return block, params, state


def module(norm: type[nn.Module], **options: Any) -> Callable[[], tuple[Block, Any, Any]]:
    return lambda: from_module(norm(CHANNELS, **options).double())


CASES = {
    "BatchNorm": own,
    "BatchNorm2d": module(nn.BatchNorm2d),
    "BatchNorm3d": module(nn.BatchNorm3d),
    "InstanceNorm2d": module(nn.InstanceNorm2d, affine=True),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_does_not_depend_on_how_the_outputs_gradient_lies_in_memory(
    name: str, samples: int, training: bool
) -> None:
    block, params, state = CASES[name]()
    space = (4, 2, 2) if name.endswith("3d") else (4, 4)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, CHANNELS, *space, generator=generator, dtype=torch.float64)
    weights = torch.randn(samples, 16, CHANNELS, generator=generator, dtype=torch.float64)

    def read_as_tokens(params: Any, x: Tensor) -> Tensor:
        y, _ = block.apply(params, x, state, {}, training)
        return (y.flatten(2).transpose(1, 2) * weights).sum()

    def with_a_copied_gradient(params: Any, x: Tensor) -> Tensor:
        y, _ = block.apply(params, x, state, {}, training)
        return (y * weights.transpose(1, 2).reshape(x.shape).contiguous()).sum()

    for gradient in (pure.grad, torch.func.grad):
        found = pure.flatten(gradient(read_as_tokens, argnums=(0, 1))(params, x))
        expected = pure.flatten(gradient(with_a_copied_gradient, argnums=(0, 1))(params, x))
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found["0.bias"], weights.sum((0, 1)), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # vmap's, where dynamo runs fake tensors
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["gradient", "per-sample gradient"])
def test_torch_compile_takes_one_sample_whose_gradient_lies_in_both_formats(per_sample: bool, backend: str) -> None:
    block, params, state = own()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, CHANNELS, 4, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(1, 16, CHANNELS, generator=generator, dtype=torch.float64)

    def read_as_tokens(params: Any, x: Tensor) -> Tensor:
        return (block(params, x, state).flatten(2).transpose(1, 2) * weights).sum()

    fn = torch.func.grad(read_as_tokens)
    if per_sample:
        fn = torch.func.vmap(torch.func.grad(lambda params, x: read_as_tokens(params, x[None])), (None, 0))
    found = pure.flatten(torch.compile(fn, fullgraph=True, backend=backend)(params, x))
    expected = pure.flatten(fn(params, x))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(expected["bias"].reshape(CHANNELS), weights.sum((0, 1)), rtol=1e-12, atol=1e-12)
