"""What pytest collects and which tests are fast; the fixtures are in `parity_tests/conftest.py`."""

import gc
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

from parity_tests import fast_loop


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out a Python file that holds neither tests nor a doctest; importing all of them takes seconds."""
    if collection_path.suffix != ".py" or collection_path.name.startswith("test_"):
        return None
    return True if ">>> " not in collection_path.read_text(encoding="utf-8") else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from visiting 11,000 tests, which stay to the end, at each of its passes."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the fast tests, by the rule of `parity_tests/fast_loop.py`."""
    families: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        families[fast_loop.family(item.nodeid)].append(item)
    for test, members in families.items():
        for number in fast_loop.rows(test, len(members)):
            if "slow" not in members[number].keywords:
                members[number].add_marker(pytest.mark.fast)


def pytest_unconfigure() -> None:
    """Give the collector back what it was kept from, so that extension modules find their objects freed at exit."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """After a run of the fast tests, name those that are not."""
    if config.getoption("-m") != "fast":
        return
    took: dict[str, float] = defaultdict(float)
    for report in [r for reports in terminalreporter.stats.values() for r in reports]:
        if isinstance(report, pytest.TestReport):
            took[report.nodeid] += report.duration
    long = sorted((seconds, test) for test, seconds in took.items() if seconds > fast_loop.SECONDS)
    terminalreporter.write_line(f"{len(took)} fast tests, {sum(took.values()):.0f} s in all processes")
    for seconds, test in reversed(long):
        terminalreporter.write_line(f"{seconds:.1f} s, which is not fast: {test}")
