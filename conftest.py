"""What pytest collects and which tests are fast; the fixtures are in `parity_tests/conftest.py`."""

import gc
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

from parity_tests import fast_loop

PAGE = "test_documentation.py::test_the_code_of_a_page_runs["
"""What the test of a page is called, before the page's path."""


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
    """Say how long the documentation's pages took, and after a run of the fast tests, which of them are not."""
    took: dict[str, float] = defaultdict(float)
    for report in [r for reports in terminalreporter.stats.values() for r in reports]:
        if isinstance(report, pytest.TestReport):
            took[report.nodeid] += report.duration
    pages = {test.partition(PAGE)[2].rstrip("]"): seconds for test, seconds in took.items() if PAGE in test}
    if pages:
        terminalreporter.write_line(f"documentation: the code of {len(pages)} pages ran in {sum(pages.values()):.1f} s")
        slowest = sorted(pages, key=pages.__getitem__)[-5:]
        for page in sorted({*slowest, *(page for page in pages if page.startswith("tutorials/"))}):
            terminalreporter.write_line(f"  {pages[page]:5.1f} s  {page}")
    if config.getoption("-m") == "fast":
        long = sorted((seconds, test) for test, seconds in took.items() if seconds > fast_loop.SECONDS)
        terminalreporter.write_line(f"{len(took)} fast tests, {sum(took.values()):.0f} s in all processes")
        for seconds, test in reversed(long):
            terminalreporter.write_line(f"{seconds:.1f} s, which is not fast: {test}")
