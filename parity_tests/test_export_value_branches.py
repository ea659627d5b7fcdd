"""Python branches on tensors' values inside installed packages: both outcomes are in the file, and it is told."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

import export
from export.errors import TracingError
from export.graph.onnx_export import Exported

FILE = "/lib/site-packages/library/model.py"
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
POSITIVE = X.abs() + 0.1


def installed(source: str) -> Callable[..., Any]:
    """Return the function `forward` of an installed package's file."""
    names: dict[str, Any] = {"torch": torch}
    exec(compile(textwrap.dedent(source), FILE, "exec"), names)
    function: Callable[..., Any] = names["forward"]
    return function


def exported(fn: Callable[..., Any], folder: Path) -> Exported:
    return export.to_onnx(fn, (X,), folder / "f.onnx", dynamic=({0: "batch"},))


CHOICES = {
    "a mask of nothing": """
        def forward(x):
            mask = x < 0
            if not mask.any():
                mask = None
            return x.sin() if mask is None else x.masked_fill(mask, 0.5) * 2
    """,
    "a comparison with a size": """
        def forward(x):
            if (x > 0).sum().item() >= 2 * x.shape[0] + 1:
                return x.cos()
            return x.sin()
    """,
    "two branches": """
        def forward(x):
            x = x * 3 if x.sum() > 1.5 else x
            return x.cos() if x.amin().item() > 0.25 else x.sin()
    """,
    "a branch that a write decides": """
        def forward(x):
            mask = torch.ones(x.shape[0], 2)
            mask[:, 0] = x[:, 0]
            return x.cos() if (mask > 0).all() else x.sin()
    """,
}


@pytest.mark.parametrize("derived", [False, True], ids=["value", "gradient"])
@pytest.mark.parametrize("name", CHOICES)
def test_both_outcomes_are_right(name: str, derived: bool, tmp_path: Path) -> None:
    forward = installed(CHOICES[name])
    f = grad(lambda x: (forward(x) * torch.linspace(-1, 1, 3)).sum()) if derived else forward
    file = exported(f, tmp_path)
    outcomes = set()
    for x in (X, -X, POSITIVE, X[:1], POSITIVE[:3], -POSITIVE, 0.1 * POSITIVE, torch.full((2, 3), torch.nan)):
        torch.testing.assert_close(file.load("cpu")(x), f(x), equal_nan=True)
        outcomes.add(bool(torch.equal(forward(x), x.sin())))
    assert len(outcomes) == 2
    assert file.decided
    assert all(line.startswith(FILE) and "both outcomes" in line for line in file.decided)
    assert "branch on a value" in str(file)


def test_an_outcome_after_which_the_package_raises_is_left_out_and_told(tmp_path: Path) -> None:
    forward = installed("""
        def forward(x):
            assert (x > -100).all(), "too small"
            if x.isnan().any():
                raise ValueError("not a number")
            return x * 2
    """)
    file = exported(forward, tmp_path)
    torch.testing.assert_close(file.load("cpu")(X[:3]), X[:3] * 2)
    assert {line.partition(": ")[2] for line in file.decided} == {
        "taken for True, as it raises AssertionError otherwise",
        "taken for False, as it raises ValueError otherwise",
    }


KNOWN = {
    "a mask of ones": ("torch.ones(x.shape[0], 2)", False),
    "a mask of ones, padded and written to": (
        "torch.nn.functional.pad(torch.ones(x.shape[0], 2), (0, 3)).index_fill_(1, torch.tensor([1]), 2.0)",
        True,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_sizes_and_constants_decide_needs_no_other_outcome(name: str, tmp_path: Path) -> None:
    mask, value = KNOWN[name]
    forward = installed(f"""
        def forward(x):
            if (({mask} == 2).any()) != {value}:
                return x[x.nonzero()[:, 0]]
            return x * 2
    """)
    file = exported(forward, tmp_path)
    torch.testing.assert_close(file.load("cpu")(X[:3]), X[:3] * 2)
    assert [line.endswith("by sizes and constants alone") for line in file.decided] == [True]


def test_what_differs_between_sizes_is_computed_for_both(tmp_path: Path) -> None:
    forward = installed("""
        def forward(x):
            return x * 2 if torch.ones(x.shape[0]).sum() > 5 else -x
    """)
    file = exported(forward, tmp_path)
    for x in (X, torch.cat([X, X])):
        torch.testing.assert_close(file.load("cpu")(x), forward(x))


REFUSED = {
    "results of several shapes": "return x if x.sum() > 0 else x[:, :2]",
    "an outcome that has no graph": "return x if x.sum() > 0 else x[x[:, 0] > 0].sum() + x",
    "an error of PyTorch's in one outcome": "return x * 2 if x.sum() < 1e6 else x.view(7)",
    "more than 16 runs": "return sum(x if x[i, j] > 0 else -x for i in range(2) for j in range(3))",
    "a loop without end": "\n    while x.sum() > 0:\n        x = x - 1\n    return x",
    "a number that is written over": (
        "\n    total = x.sum()\n    number = total.item()\n    total.add_(100)\n    return x if number > 0 else -x"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_graph_of_both_outcomes_is_refused(name: str, tmp_path: Path) -> None:
    forward = installed(f"def forward(x):\n    {REFUSED[name]}")
    with pytest.raises(TracingError, match=r"library/model\.py"):
        export.to_onnx(forward, (X,), tmp_path / "f.onnx")
    assert not (tmp_path / "f.onnx").exists()


def test_a_branch_of_the_users_own_is_refused_with_what_to_write_instead(tmp_path: Path) -> None:
    def own(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(TracingError, match=r"torch\.where to select"):
        export.to_onnx(own, (X,), tmp_path / "f.onnx")


def test_a_verdict_holds_at_both_outcomes(tmp_path: Path) -> None:
    forward = installed(CHOICES["a mask of nothing"])
    exported(forward, tmp_path)
    for x in (X, POSITIVE):
        assert export.verify(forward, (x,), tmp_path / "f.onnx", dynamic=({0: "batch"},))
