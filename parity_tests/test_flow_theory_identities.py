"""The identities of gradient flow hold to 1e-12 in float64, and numbers that were derived twice are one number."""

from functools import cache

import pytest
import torch

from parity_tests import theory_check
from parity_tests.theory_identities import identities
from parity_tests.theory_rows import Row, identity, value

COUNT = 20


@cache
def rows() -> list[Row]:
    found = identities()
    assert len(found) == COUNT
    return found


@pytest.mark.parametrize("index", range(COUNT), ids="{:02d}".format)
def test_identity(index: int) -> None:
    row = rows()[index]
    assert row.passed, f"{row.claim}: {row.measured}, {row.score}"


def test_a_broken_identity_is_seen() -> None:
    assert not identity("", "", 2e-12).passed
    assert not identity("", "", float("nan")).passed
    assert not value("", "", 1.0, 1.0 + 1e-9).passed


def test_the_command_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        monkeypatch.setattr(theory_check, "rows", lambda *_: rows())
        assert theory_check.main() == 0
        assert f"{COUNT} rows, {COUNT} as theory says" in capsys.readouterr().out
        monkeypatch.setattr(theory_check, "rows", lambda *_: [*rows(), identity("C", "a broken one", 0.5)])
        assert theory_check.main() == 1
        assert "WRONG: a broken one" in capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
