"""Modules with custom `autograd.Function`s of the old style, under every transform and in files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import export
import pure
from pure.errors import PureError
from pure.interop import from_module


class Swish(torch.autograd.Function):
    """Keeps an intermediate tensor and a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        gate = torch.sigmoid(slope * x)
        ctx.save_for_backward(x, gate)
        ctx.slope = slope
        return x * gate

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, gate = ctx.saved_tensors
        return gradient * (gate + ctx.slope * x * gate * (1 - gate)), None


class StraightThrough(torch.autograd.Function):
    """Keeps a tensor as an attribute, returns a pair, and has another gradient than its value has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.inside = x.abs() < 1
        sign = torch.sign(x)
        ctx.mark_non_differentiable(ctx.inside)
        return sign, ctx.inside

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Tensor:
        return gradient * ctx.inside


class Sine(torch.autograd.Function):
    """Keeps its input, so that second derivatives are right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


FUNCTIONS = {
    "swish": lambda x: Swish.apply(x, 2.0),
    "straight through": lambda x: StraightThrough.apply(x)[0],
    "sine": lambda x: Sine.apply(x),
    "bound": Sine.apply,
}
TRANSFORMABLE = [name for name in FUNCTIONS if name != "bound"]


class Net(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.first, self.name, self.last = nn.Linear(4, 4), name, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(FUNCTIONS[self.name](self.first(x)))


def made(name: str) -> tuple[nn.Module, Any, Any, Tensor]:
    torch.manual_seed(0)
    module = Net(name).double()
    block, params, state = from_module(module)

    def loss(params: Any, x: Tensor) -> Tensor:
        return block(params, x, state).square().sum()

    return module, loss, params, torch.randn(3, 4, dtype=torch.float64)


@pytest.mark.parametrize("name", TRANSFORMABLE)
def test_gradients_samples_and_second_derivatives_are_those_of_plain_autograd(name: str) -> None:
    module, loss, params, x = made(name)
    expected = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    for gradient in (pure.grad(loss), torch.func.grad(loss)):
        torch.testing.assert_close(tuple(pure.flatten(gradient(params, x)).values()), expected)
    each = pure.flatten(torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x[:, None]))
    for number in range(len(x)):
        one = torch.autograd.grad(module(x[number : number + 1]).square().sum(), list(module.parameters()))
        torch.testing.assert_close(tuple(leaf[number] for leaf in each.values()), one)
    second = torch.func.jacrev(torch.func.grad(loss, argnums=1), argnums=1)(params, x)
    plain = torch.autograd.functional.hessian(lambda x: module(x).square().sum(), x)
    torch.testing.assert_close(second, plain)


@pytest.mark.parametrize("name", TRANSFORMABLE)
def test_files_of_gradients_pass(name: str, tmp_path: Path) -> None:
    _, loss, params, x = made(name)
    gradient, each = torch.func.grad(loss), torch.func.vmap(torch.func.grad(loss), (None, 0))
    for fn, given in ((gradient, x), (each, x[:, None])):
        export.to_onnx(fn, (params, given), tmp_path / "gradient.onnx", dynamic=(None, {0: "batch"}))
        args = (params, given)
        assert export.verify(fn, args, tmp_path / "gradient.onnx", dynamic=(None, {0: "batch"})).passed


def test_forward_mode_is_a_typed_error() -> None:
    _, loss, params, x = made("sine")
    with pytest.raises(PureError, match="jvp"):
        torch.func.jvp(lambda x: loss(params, x), (x,), (x,))


def test_a_name_bound_to_apply_is_a_typed_error_under_transforms_only() -> None:
    module, loss, params, x = made("bound")
    expected = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    torch.testing.assert_close(tuple(pure.flatten(pure.grad(loss)(params, x)).values()), expected)
    with pytest.raises(PureError, match=r"Name\.apply\(x\)"):
        torch.func.grad(loss)(params, x)
