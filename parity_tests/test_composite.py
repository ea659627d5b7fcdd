"""A composite's fields are its children: names, keys, noise, state and errors follow from one function."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import pure
from pure import tree
from pure.block import Block, Params, specification
from pure.composite import Composite, Run
from pure.errors import ArgumentError, NoiseError, TreeError
from pure.initializers import Constant, Device


@dataclass(frozen=True, repr=False)
class Mix(Composite):
    """a f(x) + g(f(x)), with a learnt."""

    first: Block
    second: Block
    note: str = "none"

    def own(self, generator: torch.Generator, dtype: torch.dtype, device: Device) -> Params:
        return {"a": Constant(2.0)((), generator, dtype, device)}

    def combine(self, run: Run, params: Params, x: Any, extras: Mapping[str, Any]) -> Any:
        y = run("first", x)
        return params["a"] * y + run("second", y)


def mix(**options: Any) -> Mix:
    return Mix(pure.Linear(3, 4), pure.Sequential(pure.BatchNorm(4), pure.Dropout(0.5)), **options)


def test_its_trees_are_the_childrens_and_its_own() -> None:
    block = mix()
    params, state = block.init(torch.Generator().manual_seed(0))
    assert tree.names(params) == ["first.weight", "first.bias", "second.0.weight", "second.0.bias", "a"]
    assert [name.rpartition(".")[2] for name in tree.names(state)] == [
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]
    assert block.has_params is True
    assert block == mix()
    assert block != mix(note="other")
    assert repr(block).startswith("Mix(first=Linear(in_features=3")


def test_it_computes_what_it_says() -> None:
    block = mix()
    params, state = block.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = x @ params["first"]["weight"].T + params["first"]["bias"]
    assert torch.allclose(block(params, x, state), 2 * y + y / (1 + 1e-5) ** 0.5, rtol=1e-14)


def test_noise_is_drawn_for_the_shape_that_reaches_each_child() -> None:
    block = mix()
    params, state = block.init(torch.Generator().manual_seed(0))
    noise = block.noise((5, 3), torch.Generator().manual_seed(1))
    assert {name: leaf.shape for name, leaf in tree.flatten(noise).items()} == {"second.1.mask": (5, 4)}
    _, new_state = block.apply(params, torch.ones(5, 3), state, {}, True, noise)
    assert int(new_state["second"]["0"]["num_batches_tracked"]) == 1
    with pytest.raises(NoiseError, match=r"block\.noise.*second"):
        block.apply(params, torch.ones(5, 3), state, {}, True, None)


def test_a_wrong_tree_is_one_error_that_lists_everything() -> None:
    block = mix()
    params, state = block.init(torch.Generator().manual_seed(0))
    broken = {"first": {"weight": params["first"]["weight"][:2]}, "second": params["second"], "b": params["a"]}
    with pytest.raises(TreeError) as caught:
        block(broken, torch.ones(5, 3), state)
    for part in ("first.bias", "first.weight", "'a'", "'b'"):
        assert part in str(caught.value)


def test_a_field_that_is_no_block_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"second=.*expected a Block"):
        Mix(pure.Linear(3, 4), torch.relu)  # type: ignore[arg-type]


def test_it_can_be_initialised_on_shapes_alone() -> None:
    params, _ = specification(mix())
    assert params["a"].device.type == "meta"
    assert mix().out_shape((7, 3)) == (7, 4)
