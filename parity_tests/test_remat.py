"""A rematerialised function is the function, under every transform, and its gradient keeps less."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import export
import pure
from pure import tree
from pure.errors import ArgumentError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def branch(width: int) -> pure.Block:
    tanh = pure.Activation("tanh")
    return pure.Sequential(pure.Linear(8, width), tanh, pure.Linear(width, width), tanh, pure.Linear(width, 8))


def chain(depth: int, width: int, *, kept: bool) -> pure.Block:
    block = pure.Residual(branch=branch(width))
    return pure.Sequential(*[block if kept else pure.checkpoint(block)] * depth)


PLAIN, AGAIN = chain(3, 6, kept=True), chain(3, 6, kept=False)
DEEP = pure.checkpoint(pure.checkpoint(pure.checkpoint(AGAIN)))  # four, one in another
PARAMS, _ = PLAIN.init(generator(), torch.float64)
X = torch.randn(4, 8, generator=generator(1), dtype=torch.float64)
V = torch.randn(4, 8, generator=generator(2), dtype=torch.float64)
Loss = Callable[[Any, torch.Tensor], torch.Tensor]

TRANSFORMS: dict[str, Callable[[Loss], Any]] = {
    "value": lambda f: f(PARAMS, X),
    "grad": lambda f: grad(f)(PARAMS, X),
    "grad by the input": lambda f: grad(f, 1)(PARAMS, X),
    "pure.grad": lambda f: pure.grad(f)(PARAMS, X),
    "vjp": lambda f: vjp(lambda x: f(PARAMS, x), X)[1](torch.ones((), dtype=X.dtype)),
    "jvp": lambda f: jvp(lambda x: f(PARAMS, x), (X,), (V,)),
    "vmap": lambda f: vmap(f, (None, 0))(PARAMS, X[:, None]),
    "vmap of grad": lambda f: vmap(grad(f), (None, 0))(PARAMS, X[:, None]),
    "grad of vmap": lambda f: grad(lambda p: vmap(f, (None, 0))(p, X[:, None]).sum())(PARAMS),
    "stacked parameters": lambda f: vmap(grad(f), (0, None))(pure.stack([PARAMS, PARAMS]), X),
    "jacrev": lambda f: jacrev(f, 1)(PARAMS, X),
    "jacfwd": lambda f: jacfwd(f, 1)(PARAMS, X),
    "hessian": lambda f: hessian(f, 1)(PARAMS, X),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f, 1), 1)(PARAMS, X),
    "jvp of grad": lambda f: jvp(lambda x: grad(f)(PARAMS, x), (X,), (V,))[1],
    "grad of jvp": lambda f: grad(lambda x: jvp(lambda z: f(PARAMS, z), (x,), (V,))[1])(X),
    "jvp of jvp": lambda f: jvp(lambda x: jvp(lambda z: f(PARAMS, z), (x,), (V,))[1], (X,), (V,))[1],
    "per-sample Hessian products": lambda f: vmap(lambda x, v: jvp(lambda z: grad(f)(PARAMS, z[None]), (x,), (v,))[1])(
        X, V
    ),
}


def loss_of(block: pure.Block) -> Loss:
    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = block(params, x)
        return y.square().mean()

    return loss


def assert_equal_to_rounding(given: Any, expected: Any, zero: float = 1e-14) -> None:
    pairs = tree.flatten({"_": given}), tree.flatten({"_": expected})
    assert list(pairs[0]) == list(pairs[1])
    for name, leaf in pairs[0].items():
        torch.testing.assert_close(leaf, pairs[1][name], rtol=1e-12, atol=zero)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_it_is_the_function_under_every_transform(name: str) -> None:
    assert_equal_to_rounding(TRANSFORMS[name](loss_of(AGAIN)), TRANSFORMS[name](loss_of(PLAIN)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_one_in_another_it_is_the_function_under_every_transform(name: str) -> None:
    assert_equal_to_rounding(TRANSFORMS[name](loss_of(DEEP)), TRANSFORMS[name](loss_of(PLAIN)))


@pytest.mark.parametrize("name", ["grad", "vmap of grad", "jvp of grad"])
def test_compiled_it_is_the_function(name: str) -> None:
    compiled = torch.compile(lambda: TRANSFORMS[name](loss_of(AGAIN)), backend="eager", fullgraph=True)
    assert_equal_to_rounding(compiled(), TRANSFORMS[name](loss_of(PLAIN)))


EXPORTED: dict[str, Callable[[Loss], Callable[..., Any]]] = {
    "grad": grad,
    "vmap of grad": lambda f: vmap(grad(lambda p, x: f(p, x[None])), (None, 0)),
    "jvp of grad": lambda f: lambda p, x: jvp(lambda z: grad(f)(p, z), (x,), (torch.cos(x),))[1],
    "jacrev": lambda f: jacrev(f, 1),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_its_files_pass_their_verdicts(name: str) -> None:
    args = tree.cast(PARAMS, torch.float32), X.float()
    verdict = export.verify(EXPORTED[name](loss_of(AGAIN)), args, dynamic=(None, {0: "batch"}), device="cpu")
    assert verdict.passed, verdict.table()


@pytest.mark.parametrize("name", ["grad", "jvp of grad"])
def test_a_compiled_gradient_keeps_less(name: str) -> None:
    x = torch.randn(4096, 8, generator=generator(3))
    needed = []
    for kept in (True, False):
        block = chain(6, 64, kept=kept)
        params, _ = block.init(generator())
        compiled = export.jit(EXPORTED[name](loss_of(block)), device="cpu")
        compiled(params, x)
        needed.append(compiled.compilations()[0].peak_bytes)
    assert needed[0] is not None
    assert needed[1] is not None
    assert needed[1] < 0.6 * needed[0]


def test_a_gradient_in_eager_keeps_its_arguments_only() -> None:
    def saved(fn: Callable[[torch.Tensor], torch.Tensor]) -> int:
        count = 0

        def note(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += 1
            return tensor

        x = torch.ones(3, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            fn(x)
        return count

    def long(x: torch.Tensor) -> torch.Tensor:
        return x.sin().exp().tanh().cos().sum()

    assert (saved(long), saved(pure.remat(long))) == (4, 1)


def test_state_noise_and_extras_pass_through() -> None:
    block = pure.Sequential(pure.Linear(4, 6), pure.BatchNorm(6), pure.Dropout(0.5))
    again = pure.checkpoint(block)
    params, state = again.init(generator(), torch.float64)
    x = torch.randn(5, 4, generator=generator(1), dtype=torch.float64)
    noise = again.noise(x.shape, generator(2), dtype=torch.float64)

    def trained(one: pure.Block) -> Any:
        def loss(params: Any) -> Any:
            y, new = one.apply(params, x, state, training=True, noise=noise)
            return y.square().sum(), new

        return grad(loss, has_aux=True)(params)

    for given, expected in zip(trained(again), trained(block), strict=True):
        assert_equal_to_rounding(given, expected, zero=1e-12)  # a bias in front of a norm has a gradient of zero
    assert again.children().keys() == block.children().keys()


@pytest.mark.parametrize("kind", [grad, lambda f: lambda p: jvp(f, (p,), (p,))[1]])
def test_running_statistics_are_not_differentiated(kind: Any) -> None:
    block = pure.Sequential(pure.Linear(4, 6), pure.BatchNorm(6))
    params, state = block.init(generator(), torch.float64)
    x = torch.randn(5, 4, generator=generator(1), dtype=torch.float64)
    given, expected = (
        kind(lambda p, one=one: one(p, x, state).square().sum())(params) for one in (pure.checkpoint(block), block)
    )
    assert_equal_to_rounding(given, expected)


def test_integers_and_booleans_pass_through() -> None:
    def picked(x: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"values": x.exp()[index], "index": index + 1, "positive": x > 0}

    index = torch.tensor([2, 0])
    again = pure.remat(picked)
    given, expected = (grad(lambda x, f=f: f(x, index)["values"].sum())(X[0]) for f in (again, picked))
    assert torch.equal(given, expected)
    assert torch.equal(again(X[0], index)["index"], torch.tensor([3, 1]))


def test_tags_inside_are_captured() -> None:
    again = pure.remat(lambda x: pure.tag(x.exp(), "inner").sum())
    _, seen = pure.capture(again)(X)
    assert torch.equal(seen["inner"], X.exp())


def test_a_tensor_that_would_get_no_gradient_is_an_error() -> None:
    def loss(weight: torch.Tensor) -> torch.Tensor:
        return pure.remat(lambda x: (weight * x).sum())(X)

    with pytest.raises(ArgumentError, match="closes over weight, which is being differentiated"):
        grad(loss)(X)
    with pytest.raises(ArgumentError, match="expected a pytree of tensors"):
        pure.remat(lambda x: (x, "text"))(X)
