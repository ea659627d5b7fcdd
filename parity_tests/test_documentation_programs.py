"""Programs that a page shows whole, run as its reader runs them: saved as a file, by the command below it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.markdown_pages import DOCS, code_blocks, documents, examples, fits
from parity_tests.sources import ROOT

PROCESSES = DOCS / "tutorials" / "several-processes.md"
PROGRAM = re.compile("^```py$", re.MULTILINE)
RUN_BY_NAME = {"tutorials/several-processes.md": 1}
"""How many `py` blocks each page has; the tests run `python` blocks without being told of them."""


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_program_for_several_processes(ranks: int, tmp_path: Path) -> None:
    shown = examples(PROCESSES)
    (tmp_path / "train.py").write_text(shown["train"], encoding="utf-8")
    (command,) = (block.text for block in code_blocks(PROCESSES.read_text(encoding="utf-8")) if block.language == "sh")
    name, *words = command.replace("2", str(ranks)).split()
    assert name == "torchrun"
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]  # a free port, for tests side by side
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert fits(shown["printed"].replace("2 processes", f"{ranks} processes"), done.stdout)
    assert (tmp_path / "trained.safetensors").is_file()


def test_no_program_is_left_out() -> None:
    found = {page: len(PROGRAM.findall((DOCS / page).read_text(encoding="utf-8"))) for page in documents()}
    assert {page: count for page, count in found.items() if count} == RUN_BY_NAME
