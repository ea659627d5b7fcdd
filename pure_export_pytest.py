"""The pytest plugin of pure-export: the fixture `onnx_parity`, and tables in place of bare `assert verdict` failures.

    def test_export(onnx_parity):
        onnx_parity(net, (params, x), dynamic=(None, {0: "batch"}))

It is found by pytest itself through its entry point. It is a module of its own, and imports `export` and PyTorch at the
first use only, because every pytest run of its environment loads it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import types
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # loaded by the tests that use the fixture
    import os

    from export.verdict.verdict_result import Verdict

__all__ = ["OnnxParity", "onnx_parity"]

LIBRARIES = ("torch", "onnx", "onnxscript", "onnx_ir", "export", "pure")
"""Whose log records and deprecations do not belong into a test's output."""
PROPERTY = "onnx_parity"
"""The user property of a report that carries what the summary says of its test."""
SHOWN_PASSES, SHOWN_ROWS = 3, 20
"""Lines of leaves that pass, and lines of leaves at all, in the text of a failure."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the settings of configuration files."""
    group = parser.getgroup("onnx-parity", "parity of ONNX files, by pure-export")
    group.addoption("--onnx-parity-limit", type=float, help="largest ratio to the rounding scale that passes (8)")
    group.addoption("--onnx-parity-device", choices=["auto", "cpu", "cuda"], help="where files run (auto)")
    group.addoption("--onnx-parity-baseline", metavar="DIR", help="folder of stored numbers to compare with")
    group.addoption("--onnx-parity-update", action="store_true", help="store this run's numbers in the folder")
    group.addoption("--onnx-parity-strict", action="store_true", help="numbers that shifted fail their test")
    parser.addini("onnx_parity_limit", "largest ratio to the rounding scale that passes", default="")
    parser.addini("onnx_parity_device", "where files run: auto, cpu or cuda", default="")
    parser.addini("onnx_parity_baseline", "folder of stored numbers, relative to the root folder", default="")
    parser.addini("onnx_parity_strict", "whether numbers that shifted fail their test", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse settings that do not fit, before any test runs."""
    _limit(config)
    if config.getoption("--onnx-parity-update") and _folder(config) is None:
        raise pytest.UsageError("--onnx-parity-update needs a folder: give --onnx-parity-baseline DIR")
    device = config.getini("onnx_parity_device")
    if device and device not in ("auto", "cpu", "cuda"):
        raise pytest.UsageError(f"onnx_parity_device is {device!r}, expected auto, cpu or cuda")


def _limit(config: pytest.Config) -> float | None:
    given = config.getoption("--onnx-parity-limit")
    text = config.getini("onnx_parity_limit")
    if given is None and text:
        try:
            given = float(text)
        except ValueError:
            raise pytest.UsageError(f"onnx_parity_limit is {text!r}, expected a number") from None
    if given is not None and not given > 0:
        raise pytest.UsageError(f"the limit of onnx parity must be above 0, got {given:g}")
    limit: float | None = given
    return limit


def _folder(config: pytest.Config) -> Path | None:
    given = config.getoption("--onnx-parity-baseline")
    if given:
        return config.invocation_params.dir / given
    text = config.getini("onnx_parity_baseline")
    return config.rootpath / text if text else None


class OnnxParity:
    """What the fixture `onnx_parity` gives: call it to export a function, judge the file and assert parity.

    Args:
        node: the test.
        folder: where files are written.
    """

    def __init__(self, node: pytest.Item, folder: Path) -> None:
        self._node, self._folder, self._calls = node, folder, 0

    def __call__(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] = (),
        path: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Verdict:
        """Assert that an ONNX file computes what a function does, and return the verdict.

        Args:
            fn: a pure function, a block or an nn.Module.
            args: its arguments.
            path: the file; None exports the function to the test's own temporary folder.
            options: as `export.verify` takes them; `limit` and `device` come before those of the command line.

        Fails the test with the table and the place of the reproduction, without a traceback.
        """
        __tracebackhide__ = True
        # Imported here, so that test runs without this fixture do not load PyTorch.
        import export
        from export.errors import PureExportError

        config = self._node.config
        number, self._calls = self._calls, self._calls + 1
        options.setdefault("limit", _limit(config))
        device = config.getoption("--onnx-parity-device") or config.getini("onnx_parity_device") or "auto"
        options.setdefault("device", device)
        problem = ""
        try:
            with _quietly(), _WithoutInternals():
                if path is None and not options.get("kwargs"):
                    path = self._folder / ("model.onnx" if number == 0 else f"model-{number}.onnx")
                    how = {name: options[name] for name in ("bake", "dynamic", "opset") if name in options}
                    options.pop("opset", None)  # the file has it from here on
                    export.to_onnx(fn, args, path, **how)
                verdict = export.verify(fn, args, path, **options)
        except PureExportError as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            pytest.fail(problem, pytrace=False)
        if not verdict.passed:
            pytest.fail(_short(verdict), pytrace=False)
        self._hold_against_baseline(number, verdict)
        return verdict

    def _hold_against_baseline(self, number: int, verdict: Verdict) -> None:
        """Compare with the stored numbers, or store them; what shifted goes into the summary."""
        __tracebackhide__ = True
        config = self._node.config
        folder = _folder(config)
        if folder is None:
            return
        # Imported here, as `export` in `__call__`.
        from export.errors import PureExportError
        from export.testing.baselines import Baseline, shifts

        shifted: list[str] = []
        problem = ""
        try:
            baseline = Baseline.read(folder, self._node.nodeid)
            if config.getoption("--onnx-parity-update"):
                baseline.put(number, verdict)
                return
            stored = baseline.stored(number)
            limit = verdict.rows[0].limit
            shifted = shifts(stored, verdict, limit)
        except PureExportError as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            pytest.fail(problem, pytrace=False)
        call = f"call {number + 1}, " if number else ""
        if not stored:
            self._node.user_properties.append((PROPERTY, f"not stored: {self._node.nodeid}"))
        for line in shifted:
            self._node.user_properties.append((PROPERTY, f"shifted: {self._node.nodeid}: {call}{line}"))
        if shifted and (config.getoption("--onnx-parity-strict") or config.getini("onnx_parity_strict")):
            lines = "\n".join(f"  {call}{line}" for line in shifted)
            pytest.fail(
                f"numbers have shifted:\n{lines}\nIf the new ones are right, store them: --onnx-parity-update",
                pytrace=False,
            )


@pytest.fixture
def onnx_parity(request: pytest.FixtureRequest, tmp_path: Path) -> OnnxParity:
    """Export a function, judge the file against it and assert parity: `onnx_parity(fn, args, path=None, **options)`."""
    return OnnxParity(request.node, tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the table of each verdict on the failing line of an assertion to the report: `assert verdict` shows it."""
    report = yield
    judgement = getattr(sys.modules.get("export.verdict.verdict_result"), "Judgement", None)
    if judgement is not None and call.excinfo is not None and call.excinfo.errisinstance(AssertionError):
        seen = call.excinfo.traceback[-1].frame.f_locals.values()
        verdicts = {id(value): value for value in seen if isinstance(value, judgement) and not value.passed}
        for verdict in verdicts.values():
            report.sections.append(("ONNX verdict", _short(verdict)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which numbers have shifted, and how many tests have none stored."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    lines = {
        value: None
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    }
    shifted = [line for line in lines if line.startswith("shifted: ")]
    absent = len(lines) - len(shifted)
    if not lines:
        return
    terminalreporter.section("onnx parity", yellow=bool(shifted))
    for line in shifted:
        terminalreporter.write_line(line, yellow=True)
    if absent:
        terminalreporter.write_line(f"{absent} without stored numbers: --onnx-parity-update stores them")


def _short(verdict: Any) -> str:
    """Return a verdict's table with few of the leaves that passed, and not very many at all."""
    head, *lines = verdict.table().splitlines()
    passes = [line for line in lines if line.endswith("  pass")]
    dropped = set(passes[SHOWN_PASSES:]) if len(passes) > SHOWN_PASSES + 1 else set()
    kept = [line for line in lines if line not in dropped]
    rows = len(lines) - len(dropped)
    if rows > SHOWN_ROWS:
        kept = [*kept[: SHOWN_ROWS - 5], f"  … {rows - SHOWN_ROWS} lines more", *kept[-5:]]
    if dropped:
        kept.append(f"  … and {len(dropped)} leaves that pass")
    return "\n".join([head, *kept])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the log records and the deprecations of the libraries below out of the test's output."""
    import torch  # noqa: F401 - deferred as in `OnnxParity`; its loggers have handlers from here on

    def wanted(record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] not in LIBRARIES

    named = logging.root.manager.loggerDict.items()
    loggers = [found for name, found in named if name.partition(".")[0] in LIBRARIES]
    handlers = [h for found in (logging.root, *loggers) for h in getattr(found, "handlers", ())]
    for handler in handlers:
        handler.addFilter(wanted)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category, module=rf"({'|'.join(LIBRARIES)})(\.|$)")
            warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(wanted)


class _WithoutInternals:
    """Takes the frames between the fixture and the user's function out of the traceback of what that raises."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if error is None or trace is None:
            return
        inner = trace.tb_next
        while inner is not None and _internal(inner.tb_frame):
            inner = inner.tb_next
        if inner is not None:
            error.__traceback__ = types.TracebackType(inner, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


def _internal(frame: types.FrameType) -> bool:
    """Tell a frame of the libraries, or of code that they generate, from one of the user's files."""
    module = str(frame.f_globals.get("__name__", ""))
    generated = frame.f_code.co_filename.startswith("<")
    return generated or module.partition(".")[0] in (*LIBRARIES, "contextlib", "functools")
