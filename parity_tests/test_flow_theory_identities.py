"""The identities of gradient flow hold to 1e-12 in float64, and numbers that were derived twice are one number."""

import pytest
import torch

from parity_tests import theory_check
from parity_tests.theory_identities import identities
from parity_tests.theory_rows import Row, identity, value

ROWS = identities()


@pytest.mark.parametrize("row", ROWS, ids=[f"{index:02d}" for index in range(len(ROWS))])
def test_identity(row: Row) -> None:
    assert row.passed, f"{row.claim}: {row.measured}, {row.score}"


def test_a_broken_identity_is_seen() -> None:
    assert not identity("", "", 2e-12).passed
    assert not identity("", "", float("nan")).passed
    assert not value("", "", 1.0, 1.0 + 1e-9).passed


def test_the_command_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        monkeypatch.setattr(theory_check, "rows", lambda: ROWS)
        assert theory_check.main() == 0
        assert f"{len(ROWS)} rows, {len(ROWS)} as theory says" in capsys.readouterr().out
        monkeypatch.setattr(theory_check, "rows", lambda: [*ROWS, identity("C", "a broken one", 0.5)])
        assert theory_check.main() == 1
        assert "WRONG: a broken one" in capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
