"""A verdict as a page: every row, in an order that says most first, and nothing from elsewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import export
from export.errors import ArgumentError


def net(w: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"<y>": (x @ w).tanh(), "sum": x.sum(0)}


ARGS: Any = (torch.linspace(-1, 1, 12).reshape(4, 3), torch.linspace(-2, 2, 8).reshape(2, 4))


def test_the_page_has_every_row_and_needs_nothing_else(tmp_path: Path) -> None:
    verdict = export.verify(net, ARGS, dynamic=(None, {0: "batch"}), device="cpu")
    export.write_html(verdict, tmp_path / "verdict.html", title="a < b")
    page = (tmp_path / "verdict.html").read_text(encoding="utf-8")
    assert "<title>a &lt; b</title>" in page
    assert page.count("<tr class=") == len(verdict.rows)
    assert "out.&lt;y&gt;" in page
    assert not re.search(r"https?:|src=|nan|None", page.partition("<script>")[0])
    worst = max(row.ratio or 0.0 for row in verdict.rows)
    assert repr(worst) in page


def test_what_failed_stands_first_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(net, ARGS, path)
    verdict = export.verify(lambda w, x: {"<y>": (x @ w).tanh() * 1.001, "sum": x.sum(0)}, ARGS, path, device="cpu")
    export.write_html(verdict, tmp_path / "verdict.html")
    page = (tmp_path / "verdict.html").read_text(encoding="utf-8")
    assert '<p class="fail">FAIL' in page
    statuses = re.findall(r'<tr class="(\w+)"', page)
    assert statuses == sorted(statuses)
    assert statuses[0] == "fail"
    assert "first node that differs" in page or "differ" in page


def test_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="verdict is int: expected what"):
        export.write_html(3, tmp_path / "no.html")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
