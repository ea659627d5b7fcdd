"""What a call and a gradient of a block cost, against the eager module and against `torch.func.functional_call`.

All three compute with the same weights. A call is timed under `torch.no_grad()`; a gradient is that of the mean square
of the output by every parameter.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

import pure
from benchmarks.agreement import same_leaves
from benchmarks.harness import QUICK, Budget, Comparison, Contender, Measurement, measure
from parity_tests.modules import ResidualMLP, SimpleBlockWithSkip, TutorialResNet
from pure import Block, Repeat, nets, tree

NAME = "blocks"


@dataclass(frozen=True)
class Case:
    """One network in both forms.

    Attributes:
        name: What the table calls it.
        make_block: Builds the pure block.
        make_module: Builds the plain module with the same leaves in the same order, as tutorials write it.
        make_lean: Builds a module that calls functions in place of parameter-free submodules, where there is one.
        x_shape: Shape of the input, batch first.
        make_stacked: Builds the same network with its parameters stacked over the depth, where there is such a form.
        quick: Whether `--quick` times it too.
    """

    name: str
    make_block: Callable[[], Block]
    make_module: Callable[[], nn.Module]
    x_shape: tuple[int, ...]
    make_lean: Callable[[], nn.Module] | None = None
    make_stacked: Callable[[], Block] | None = None
    quick: bool = False


def residual_mlp(width: int, batch: int, quick: bool = False) -> Case:
    """16 residual layers of two linear maps each."""
    return Case(
        name=f"16 residual MLP blocks, width {width}, batch {batch}",
        make_block=lambda: nets.residual_mlp(width, width, 16),
        make_module=lambda: nn.Sequential(*(SimpleBlockWithSkip(width, width, width) for _ in range(16))),
        make_lean=lambda: ResidualMLP(width, width, 16),
        x_shape=(batch, width),
        make_stacked=lambda: Repeat(nets.residual_mlp_block(width, width), 16),
        quick=quick,
    )


CASES = (
    residual_mlp(16, 1, quick=True),
    residual_mlp(256, 128),
    Case("tutorial ResNet, 32×32, batch 1", nets.tutorial_resnet, TutorialResNet, (1, 3, 32, 32)),
)


def measurements(quick: bool = False) -> Iterator[Measurement]:
    """Every comparison, measured."""
    for comparison in comparisons(quick):
        yield measure(comparison, QUICK if quick else Budget())


def comparisons(quick: bool = False) -> Iterator[Comparison]:
    """The call, then the gradient, of each case; built one at a time."""
    for case in CASES:
        if quick and not case.quick:
            continue
        generator = torch.Generator().manual_seed(0)
        block = case.make_block()
        params, state = block.init(generator)
        module = with_weights(case.make_module(), params)
        x = torch.randn(case.x_shape, generator=generator)
        yield call(case, block, params, state, module, x)
        yield gradient(case, block, params, state, module, x)
        if case.make_stacked is not None:
            yield floor(case, params, module, x)


def with_weights(module: nn.Module, params: tree.Tree) -> nn.Module:
    """The module with the values of `params`, leaf by leaf in order."""
    with torch.no_grad():
        for parameter, leaf in zip(module.parameters(), tree.leaves(params), strict=True):
            parameter.copy_(leaf)
    return module.eval()


def call(
    case: Case, block: Block, params: tree.Tree, state: tree.Tree, module: nn.Module, x: torch.Tensor
) -> Comparison:
    """One evaluation, with gradients off on every side."""
    named = dict(module.named_parameters())

    def by_module() -> torch.Tensor:
        with torch.no_grad():
            return module(x)

    def by_functional_call() -> torch.Tensor:
        with torch.no_grad():
            return torch.func.functional_call(module, named, (x,))

    def by_block() -> torch.Tensor:
        with torch.no_grad():
            return block(params, x, state)

    def by_lean_module() -> torch.Tensor:
        with torch.no_grad():
            return lean(x)

    contenders = [
        Contender("nn.Module, eager", by_module),
        Contender("functional_call", by_functional_call),
        Contender("pure block", by_block),
    ]
    if case.make_lean is not None:
        lean = with_weights(case.make_lean(), params)
        contenders.insert(1, Contender("nn.Module with F.relu, eager", by_lean_module))
    return Comparison(f"call: {case.name}", tuple(contenders), same_leaves, facts(params))


def gradient(
    case: Case, block: Block, params: tree.Tree, state: tree.Tree, module: nn.Module, x: torch.Tensor
) -> Comparison:
    """The gradient by all parameters: autograd through the module, against transforms of two functions.

    `torch.func.vjp` is timed beside `torch.func.grad` because the latter always records the backward pass as well, for
    a further derivative, and the former's result can be asked for without.
    """
    parameters = tuple(module.parameters())
    named = {name: parameter.detach() for name, parameter in module.named_parameters()}
    grad_of_functional_call = torch.func.grad(lambda p: torch.func.functional_call(module, p, (x,)).square().mean())
    grad_of_block = torch.func.grad(lambda p: block(p, x, state).square().mean())
    one = torch.ones(())

    def by_module() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(module(x).square().mean(), parameters)

    def by_backward() -> list[torch.Tensor | None]:
        module.zero_grad(set_to_none=True)
        module(x).square().mean().backward()
        return [parameter.grad for parameter in parameters]

    def by_functional_call() -> dict[str, torch.Tensor]:
        return grad_of_functional_call(named)

    def by_block() -> tree.Tree:
        return grad_of_block(params)

    def by_block_vjp() -> tree.Tree:
        _, pull_back = torch.func.vjp(lambda p: block(p, x, state).square().mean(), params)
        with torch.no_grad():
            return pull_back(one)[0]

    own = pure.grad(lambda p: block(p, x, state).square().mean())
    contenders = (
        Contender("nn.Module, autograd.grad", by_module),
        Contender("nn.Module, backward()", by_backward),
        Contender("functional_call, func.grad", by_functional_call),
        Contender("pure block, func.grad", by_block),
        Contender("pure block, func.vjp", by_block_vjp),
        Contender("pure block, pure.grad", lambda: own(params)),
        *stacked(case, params, x),
    )
    return Comparison(f"gradient: {case.name}", contenders, same_gradients, facts(params))


def stacked(case: Case, params: tree.Tree, x: torch.Tensor) -> tuple[Contender, ...]:
    """The gradient of the same network as a `Repeat`: one leaf a parameter, whatever the depth."""
    if case.make_stacked is None:
        return ()
    block, together = case.make_stacked(), pure.stack(list(params.values()))
    loss, one = lambda p: block(p, x).square().mean(), torch.ones(())
    by_func, own = torch.func.grad(loss), pure.grad(loss)

    def by_vjp() -> tree.Tree:
        _, pull_back = torch.func.vjp(loss, together)
        with torch.no_grad():
            return pull_back(one)[0]

    return (
        Contender("Repeat, func.grad", lambda: by_func(together)),
        Contender("Repeat, func.vjp", by_vjp),
        Contender("Repeat, pure.grad", lambda: own(together)),
    )


def same_gradients(expected: object, found: object) -> None:
    """Raise where two gradients differ; one of them may be stacked over the depth."""
    if len(tree.leaves(found)) < len(tree.leaves(expected)):
        found = pure.unstack(found)
    same_leaves(expected, found)


def floor(case: Case, params: tree.Tree, module: nn.Module, x: torch.Tensor) -> Comparison:
    """What `torch.func.grad` costs before the network does anything: the gradient of the sum of one leaf."""
    parameters, name = tuple(module.parameters()), tree.names(params)[-1]
    of_one_leaf = torch.func.grad(lambda p: tree.flatten(p)[name].sum())

    def gradient_of_one_leaf_is_one(_: object, found: object) -> None:
        assert torch.equal(tree.flatten(found)[name], torch.ones_like(tree.flatten(params)[name]))

    contenders = (
        Contender("nn.Module, the whole gradient", lambda: torch.autograd.grad(module(x).square().mean(), parameters)),
        Contender("func.grad of one leaf's sum, same tree", lambda: of_one_leaf(params)),
    )
    return Comparison(f"floor of func.grad: {case.name}", contenders, gradient_of_one_leaf_is_one, facts(params))


def facts(params: tree.Tree) -> dict[str, object]:
    """What the table and the file say beside the numbers."""
    return {"parameters": tree.count(params), "dtype": "float32"}
