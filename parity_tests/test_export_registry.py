"""The registry knows every family of operators, and every table that a family has."""

from __future__ import annotations

import pkgutil
from types import ModuleType
from typing import Any

import pytest
import torch
from torch._ops import OpOverload

import export.ops
from export.ops import activation, registry

TABLES = (
    "LOWERINGS",
    "DECOMPOSITIONS",
    "BATCHING",
    "COMPOSITES",
    "DERIVED_WHOLE",
    "FORWARD_MODE",
    "ABSENT",
    "FAKES",
)


def tables(family: ModuleType) -> dict[str, dict[Any, Any]]:
    """Return the dictionaries of a module whose keys are operators, by name."""
    held = {name: value for name, value in vars(family).items() if name.isupper() and isinstance(value, dict)}
    return {name: value for name, value in held.items() if any(isinstance(key, OpOverload) for key in value)}


def test_every_file_is_a_family() -> None:
    files = {module.name for module in pkgutil.iter_modules(export.ops.__path__)} - {
        "registry",
        "fallback",
        "shared",
        "complex_pairs",
    }
    assert files == {family.__name__.split(".")[2] for family in registry.FAMILIES}


@pytest.mark.parametrize("family", registry.FAMILIES, ids=lambda family: family.__name__)
def test_every_table_of_a_family_is_read(family: ModuleType) -> None:
    found = tables(family)
    found.pop("JVP_DECOMPOSITIONS", None)  # PyTorch's own
    found.pop("NAMED", None)  # operators of other libraries, by name
    found.pop("FUNCTIONS", None)  # functions of torch.nn.functional, by name
    assert set(found) <= set(TABLES)
    for name, rules in found.items():
        assert rules.items() <= getattr(registry, name).items()


def test_an_operator_has_one_rule_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(activation.LOWERINGS, torch.ops.aten.mm.default, activation.gelu)
    with pytest.raises(AssertionError, match=r"matmul repeats aten\.mm\.default"):
        registry._union("LOWERINGS")
