"""Adapters and repetition refuse what they cannot hold when they are made, with a typed error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pure.compose import Initialize, MixedPrecision, Rename, Repeat, TiedHead
from pure.errors import ArgumentError
from pure.layers import Dropout, Linear

LINEAR = Linear(2, 2)
WRONG: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "repeat of no block": (Repeat, (3, 2), "Repeat of int: expected a Block"),
    "repeat never": (Repeat, (LINEAR, 0), "depth=0"),
    "repeat two and a half times": (Repeat, (LINEAR, 2.5), "depth=2.5.*whole number"),
    "vary what is not there": (
        Repeat,
        (LINEAR, 2, {"rate": (1, 2)}),
        r"no field 'rate', expected one of \['in_features'",
    ),
    "vary by one number": (Repeat, (Dropout(0.1), 2, {"rate": 0.3}), "one value a depth, 2 in all"),
    "vary by a number": (Repeat, (LINEAR, 2, 3), "expected a mapping"),
    "rename no block": (Rename, (3, {"a": "b"}), "Rename of int: expected a Block"),
    "rename to nothing": (Rename, (LINEAR, None), "names=None: expected a mapping"),
    "rename a list": (Rename, (LINEAR, ["weight"]), "expected a mapping"),
    "initialize by a number": (Initialize, (LINEAR, {"weight": 3}), "'weight': 3 is no rule"),
    "initialize by no mapping": (Initialize, (LINEAR, 3), "rules=3: expected a mapping"),
    "a dtype by name": (MixedPrecision, (LINEAR, "bfloat16"), "dtype=bfloat16: expected torch.bfloat16"),
    "mixed precision of no block": (MixedPrecision, (3, torch.bfloat16), "MixedPrecision of int"),
    "a tied head on no embedding": (TiedHead, (LINEAR,), "expected a child of the body"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused(name: str) -> None:
    make, arguments, message = WRONG[name]
    with pytest.raises(ArgumentError, match=message):
        make(*arguments)
