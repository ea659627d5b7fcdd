"""Measurements of a block take their arguments in one order, and say where a misplaced one belongs."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import pure
from pure import flow
from pure.errors import ArgumentError

OF_A_BLOCK = (flow.audit, flow.signal, flow.gates, flow.deletion, flow.depth_profile, flow.partial_jacobians)
ALONG_A_DIRECTION = (flow.path_spectrum, flow.path_coherence)
OF_A_LOSS = (flow.audit, flow.deletion, flow.depth_profile)
ALL = OF_A_BLOCK + ALONG_A_DIRECTION

BLOCK = pure.Residual(pure.Sequential(fc=pure.Linear(3, 3), norm=pure.BatchNorm(3)))
PARAMS, STATE = BLOCK.init(torch.Generator().manual_seed(0))
X = torch.ones(2, 3)
CONTROL = {"control": torch.ones(2)}


def squared(y: torch.Tensor) -> torch.Tensor:
    return y.square().sum()


def call(measure: Callable[..., Any], *trees: Any, **options: Any) -> Any:
    """Call a measurement with what it needs beside the trees behind its input."""
    if measure in ALONG_A_DIRECTION:
        trees = (X, *trees)
    if measure in (flow.deletion, flow.depth_profile):
        options = {"loss": squared} | options
    if measure is flow.path_coherence:
        options["generator"] = torch.Generator().manual_seed(0)
    return measure(BLOCK, PARAMS, X, *trees, **options)


@pytest.mark.parametrize("measure", ALL, ids=lambda measure: measure.__name__)
def test_blocks_come_first_and_options_have_names(measure: Callable[..., Any]) -> None:
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(measure).parameters
    direction = ["v"] if measure in ALONG_A_DIRECTION else []
    placed = [name for name, parameter in parameters.items() if parameter.kind is not parameter.KEYWORD_ONLY]
    assert placed == ["block", "params", "x", *direction, "state", "extras"]


@pytest.mark.parametrize("name", sorted(set(flow.__all__)))
def test_no_function_takes_an_option_by_its_place(name: str) -> None:
    value = getattr(flow, name)
    if not inspect.isfunction(value):
        return
    optional = {
        parameter.name
        for parameter in inspect.signature(value).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is not parameter.empty
    }
    assert optional <= {"state", "extras", "x2", "console", "stacked"}


@pytest.mark.parametrize("measure", ALL, ids=lambda measure: measure.__name__)
def test_a_misplaced_argument_is_told_where_it_belongs(measure: Callable[..., Any]) -> None:
    name = measure.__name__
    with pytest.raises(ArgumentError, match=rf"{name} state holds 'control', .* goes into extras: expected {name}\("):
        call(measure, CONTROL)
    with pytest.raises(ArgumentError, match=rf"{name} extras holds the state of Residual"):
        call(measure, {}, STATE)
    with pytest.raises(ArgumentError, match=rf"{name}: multiple values for argument 'state': expected {name}\("):
        call(measure, STATE, state=STATE)
    with pytest.raises(ArgumentError, match=rf"{name} state is a function: a loss is given by its name"):
        call(measure, squared)
    with pytest.raises(ArgumentError, match=rf"{name} state is Tensor: expected a dict"):
        call(measure, torch.zeros(2))
    with pytest.raises(ArgumentError, match=rf"{name}: too many positional arguments"):
        call(measure, STATE, {}, X)
    with pytest.raises(ArgumentError, match=rf"{name}: got an unexpected keyword argument 'nonsense'"):
        call(measure, STATE, nonsense=1)


@pytest.mark.parametrize("measure", OF_A_LOSS, ids=lambda measure: measure.__name__)
def test_targets_are_a_tuple_behind_the_output(measure: Callable[..., Any]) -> None:
    y = torch.tensor([0, 1])
    with pytest.raises(ArgumentError, match=r"state is Tensor: .* goes into targets=\(y,\)"):
        call(measure, y)
    with pytest.raises(ArgumentError, match=r"targets is Tensor: expected a tuple"):
        call(measure, STATE, loss=torch.nn.functional.cross_entropy, targets=y)
    with pytest.raises(ArgumentError, match="loss is Tensor: expected a function"):
        call(measure, STATE, loss=y)
    found = call(measure, STATE, loss=torch.nn.functional.cross_entropy, targets=(y,))
    expected = torch.nn.functional.cross_entropy(BLOCK(PARAMS, X, STATE), y)
    torch.testing.assert_close(torch.tensor(found.loss), expected)
