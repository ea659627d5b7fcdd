"""The zoo's own tests: what it holds, that small models pass every stage, and that a wrong value is told."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity_tests.zoo import checks, page
from parity_tests.zoo.checks import STAGES
from parity_tests.zoo.making import LIBRARIES, Entry, entries

ENTRIES = {entry.label: entry for entry in entries()}
SMALL = (
    "timm:deit_tiny_patch16_224",
    "torchvision:squeezenet1_1",
    "transformers:BertLMHeadModel",
    "x-transformers:Decoder",
)


def test_the_zoo_is_wide_and_some_of_it_is_held_out() -> None:
    assert len(ENTRIES) == len(entries()) >= 275
    assert len({entry.architecture for entry in ENTRIES.values()}) >= 150
    assert set(Counter(entry.library for entry in ENTRIES.values())) == set(LIBRARIES)
    assert sum(entry.held_out for entry in ENTRIES.values()) >= 25


@pytest.mark.parametrize("label", SMALL)
def test_small_models_are_right_at_every_stage(label: str) -> None:
    ours = tuple(name for name in STAGES if name != "torch.onnx")
    outcomes = {stage.name: (stage.status, stage.detail) for stage in checks.stages(ENTRIES[label], ours)}
    assert {name: status for name, (status, _) in outcomes.items()} == dict.fromkeys(ours, "right"), outcomes


class Shifted(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.ones(3)), shift

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * self.weight + self.shift


def test_a_value_that_is_not_the_modules_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("timm", "shifted", "shifted", {}, {"x": [3, 8, 8]})
    chosen = ("evaluation", "forward file", "gradient", "gradient file")
    for shift, status in ((0.0, "right"), (1.0, "wrong")):
        made = itertools.chain([Shifted(0.0)], (Shifted(shift) for _ in itertools.count()))  # the block, then modules
        monkeypatch.setattr(checks, "make", lambda _, made=made: next(made))
        outcomes = list(checks.stages(entry, chosen, verdicts=()))
        assert [stage.status for stage in outcomes] == [status] * 4
        assert shift == 0.0 or all("off" in stage.detail for stage in outcomes)


def test_equal_infinities_are_equal_and_others_are_not() -> None:
    masks = torch.tensor([0.0, -torch.inf, 2.0])
    checks.compare([masks.clone()], [masks], 1e-6, "mask")
    for other in (
        torch.tensor([0.0, torch.inf, 2.0]),
        torch.tensor([0.0, 1.0, 2.0]),
        masks.nan_to_num(neginf=torch.nan),
    ):
        with pytest.raises(checks.WrongValueError, match="mask 0"):
            checks.compare([other], [masks], 1e-6, "mask")


def test_an_error_without_a_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("a cause")

    monkeypatch.setitem(STAGES, "evaluation", fails)
    (stage,) = checks.stages(ENTRIES[SMALL[1]], ("evaluation",))
    assert (stage.status, stage.detail) == ("untyped", "ValueError: a cause")


def test_the_page_counts_and_lists_what_is_not_right() -> None:
    right = {name: vars(checks.Stage(name, "right", 1.0, 10)) for name in STAGES}
    wrong = {**right, "gradient file": vars(checks.Stage("gradient file", "told", 2.0, 20, "ratio | 9"))}
    about = {"library": "timm", "architecture": "a", "held_out": False, "verdicts": ["forward file"]}
    records = [{**about, "name": "one", "stages": right}, {**about, "name": "two", "stages": wrong}]
    assert "gradient file: 1 of 2 (50.0%) right, 1 told" in page.summary(records)
    assert "forward file: 2 got a verdict" in page.summary(records)
    text = page.markdown(records)
    assert "| timm:two | a | ✓ | ✓ | ✓ | ✓ | told | ✓ |" in text
    assert "- timm:two, gradient file: told. ratio \\| 9" in text
    assert page.UNTOLD == ("wrong", "untyped", "crashed", "hanging")
    assert replace(ENTRIES[SMALL[0]], name="other").label == "timm:other"
