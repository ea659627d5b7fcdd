"""The tutorials' networks equal their nn.Module versions: outputs, gradients, initial weights, new state."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad

import pure
from parity_tests import modules
from pure import nets, tree
from pure.errors import ArgumentError, ShapeError

Pair = tuple[Callable[[], pure.Block], Callable[[], nn.Module], tuple[int, ...]]

PAIRS: dict[str, Pair] = {
    "simple_block": (lambda: nets.simple_block(6, 8, 3), lambda: modules.SimpleBlock(6, 8, 3), (5, 6)),
    "simple_block_with_skip": (
        lambda: nets.simple_block_with_skip(6, 8, 6),
        lambda: modules.SimpleBlockWithSkip(6, 8, 6),
        (5, 6),
    ),
    "residual_mlp": (
        lambda: nets.residual_mlp(6, 8, 4, 0.5, "tanh"),
        lambda: modules.ResidualMLP(6, 8, 4, 0.5, torch.tanh),
        (5, 6),
    ),
    "tutorial_resnet": (nets.tutorial_resnet, modules.TutorialResNet, (2, 3, 8, 8)),
    "block_same": (
        lambda: nets.residual_block(4, 4, "same"),
        lambda: modules.ResidualBlock(4, 4, "same"),
        (2, 4, 9, 8),
    ),
}
for _name in ("project", "pad", "pad_centred", "crop", "interpolate"):
    for _padding in (0, 1):
        PAIRS[f"block_{_name}_{_padding}"] = (
            lambda name=_name, padding=_padding: nets.residual_block(3, 8, padding, name),
            lambda name=_name, padding=_padding: modules.ResidualBlock(3, 8, padding, name),
            (2, 3, 9, 8),
        )

each_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def constructed(make: Callable[[], nn.Module], dtype: torch.dtype, seed: int = 7) -> nn.Module:
    """Return the module as `torch.manual_seed(seed)` under that default dtype makes it."""
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return make()
    finally:
        torch.set_default_dtype(torch.float32)


@each_pair
@both_dtypes
def test_initial_weights_are_bit_identical(pair: Pair, dtype: torch.dtype) -> None:
    block, module = pair[0](), constructed(pair[1], dtype)
    params, state = block.init(torch.Generator().manual_seed(7), dtype)
    ours, theirs = tree.leaves(params), list(module.parameters())
    assert not tree.leaves(state)
    assert [leaf.shape for leaf in ours] == [leaf.shape for leaf in theirs]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@each_pair
def test_outputs_and_gradients_equal_the_module(pair: Pair) -> None:
    block, module = pair[0](), constructed(pair[1], torch.float64)
    params, _ = block.init(torch.Generator().manual_seed(7), torch.float64)
    x = torch.randn(pair[2], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float((block(params, x) - module(x).detach()).abs().max()) <= 1e-12
    weight = torch.linspace(-1, 1, module(x).numel(), dtype=torch.float64).reshape(module(x).shape)

    def loss(params: Any, x: Tensor) -> Tensor:
        return (block(params, x) * weight).sum()

    by_params, by_input = grad(loss, argnums=(0, 1))(params, x)
    leaf = x.clone().requires_grad_()
    (module(leaf) * weight).sum().backward()
    assert leaf.grad is not None
    assert float((by_input - leaf.grad).abs().max()) <= 1e-12
    for ours, theirs in zip(tree.leaves(by_params), module.parameters(), strict=True):
        assert theirs.grad is not None
        assert float((ours - theirs.grad).abs().max()) <= 1e-12 * max(1.0, float(theirs.grad.abs().max()))


@pytest.mark.parametrize("control", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("mode", ["select", "branch", "static"])
def test_dynamic_net_equals_the_module_in_every_mode(mode: str, control: float) -> None:
    block, module = (
        nets.dynamic_net(6, 8, 3, mode=mode),
        constructed(lambda: modules.DynamicNet(6, 8, 3), torch.float64),
    )
    params, _ = block.init(torch.Generator().manual_seed(7), torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(params), module.parameters(), strict=True))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = control > 0.5 if mode == "static" else torch.tensor(control)
    y = block(params, x, {}, {"control": given})
    assert float((y - module(x, control).detach()).abs().max()) <= 1e-12
    if mode == "branch":
        return  # PyTorch defines no torch.func.grad of torch.cond; select is the mode for training
    gradient = grad(lambda p: block(p, x, {}, {"control": given}).square().sum())(params)
    module(x, control).square().sum().backward()
    for ours, theirs in zip(tree.leaves(gradient), module.parameters(), strict=True):
        expected = torch.zeros_like(ours) if theirs.grad is None else theirs.grad
        assert float((ours - expected).abs().max()) <= 1e-12


@pytest.mark.parametrize("mode", ["select", "branch"])
def test_dynamic_net_takes_one_control_a_sample(mode: str) -> None:
    block = nets.dynamic_net(6, 8, 3, mode=mode)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x, control = torch.randn(4, 6), torch.tensor([0.9, 0.1, 0.6, 0.5])
    together = block(params, x, {}, {"control": control})
    for i in range(4):
        alone = block(params, x[i : i + 1], {}, {"control": control[i]})
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=1e-6)
    mapped = torch.func.vmap(lambda row, c: nets.dynamic_net(6, 8, 3)(params, row[None], {}, {"control": c})[0])(
        x, control
    )
    torch.testing.assert_close(mapped, together, rtol=1e-6, atol=1e-6)


def test_branch_mode_runs_the_middle_layer_only_when_needed() -> None:
    calls: list[int] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(1)
        return x * 2

    block = pure.Dynamic(pure.Function(counted), mode="static")
    block({}, torch.ones(1, 2), {}, {"control": False})
    assert not calls
    block({}, torch.ones(1, 2), {}, {"control": True})
    assert calls == [1]


@pytest.mark.parametrize("control", [0.2, 0.9])
def test_branch_mode_takes_any_memory_layout(control: float) -> None:
    conv = pure.Conv2d(3, 3, 3, padding=1)
    params, _ = pure.Dynamic(conv).init(torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    extras = {"control": torch.tensor(control)}
    branch, select = pure.Dynamic(conv, mode="branch"), pure.Dynamic(conv)
    torch.testing.assert_close(branch(params, x, {}, extras), select(params, x, {}, extras))


@pytest.mark.parametrize(
    ("control", "error", "words"),
    [
        (torch.zeros(3), ShapeError, r"control of shape \(3,\) for a batch of 5"),
        (torch.zeros(5, 1), ShapeError, "or one a sample"),
        (True, ArgumentError, "bool, expected a float or a tensor"),
        (None, ArgumentError, "NoneType"),
    ],
)
def test_a_wrong_control_is_a_clear_error(control: Any, error: type[Exception], words: str) -> None:
    block = nets.dynamic_net(6, 8, 3)
    params, _ = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(error, match=words):
        block(params, torch.zeros(5, 6), {}, {"control": control})


def test_a_missing_control_and_a_static_tensor_are_clear_errors() -> None:
    block, static = nets.dynamic_net(6, 8, 3), nets.dynamic_net(6, 8, 3, mode="static")
    params, _ = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(ArgumentError, match="pass extras"):
        block(params, torch.zeros(5, 6))
    with pytest.raises(ArgumentError, match="Python bool"):
        static(params, torch.zeros(5, 6), {}, {"control": torch.tensor(0.9)})
    with pytest.raises(ArgumentError, match="select, branch, static"):
        nets.dynamic_net(6, 8, 3, mode="if")


def test_the_block_as_the_tutorial_writes_it_names_both_shapes_and_every_way_out() -> None:
    block = nets.residual_block(3, 64)
    params, _ = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(ShapeError) as caught:
        block(params, torch.zeros(2, 3, 32, 32))
    message = str(caught.value)
    for part in ("(2, 3, 32, 32)", "(2, 64, 28, 28)", "padding='same'", "crop", "project", "pad", "interpolate"):
        assert part in message
    with pytest.raises(RuntimeError):
        modules.ResidualBlock(3, 64)(torch.zeros(2, 3, 32, 32))


def test_a_branch_of_width_one_is_not_broadcast() -> None:
    block = pure.Residual(pure.Linear(4, 1))
    params, _ = block.init(torch.Generator().manual_seed(0))
    with pytest.raises(ShapeError, match=r"\(2, 4\).*\(2, 1\)"):
        block(params, torch.zeros(2, 4))


def test_batch_norm_residual_equals_the_module_in_training_with_new_state() -> None:
    module = constructed(lambda: modules.BasicBlock(4, 6, 2), torch.float64)
    wild = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=wild, dtype=tensor.dtype))
    names = {"branch.conv1": "conv1", "branch.norm1": "bn1", "branch.conv2": "conv2", "branch.norm2": "bn2"}
    row = pure.catalogue.case("residual_conv")
    block = pure.Rename(row.make(), names)
    renames = {"downsample.0": "shortcut.conv", "downsample.1": "shortcut.norm"}

    def ours(flat: dict[str, Tensor]) -> Any:
        named = {}
        for name, leaf in flat.items():
            for old, new in renames.items():
                name = name.replace(old, new)
            named[name] = leaf.detach().clone()
        return tree.unflatten(named)

    params, state = ours(dict(module.named_parameters())), ours(dict(module.named_buffers()))
    pure.check_params(block, params, state)
    x = torch.randn(4, 4, 7, 7, generator=wild, dtype=torch.float64)
    assert float((block(params, x, state) - module.eval()(x).detach()).abs().max()) <= 1e-12
    module.train()

    def loss(params: Any, x: Tensor) -> tuple[Tensor, Any]:
        y, new_state = block.apply(params, x, state, {}, True)
        return y.square().sum(), new_state

    (by_params, by_input), new_state = grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    leaf = x.clone().requires_grad_()
    module(leaf).square().sum().backward()
    assert leaf.grad is not None
    assert float((by_input - leaf.grad).abs().max()) <= 1e-12 * max(1.0, float(leaf.grad.abs().max()))
    theirs = tree.flatten(ours({name: p.grad for name, p in module.named_parameters() if p.grad is not None}))
    for name, value in tree.flatten(by_params).items():
        assert float((value - theirs[name]).abs().max()) <= 1e-12 * max(1.0, float(theirs[name].abs().max()))
    after = tree.flatten(ours(dict(module.named_buffers())))
    for name, value in tree.flatten(new_state).items():
        assert float((value - after[name]).abs().max()) <= 1e-12
