"""A report's folder appears whole or not at all, replaces an earlier report only, and is checked before the work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from export.app import command_line
from export.app.report import folder, pipeline
from export.app.report.settings import Settings
from export.errors import WriteError


class Marked:
    """Results that hold nothing but what tells a report from another folder."""

    def to_dict(self) -> dict[str, Any]:
        return {folder.MARK: 1}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without the work: two files and a mark."""

    def write(settings: Settings, into: Path, tick: Callable[[str, float], None]) -> Any:
        (into / "plain.onnx").write_text("model")
        return Marked()

    class Page:
        @staticmethod
        def render(results: object) -> str:
            return "page"

    monkeypatch.setattr(pipeline, "compute", write)
    monkeypatch.setattr(pipeline, "report_page", Page)


@pytest.mark.usefixtures("stub")
def test_an_earlier_report_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    pipeline.write(out)
    (out / "plain.onnx").write_text("old")
    pipeline.write(out)
    assert (out / "plain.onnx").read_text() == "model"
    assert sorted(entry.name for entry in out.iterdir()) == ["index.html", "plain.onnx", "report.json"]
    assert [entry.name for entry in out.parent.iterdir()] == ["report"]


@pytest.mark.usefixtures("stub")
def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    pipeline.write(tmp_path)
    assert (tmp_path / "report.json").exists()


@pytest.mark.usefixtures("stub")
def test_what_no_report_wrote_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(WriteError, match="no earlier report"):
        pipeline.write(tmp_path)
    out = tmp_path / "report"
    pipeline.write(out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match=r"also holds notes\.txt"):
        pipeline.write(out)
    assert (out / "notes.txt").read_text() == "mine"
    assert (tmp_path / "thesis.tex").read_text() == "years"


@pytest.mark.usefixtures("stub")
def test_a_file_or_a_link_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(WriteError, match="not a folder"):
            pipeline.write(tmp_path / name)
    with pytest.raises(WriteError, match="cannot write"):
        pipeline.write(tmp_path / "file" / "report")


def test_a_failure_leaves_the_earlier_report(tmp_path: Path, stub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.write(tmp_path / "report")

    def fails(settings: Settings, into: Path, tick: Callable[[str, float], None]) -> Any:
        (into / "half.onnx").write_text("half")
        raise RuntimeError("power cut")

    monkeypatch.setattr(pipeline, "compute", fails)
    with pytest.raises(RuntimeError, match="power cut"):
        pipeline.write(tmp_path / "report")
    assert (tmp_path / "report" / "plain.onnx").read_text() == "model"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_an_unusable_folder_is_found_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pipeline, "compute", lambda *_: pytest.fail("the work was begun"))
    (tmp_path / "thesis.tex").write_text("years")
    result = CliRunner().invoke(command_line.app, ["report", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "no earlier report" in result.stderr.replace("\n", " ")


def test_a_failed_verdict_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stub: None) -> None:
    class Failed(Marked):
        passed = False
        networks = ()
        seconds: dict[str, float] = {}  # noqa: RUF012

    monkeypatch.setattr(pipeline, "compute", lambda *_: Failed())
    result = CliRunner().invoke(command_line.app, ["report", "--out", str(tmp_path / "report"), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["passed"] is False
    assert (tmp_path / "report" / "index.html").exists(), "a report on a failure is still a report"
