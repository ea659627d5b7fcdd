"""A few of the runs in which nothing is wrong; `python -m parity_tests.clean_runs` makes them all."""

import json
from pathlib import Path

import pytest

from parity_tests import clean_runs
from parity_tests.clean_runs import Job, jobs, run, table

EVERY = [job for job in jobs() if job[0] != "catalogue"]
CHOSEN = [
    *(job for job in EVERY if job[0] in ("masks", "ties", "4096 terms", "100000 terms")),
    *[job for job in EVERY if job[0] in clean_runs.SCALES][::23],
    ("catalogue", "batch_norm", "float32"),
    ("catalogue", "moe", "float16"),
]


@pytest.mark.parametrize("job", CHOSEN, ids=[", ".join(job) for job in CHOSEN])
def test_a_clean_run_passes(job: Job) -> None:
    found = run(job)
    assert [record["reason"] for record in found if record["status"] == "fail"] == []


def test_there_are_five_thousand_runs_of_250_functions_and_more() -> None:
    rows = sum(job[0] == "catalogue" for job in jobs())
    assert rows * clean_runs.SEEDS + len(EVERY) >= 5_000
    assert len({job[1] for job in EVERY if job[0] == "mixed"}) >= 250


def test_the_table_counts_alarms_and_names_them() -> None:
    records = [
        {"kind": "ties", "name": "topk", "dtype": "float32", "case": "example", "status": "pass", "ratio": 2.0},
        {"kind": "ties", "name": "sort", "dtype": "float32", "case": "example", "status": "fail", "reason": "wrong"},
        {
            "kind": "masks",
            "name": "sum",
            "dtype": "float16",
            "case": "",
            "status": "unsupported",
            "reason": "no kernel",
        },
    ]
    text = table([{"seconds": 1.0, **record} for record in records])
    assert "ties, sort, float32 example: wrong" in text
    assert text.splitlines()[1].split() == ["ties", "2", "1", "2", "2", "0"]
    assert text.splitlines()[-2] == "3 s of all workers together"


def test_finished_jobs_are_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "runs.jsonl"
    record = {"kind": "catalogue", "name": "linear", "case": "example", "status": "pass", "ratio": 1.0, "seconds": 0.5}
    results.write_text("".join(json.dumps({**record, "dtype": dtype}) + "\n" for dtype in clean_runs.DTYPES))
    monkeypatch.setattr("sys.argv", ["clean_runs", "--rows", "linear", "--results", str(results)])
    clean_runs.main()
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["catalogue", "2", "0"]
