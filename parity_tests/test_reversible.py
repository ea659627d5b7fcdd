"""Reversible blocks give their input back, and their stack differentiates without storing what lies between."""

import itertools
from typing import Any

import pytest
import torch
from torch.func import grad, jvp, vmap

import export
import pure
from pure import tree
from pure.catalogue.parts import conv, mlp
from pure.compose import Sequential
from pure.errors import ArgumentError, RankError, ShapeError, UnsupportedError
from pure.layers import Activation, Dropout, Linear
from pure.skips import Residual
from pure.skips.reversible.coupling import Reversible, inverse
from pure.skips.reversible.equilibrium import Equilibrium
from pure.skips.reversible.euler import Euler
from pure.skips.reversible.momentum import Momentum
from pure.skips.reversible.reversal import ReversibleStack


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def couple(depth: int) -> tuple[Reversible, ...]:
    return tuple(Reversible(mlp(3, 5), mlp(3, 4)) for _ in range(depth))


X = torch.randn(5, 6, generator=generator(1), dtype=torch.float64)


def trained(state: Any) -> Any:
    return tree.tree_map(lambda leaf: leaf + 0.5 if leaf.is_floating_point() else leaf, state)


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (Reversible(mlp(3, 5), mlp(3, 4)), (5, 6)),
        (Reversible(mlp(4, 5), mlp(4, 4), axis=-1), (3, 5, 8)),
        (Sequential(*[Reversible(conv(2, 2), conv(2, 2)) for _ in range(4)]), (3, 4, 5, 5)),
        (Sequential(*couple(10)), (5, 6)),
        (ReversibleStack(couple(10)), (5, 6)),
        (Sequential(a=ReversibleStack(couple(2)), b=couple(1)[0]), (5, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, pure.Block) else None,
)
def test_the_inverse_undoes_the_block(block: pure.Block, shape: tuple[int, ...]) -> None:
    params, state = block.init(generator(), torch.float64)
    state = trained(state)
    x = torch.randn(shape, generator=generator(2), dtype=torch.float64)
    y = block(params, x, state)
    assert float((inverse(block, params, y, state) - x).abs().max()) < 1e-12
    assert float((block(params, inverse(block, params, x, state), state) - x).abs().max()) < 1e-12


def test_momentum_gives_back_input_and_velocity() -> None:
    net = Momentum(tuple(mlp() for _ in range(8)), gamma=0.9)
    params, _ = net.init(generator(), torch.float64)
    x, v = net.pair(params, X)
    assert torch.equal(x, net(params, X))
    back, start = inverse(net, params, (x, v))
    assert float((back - X).abs().max()) < 1e-12
    assert float(start.abs().max()) < 1e-12, "the velocity was zero at first"


def test_momentum_without_memory_is_the_residual_network() -> None:
    net = Momentum(tuple(mlp() for _ in range(3)), gamma=0.0)
    params, _ = net.init(generator(), torch.float64)
    plain = {name: {"branch": part} for name, part in params.items()}
    assert torch.equal(net(params, X), Sequential(*[Residual(mlp())] * 3)(plain, X))
    with pytest.raises(ArgumentError, match="above 0"):
        net.inverse(params, (X, X))


def test_what_has_no_inverse_says_so() -> None:
    with pytest.raises(UnsupportedError, match="Linear"):
        inverse(Sequential(Linear(2, 2)), {}, torch.zeros(1, 2))


def stored(block: pure.Block) -> int:
    """How many bytes autograd keeps for the backward pass, parameters apart."""
    params, _ = block.init(generator())
    leaves, spec = tree.tree_flatten(params)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = block(tree.tree_unflatten(leaves, spec), torch.ones(100, 6))
    y.sum().backward()
    return sum(kept.values())


def test_the_stack_stores_its_output_alone() -> None:
    assert stored(ReversibleStack(couple(2))) == stored(ReversibleStack(couple(20))) == 100 * 6 * 4
    assert stored(Sequential(*couple(20))) > 15 * 100 * 6 * 4


def test_the_gradient_of_the_stack_is_that_of_the_chain() -> None:
    stack, chain = ReversibleStack(couple(6)), Sequential(*couple(6))
    params, _ = stack.init(generator(), torch.float64)

    def derivatives(block: pure.Block) -> list[torch.Tensor]:
        def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
            return block(params, x).square().sum()

        first = grad(loss, argnums=(0, 1))(params, X)
        samples = vmap(grad(lambda p, s: loss(p, s[None])), (None, 0))(params, X)
        second = jvp(grad(lambda x: loss(params, x)), (X,), (X,))[1]
        return [*tree.leaves(first), *tree.leaves(samples), second]

    for ours, theirs in zip(derivatives(stack), derivatives(chain), strict=True):
        assert float((ours - theirs).abs().max()) < 1e-12 * max(1.0, float(theirs.abs().max()))


def test_the_gradient_of_the_stack_compiles_and_exports() -> None:
    stack = ReversibleStack(couple(3))
    params, _ = stack.init(generator())
    x = torch.randn(4, 6, generator=generator(3))

    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        return stack(params, x).square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(grad(loss), fullgraph=True, backend="eager")(params, x)
    for a, b in zip(tree.leaves(compiled), tree.leaves(grad(loss)(params, x)), strict=True):
        torch.testing.assert_close(a, b)
    assert export.verify(grad(loss), (params, x), dynamic=(None, {0: "batch"})).passed


@pytest.mark.parametrize(
    "branch", [mlp(), Residual(mlp()), Reversible(Dropout(0.5), mlp(3, 4)), Reversible(conv(3, 3), conv(3, 3))]
)
def test_the_stack_refuses_what_it_cannot_recompute(branch: pure.Block) -> None:
    with pytest.raises(ArgumentError, match="Sequential"):
        ReversibleStack((branch,))


def test_euler_converges_to_the_flow_at_first_order() -> None:
    """x' = −x t has the solution x₀ exp(−t²/2)."""
    field = pure.Function(lambda x: -x[:, :1] * x[:, 1:])
    exact = torch.exp(torch.tensor(-0.5, dtype=torch.float64))
    x = torch.ones(1, 1, dtype=torch.float64)
    errors = [float((Euler(field, 1 / n, steps=n)({}, x) - exact).abs()) for n in (16, 32, 64, 128)]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.9 < coarse / fine < 2.1


def test_an_euler_step_without_time_is_a_residual_block() -> None:
    block = Euler(mlp(), 0.5, timed=False)
    params, _ = block.init(generator(), torch.float64)
    assert torch.equal(block(params, X), Residual(mlp(), scale=0.5)(params, X))


def contraction() -> tuple[Equilibrium, Any]:
    branch = Sequential(fc=Linear(12, 6), act=Activation("tanh"))
    block = Equilibrium(branch, iterations=80, damping=0.9)
    params, _ = block.init(generator(), torch.float64)
    return block, tree.tree_map(lambda leaf: 0.5 * leaf, params)


def test_the_equilibrium_is_a_fixed_point() -> None:
    block, params = contraction()
    z = block(params, X)
    again = block.branch(params["branch"], torch.cat([z, X], -1))
    assert float((again - z).abs().max()) < 1e-14


def test_the_implicit_gradient_is_that_of_the_unrolled_iterations() -> None:
    block, params = contraction()

    def unrolled(params: Any, x: torch.Tensor) -> torch.Tensor:
        return pure.capture(block)(params, x)[0]

    def derivatives(f: Any) -> list[torch.Tensor]:
        def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
            return f(params, x).square().sum()

        pushed = jvp(lambda p: f(p, X), (params,), (params,))[1]
        return [*tree.leaves(grad(loss, argnums=(0, 1))(params, X)), pushed]

    for ours, theirs in zip(derivatives(block), derivatives(unrolled), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_the_equilibrium_stores_no_iterate() -> None:
    def make(iterations: int) -> Equilibrium:
        return Equilibrium(Sequential(fc=Linear(12, 6), act=Activation("tanh")), iterations)

    assert stored(make(10)) == stored(make(100)) == 2 * 100 * 6 * 4, "the output and the input"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Momentum((mlp(),), gamma=1.0), "below 1"),
        (lambda: Euler(mlp(), 0.1, steps=0), "at least 1"),
        (lambda: Equilibrium(mlp(), iterations=0), "at least 1"),
        (lambda: Equilibrium(mlp(), damping=0.0), "damping"),
        (lambda: Equilibrium(conv(3, 3)), "state or noise"),
    ],
)
def test_wrong_arguments_are_named(make: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        make()


@pytest.mark.parametrize(
    ("block", "shape", "error", "match"),
    [
        (Reversible(mlp(3, 5), mlp(3, 4)), (2, 7), ShapeError, "even size"),
        (Reversible(mlp(3, 5), mlp(3, 4), axis=4), (2, 6), ShapeError, "even size"),
        (Reversible(Linear(3, 2), mlp(3, 4)), (2, 6), ShapeError, "one shape"),
        (Momentum((Linear(6, 5),)), (2, 6), ShapeError, "one shape"),
        (Euler(Linear(7, 5), 0.1), (2, 6), ShapeError, "one shape"),
        (Euler(Linear(7, 5), 0.1), (6,), RankError, "batch"),
        (Equilibrium(Linear(12, 5)), (2, 6), ShapeError, "one shape"),
        (Equilibrium(Linear(12, 5)), (6,), RankError, "batch"),
    ],
)
def test_wrong_inputs_are_named(block: pure.Block, shape: tuple[int, ...], error: type[Exception], match: str) -> None:
    params, _ = block.init(generator())
    with pytest.raises(error, match=match):
        block(params, torch.zeros(shape))
