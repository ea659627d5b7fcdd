"""Blocks become modules and modules become blocks, with the same names, values and training steps."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import grad

import pure
from parity_tests import modules
from pure import interop, tree
from pure.errors import ArgumentError, NoiseError, TreeError, UnsupportedError


def test_a_module_becomes_a_block_and_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    block, params, state = interop.from_module(module)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, new_state = block.apply(params, x, state, {}, True)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training
    assert torch.equal(y, module(x).detach())
    assert torch.equal(new_state["1"]["running_var"], module[1].running_var)
    assert torch.equal(block(params, x, new_state), module.eval()(x).detach())


def test_gradients_through_a_module_block() -> None:
    module = modules.SimpleBlockWithSkip(4, 8, 4).double()
    block, params, _ = interop.from_module(module)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradient = grad(lambda p: block(p, x).square().sum())(params)
    module(x).square().sum().backward()
    for name, value in tree.flatten(gradient).items():
        torch.testing.assert_close(value, module.get_parameter(name).grad, rtol=1e-12, atol=1e-12)


def test_extras_are_keyword_arguments_and_a_tuple_is_several_inputs() -> None:
    module = modules.DynamicNet(4, 8, 2)
    block, params, _ = interop.from_module(module)
    x = torch.ones(2, 4)
    assert torch.equal(block(params, x, {}, {"control": 0.9}), module(x, 0.9).detach())
    bilinear = nn.Bilinear(2, 3, 4)
    block, params, _ = interop.from_module(bilinear)
    pair = (torch.ones(5, 2), torch.ones(5, 3))
    assert torch.equal(block(params, pair), bilinear(*pair).detach())


def test_tied_parameters_are_kept_once() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    block, params, _ = interop.from_module(module)
    assert tree.names(params) == ["0.weight", "0.bias", "2.bias"]
    doubled = tree.tree_map(lambda leaf: leaf * 2, params)
    x = torch.ones(1, 3)
    expected = (
        torch.relu(x @ doubled["0"]["weight"].T + doubled["0"]["bias"]) @ doubled["0"]["weight"].T
        + doubled["2"]["bias"]
    )
    torch.testing.assert_close(block(doubled, x), expected)


def test_a_wrong_tree_for_a_module_block_lists_everything() -> None:
    block, params, _ = interop.from_module(modules.SimpleBlock(2, 3, 2))
    with pytest.raises(TreeError, match=r"missing 'fc2.weight'(.|\n)*extra 'fc3.weight'"):
        block({"fc1": params["fc1"], "fc3": params["fc2"]}, torch.ones(1, 2))
    with pytest.raises(ArgumentError, match=r"expected a torch.nn.Module"):
        interop.from_module(torch.relu)  # type: ignore[arg-type]


def test_block_to_module_to_block_is_the_same_function() -> None:
    block, params, state, x, extras = pure.catalogue.case("residual_conv").example()
    module = interop.to_module(block, params, state)
    again, params2, state2 = interop.from_module(module.eval())
    assert torch.equal(again(params2, x, state2), block(params, x, state, extras))
    assert tree.names(params2) == tree.names(params)


def test_module_trains_with_torch_optim_and_updates_its_buffers() -> None:
    block, params, state, x, _ = pure.catalogue.case("residual_conv").example()
    module = interop.to_module(block, params, state)
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (module(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert int(module.get_buffer("branch.norm1.num_batches_tracked")) == 5
    assert tree.flatten(state)["branch.norm1.num_batches_tracked"] == 0, "the caller's tree is a copy"


def test_a_stochastic_module_draws_from_its_own_generator() -> None:
    def run(seed: int | None) -> Any:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return interop.to_module(pure.Dropout(0.5), {}, {}, generator=generator)(torch.ones(4, 64))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    with pytest.raises(NoiseError, match=r"block\.noise"):
        run(None)


def test_names_that_a_module_needs_are_refused() -> None:
    own = pure.Function(lambda params, x: x * params["training"], lambda generator: {"training": torch.ones(1)})
    with pytest.raises(TreeError, match="another name"):
        interop.to_module(own, *own.init(torch.Generator()))
    with pytest.raises(TreeError, match="missing 'weight'"):
        interop.to_module(pure.Linear(2, 2), {})


def test_a_buffer_that_forward_replaces_is_the_new_state() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = self.seen + 1
            return x * self.seen

    block, params, state = interop.from_module(Counter())
    y, new_state = block.apply(params, torch.ones(2, 3), state, {}, True)
    assert float(new_state["seen"]) == 1
    y, new_state = block.apply(params, torch.ones(2, 3), new_state, {}, True)
    assert float(new_state["seen"]) == 2
    assert torch.equal(y, torch.full((2, 3), 2.0))
    assert float(state["seen"]) == 0


def test_an_in_place_activation_leaves_the_input_as_it_is() -> None:
    module = nn.ReLU(inplace=True)
    block, params, state = interop.from_module(module)
    x = -torch.ones(2, 2)
    assert torch.equal(block(params, x, state), torch.zeros(2, 2))
    assert torch.equal(x, -torch.ones(2, 2))
    assert module.inplace


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_by_hooks_becomes_a_block() -> None:
    module = nn.utils.weight_norm(nn.Linear(3, 2))
    block, params, state = interop.from_module(module)
    x = torch.ones(4, 3)
    assert torch.equal(block(params, x, state), module(x).detach())
    doubled = {**params, "weight_g": params["weight_g"] * 2}
    expected = 2 * (block(params, x, state) - params["bias"]) + params["bias"]
    torch.testing.assert_close(block(doubled, x, state), expected)


def test_a_half_precision_module_keeps_its_batch_norm() -> None:
    block = pure.Sequential(pure.Conv2d(2, 2, 1), pure.BatchNorm(2))
    module = interop.to_module(block, *block.init(torch.Generator().manual_seed(0))).half()
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(1)).half()
    for mode in (module.train(), module.eval()):
        assert mode(x).dtype == torch.float16


def test_a_module_with_dropout_needs_noise_and_leaves_the_global_generator_alone() -> None:
    block, params, state = interop.from_module(nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5)))
    x = torch.ones(2, 3)
    assert block.stochastic
    with pytest.raises(NoiseError, match=r"block\.noise"):
        block.apply(params, x, state, {}, True)
    noise = block.noise((2, 3), torch.Generator().manual_seed(0))
    before = torch.random.get_rng_state()
    first, _ = block.apply(params, x, state, {}, True, noise)
    again, _ = block.apply(params, x, state, {}, True, noise)
    other, _ = block.apply(params, x, state, {}, True, block.noise((2, 3), torch.Generator().manual_seed(1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_batch_norm_frozen_on_purpose_stays_frozen() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    module[1].eval()
    block, params, state = interop.from_module(module)
    _, new_state = block.apply(params, torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), state, {}, True)
    assert int(new_state["1"]["num_batches_tracked"]) == 0


def test_a_buffer_that_a_call_makes_is_refused() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = x.sum()
            return x + self.seen

    block, params, state = interop.from_module(Lazy())
    with pytest.raises(UnsupportedError, match="register them"):
        block(params, torch.ones(1, 2), state)
