"""Cells for the test of `export.app.sweep`, in a module of their own so that other processes can import them."""

import os
import signal
import time
from pathlib import Path

__all__ = ["nap", "square", "warm"]

WARMED: list[int] = []


def warm() -> None:
    WARMED.append(os.getpid())


def square(cell: str) -> dict[str, float]:
    """Return the square of a number; "dies" kills its process, "fails" raises, and an existing file is a reason to."""
    if cell == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell == "fails":
        raise ZeroDivisionError("on purpose")
    if cell.startswith("/"):
        if Path(cell).exists():
            return {"square": 0.0, "warmed": 1.0}
        raise FileNotFoundError(cell)
    return {"square": float(cell) ** 2, "warmed": float(len(WARMED))}


def nap(cell: str) -> str:
    """Leave this process's number in a file of the cell's name; a name that ends in "late" then sleeps for long."""
    Path(cell).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(300 if cell.endswith("late") and not Path(f"{cell}.awake").exists() else 0)
    return cell
