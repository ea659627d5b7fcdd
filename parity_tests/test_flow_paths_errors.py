"""What has no split by path length is a typed error that says what was given, what was expected, and the fix."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pure
from pure import flow
from pure.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError
from pure.skips import Residual

NET = pure.Sequential(*[Residual(pure.Linear(3, 3))] * 2)
PARAMS = NET.init(torch.Generator().manual_seed(0))[0]
X = torch.ones(2, 3)
NAN = X * float("nan")


def branch(x: Tensor) -> Tensor:
    return pure.tag(x.sin(), "branch", kind="branch")


def in_place(params: Any, x: Tensor) -> Tensor:
    y = x + branch(x)
    params["w"].add_(1)
    return y


def stream_in_place(params: Any, x: Tensor) -> Tensor:
    h = branch(x)
    h += x
    return h


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g.detach()


CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "no skip": (pure.Linear(3, 3), (X, X), {}, UnsupportedError, "tags no branch.*no tags at all.*kind=\"branch\""),
    "only streams": (lambda p, x: pure.tag(x * 2, "h"), (X, X), {}, UnsupportedError, r"tags no .*\(found: stream"),
    "an unused branch": (lambda p, x: (branch(x), 2 * x)[1], (X, X), {}, UnsupportedError, "depends on none of its"),
    "constant": (lambda p, x: torch.ones(2), (X, X), {}, UnsupportedError, "does not depend on x"),
    "NaN in x": (NET, (NAN, X), {}, ArgumentError, "x holds NaN or infinity in 6 of 6"),
    "NaN in v": (NET, (X, NAN), {}, ArgumentError, "v holds NaN or infinity in 6 of 6"),
    "NaN on the way": (lambda p, x: x + branch((x - 1).sqrt()), (X, X), {}, UnsupportedError, "not a number.*float64"),
    "another shape": (NET, (X, X[:1]), {}, ShapeError, r"v is \(1, 3\), x is \(2, 3\)"),
    "no tangent": (NET, (X, None), {}, ArgumentError, "v is NoneType"),
    "another dtype": (NET, (X, X.double()), {}, DtypeError, "v is torch.float64, x is torch.float32: cast v"),
    "tokens": (NET, (X.long(), X), {}, DtypeError, "x is torch.int64.*behind its embedding"),
    "no function": (3, (X, X), {}, ArgumentError, "of int: expected a block"),  # type: ignore[dict-item]
    "negative orders": (NET, (X, X), {"orders": -1}, ArgumentError, "orders=-1: expected a whole number"),
    "count": (NET, (X, X), {"count": "inner"}, ArgumentError, "count='inner': expected one of outermost"),
    "random": (lambda p, x: x + branch(x * torch.rand(3)), (X, X), {}, UnsupportedError, "draws random numbers"),
    "params in place": (in_place, (X, X), {}, UnsupportedError, "changes constants .* in place"),
    "stream in place": (stream_in_place, (X, X), {}, UnsupportedError, "in place: write x = x"),
    "two outputs": (lambda p, x: (branch(x), x), (X, X), {}, ArgumentError, "returns tuple: expected one tensor"),
    "integer output": (lambda p, x: branch(x).long(), (X, X), {}, DtypeError, "returns torch.int64"),
    "a tagged pair": (lambda p, x: pure.tag((x, x), "b", kind="branch")[0], (X, X), {}, UnsupportedError, "is tuple"),
    "an inner transform": (lambda p, x: x + torch.vmap(branch)(x), (X, X), {}, UnsupportedError, "tag it outside"),
    "no second derivative": (lambda p, x: x + branch(Once.apply(x)), (X, X), {}, UnsupportedError, "spectrum_of_loss"),
    "a hidden one": (lambda p, x: x + branch(x + Hidden.apply(x)), (X, X), {}, UnsupportedError, "spectrum_of_loss"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_path_spectrum(case: str) -> None:
    block, (x, v), given, error, message = CASES[case]
    params: Any = PARAMS if block is NET else {"w": torch.ones(3)} if block is in_place else {}
    if case == "no skip":
        params = pure.Linear(3, 3).init(torch.Generator().manual_seed(0))[0]
    with pytest.raises(error, match=message):
        flow.path_spectrum(block, params, x, v, **given)


def test_reverse_mode_needs_first_derivatives_alone() -> None:
    found = flow.path_spectrum_of_loss(lambda p, x: (x + branch(Once.apply(x))).sum(), {}, X)
    torch.testing.assert_close(found.components.sum(0), (1 + 2 * (2 * X).cos()).double())


def test_losses() -> None:
    with pytest.raises(ShapeError, match=r"shape \(2,\): expected the batch's scalar loss"):
        flow.path_spectrum_of_loss(lambda p, x: NET(p, x).sum(1), PARAMS, X)
    with pytest.raises(UnsupportedError, match="loss is nan"):
        flow.path_spectrum_of_loss(lambda p, x: (NET(p, x) * 0).log().sum() * 0, PARAMS, X)
    with pytest.raises(ArgumentError, match=r"returns float: expected one tensor"):
        flow.path_spectrum_of_loss(lambda p, x: 1.0, PARAMS, X)


def test_inside_a_transform() -> None:
    with pytest.raises(UnsupportedError, match=r"path_spectrum inside a torch\.func transform"):
        torch.vmap(lambda v: flow.path_spectrum(NET, PARAMS, X[:1], v).whole)(X[:, None])


def test_coherence_needs_a_generator_and_two_samples() -> None:
    with pytest.raises(ArgumentError, match="generator"):
        flow.path_coherence(NET, PARAMS, X, X, generator=0)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="samples=1: expected a whole number, at least 2"):
        flow.path_coherence(NET, PARAMS, X, X, generator=torch.Generator(), samples=1)


def test_trained_modules_inference_tensors_and_no_grad_are_fine() -> None:
    found = flow.path_spectrum(NET, PARAMS, X, X)
    learnt = pure.tree.tree_map(nn.Parameter, PARAMS)
    with torch.inference_mode():
        again = flow.path_spectrum(NET, pure.tree.tree_map(torch.clone, PARAMS), X.clone(), X.clone())
    with torch.no_grad():
        third = flow.path_spectrum(NET, learnt, X, X)
    for other in (again, third):
        torch.testing.assert_close(other.components, found.components)
        assert not other.components.requires_grad
