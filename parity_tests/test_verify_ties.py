"""Equal values and signs of zero: what a file may choose for itself, and what it may not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import export
from pure.layers import Linear
from pure.skips.dynamic.mixture_of_depths import MixtureOfDepths
from pure.skips.dynamic.mixture_of_experts import MixtureOfExperts

WEIGHTS = torch.randn(300, generator=torch.Generator().manual_seed(0))


def judged(fn: Callable[..., Any], written: Callable[..., Any], args: tuple[Any, ...], path: Path) -> export.Verdict:
    """The verdict on a file of `written` as one of `fn`."""
    export.to_onnx(written, args, path)
    return export.verify(fn, args, path)


@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize(
    "positions",
    [
        lambda x: x.topk(4).indices,
        lambda x: x.argmax(1),
        lambda x: x.argmin(1),
        lambda x: x.argsort(1)[:, :7],
        lambda x: x.max(1).indices,
        lambda x: x.median(1).indices,
        lambda x: x.kthvalue(3).indices,
    ],
    ids=["topk", "argmax", "argmin", "argsort", "max", "median", "kthvalue"],
)
def test_of_equal_values_a_file_may_pick_any(
    positions: Callable[[Tensor], Tensor], value: float, tmp_path: Path
) -> None:
    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        found = positions(x)
        return found, WEIGHTS[found]

    x = torch.full((2, 300), value)
    assert judged(fn, fn, (x,), tmp_path / "ties.onnx")


def test_what_depends_on_a_pick_is_judged_along_the_file_s_choice(tmp_path: Path) -> None:
    """The jump between two equal values' weights is no tolerance for another error of that size."""
    x = torch.full((2, 300), 0.1)
    others = WEIGHTS.clone()
    others[:150] += 0.5
    assert not judged(
        lambda x: WEIGHTS[x.topk(4).indices], lambda x: others[x.topk(4).indices], (x,), tmp_path / "other.onnx"
    )


def test_a_pick_that_is_clear_is_not_followed(tmp_path: Path) -> None:
    x = torch.arange(600.0).reshape(2, 300)
    assert not judged(
        lambda x: WEIGHTS[x.argmax(1)], lambda x: WEIGHTS[x.roll(1, 1).argmax(1)], (x,), tmp_path / "other.onnx"
    )


def test_a_stable_sort_of_equal_values_leaves_nothing_open(tmp_path: Path) -> None:
    x = torch.zeros(2, 300)

    def fn(x: Tensor) -> Tensor:
        return WEIGHTS[x.sort(dim=1, stable=True).indices[:, :4]]

    def other(x: Tensor) -> Tensor:
        return WEIGHTS[x.sort(dim=1, stable=True).indices[:, 1:5]]

    verdict = judged(fn, fn, (x,), tmp_path / "same.onnx")
    assert verdict
    assert not verdict.decisions
    assert not judged(fn, other, (x,), tmp_path / "other.onnx")


@pytest.mark.parametrize("mode", ["select", "branch"])
def test_padding_tokens_go_to_the_same_experts_in_the_file(mode: str, tmp_path: Path) -> None:
    made = MixtureOfExperts.swiglu(8, 12, experts=8, top_k=3)
    block = MixtureOfExperts(made.router, made.experts, made.top_k, mode=mode)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    x[:, 3:] = 0.0
    export.to_onnx(block, (params, x), tmp_path / "experts.onnx")
    torch.testing.assert_close(export.load(tmp_path / "experts.onnx")(params, x), block(params, x))
    assert export.verify(block, (params, x), tmp_path / "experts.onnx")


def test_of_equal_tokens_the_first_go_through_a_mixture_of_depths() -> None:
    block = MixtureOfDepths(Linear(4, 4), Linear(4, 1, bias=False), capacity=3)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.ones(2, 7, 4)
    changed = (block(params, x) != x).any(-1)
    assert changed.tolist() == [[True] * 3 + [False] * 4] * 2


def test_signs_of_zero_are_counted_and_do_not_fail(tmp_path: Path) -> None:
    verdict = judged(lambda x: -(x * 0), lambda x: x * 0, (torch.ones(5),), tmp_path / "zero.onnx")
    assert verdict
    assert verdict.rows[0].zero_signs == 5
    assert "(5 zeros of the other sign)" in verdict.table()
    assert verdict.to_dict()["rows"][0]["zero_signs"] == 5


def test_a_sign_of_zero_fails_where_something_is_divided_by_it(tmp_path: Path) -> None:
    verdict = judged(lambda x: 1 / -(x * 0), lambda x: 1 / (x * 0), (torch.ones(5),), tmp_path / "zero.onnx")
    assert not verdict
