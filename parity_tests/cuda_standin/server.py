"""Runs pieces of code in processes on the stand-in, each forked from one that has imported everything already.

Importing takes seconds, and most pieces take less. `main` runs in a process that has the stand-in; each line that it
reads is a piece, each line that it writes says how that ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["main"]


def main() -> None:
    """Answer until the input ends; nothing else may be written to the output."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(tempfile.mkdtemp(prefix="cuda-standin-"))
        said = [folder / name for name in ("stdout", "stderr")]
        child = os.fork()
        if child == 0:
            signal.alarm(asked["seconds"])  # ends the process
            _run(asked["code"], asked["arguments"], asked["environment"], said)
        _, status = os.waitpid(child, 0)
        stdout, stderr = (path.read_text(encoding="utf-8", errors="replace") for path in said)
        shutil.rmtree(folder)
        code = os.waitstatus_to_exitcode(status)
        answers.write(json.dumps({"returncode": code, "stdout": stdout, "stderr": stderr}) + "\n")
        answers.flush()


def _run(code: str, arguments: Sequence[str], environment: Mapping[str, str], said: Sequence[Path]) -> NoReturn:
    """Run a piece as `python -c` would, and end the process; what it raises ends it too."""
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), number)
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    known: dict[str, Any] = {"__name__": "__main__"}
    exec("import torch, export\n" + code, known)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
