"""Typed errors of the export package; no torch, no ONNX is imported here.

Every message says what was given, what was expected and the way out. Each class shows the code that fails and the fix.
"""

from __future__ import annotations

from pure_export_shared import ArgumentError, ExportError, PureExportError, listed, nearest

__all__ = [
    "ArgumentError",
    "DamagedFileError",
    "DataFileError",
    "EagerDerivativeError",
    "EagerDerivativeWarning",
    "ExportError",
    "LoadError",
    "MutationError",
    "NotAnOnnxFileError",
    "ProviderError",
    "PureExportError",
    "RandomOpError",
    "SpecialisedSizeError",
    "TracingError",
    "UnsupportedOpError",
    "UnusedInputWarning",
    "VerificationError",
    "WriteError",
    "listed",
    "nearest",
]


class TracingError(ExportError):
    """The function cannot be recorded as a graph.

    Fails, because the branch depends on a tensor's value::

        def fn(x):
            return x if x.sum() > 0 else -x

    Fix: `torch.where(x.sum() > 0, x, -x)` computes both, `torch.cond` becomes an ONNX `If`.
    """


class UnsupportedOpError(ExportError):
    """An operation has no ONNX form here, or ONNX Runtime lacks it in that dtype.

    Attributes:
        op: the operation, for example `aten.cholesky.default` or `Conv`.
        dtype: the dtype of its first result or input, for example `float64`.
        source: the line of the function's source that asked for it, or an empty string.
        path: the dotted path of the block that it belongs to, or an empty string.
        caller: the line of the user's own code that called it, where `source` is an installed package's.

    Fails: `export.to_onnx(torch.linalg.cholesky, (matrix,), "model.onnx")`. Fix: write the operation with supported
    ones, or cast to a dtype that ONNX Runtime has.
    """

    def __init__(
        self, message: str, *, op: str, dtype: str = "", source: str = "", path: str = "", caller: str = ""
    ) -> None:
        self.op, self.dtype, self.source, self.path, self.caller = op, dtype, source, path, caller
        where = f"\n  block: {path}" if path else ""
        where += f"\n  source: {source}" if source else ""
        owner, parametrised, weight = f".{path}".partition(".parametrizations.")
        if parametrised:
            module = f"module.get_submodule({owner[1:]!r})" if owner else "module"
            where += (
                f"\n  way out: torch.nn.utils.parametrize.remove_parametrizations({module}, "
                f"{weight.partition('.')[0]!r}) before from_module(module): the weight as it is becomes the parameter"
            )
        elif caller:
            where += (
                f"\n  called from: {caller}\n  way out: compute what needs {op} before the export and pass it in as an "
                "argument, or put another module in the place of the one that calls it"
            )
        super().__init__(message + where)


class SpecialisedSizeError(ExportError):
    """A size declared dynamic ended up constant, or the function branches on it in Python.

    Attributes:
        name: the dynamic dimension, for example `batch`.
        source: the line that fixed it.
        equal: the dynamic dimension that it had to equal; empty if none.

    Fails::

        def fn(x):
            return x * 2 if x.shape[0] > 4 else x
        export.to_onnx(fn, (x,), "model.onnx", dynamic=({0: "batch"},))

    Fix: compute the choice with tensors (`torch.where`), or leave the dimension out of `dynamic`.
    """

    def __init__(self, message: str, *, name: str, source: str = "", equal: str = "") -> None:
        self.name, self.source, self.equal = name, source, equal
        super().__init__(message + (f"\n  source: {source}" if source else ""))


class MutationError(ExportError):
    """The function changes one of its arguments, or a tensor that it closes over, in place.

    Fails::

        def fn(x):
            return x.add_(1)

    Fix: `x + 1`. A file is a pure function: it returns new values and changes none.
    """


class RandomOpError(ExportError):
    """The function draws random numbers.

    Fails::

        def fn(x):
            return x + torch.randn_like(x)

    Fix: draw the noise outside and pass it as an argument: `def fn(x, noise): return x + noise`.
    """


class EagerDerivativeError(ExportError, NotImplementedError):
    """The function itself cannot be computed, since eager PyTorch lacks a derivative of one of its operators.

    A file of it may be written, and be right: `to_onnx` needs no eager run. A verdict compares with one.

    Fails: `export.verify(torch.func.hessian(lambda x: torch.cdist(x, y).sum()), (x,))`, as `torch.cdist` has no
    forward mode. Fix: what the message names, here `pure.cdist`.
    """


class LoadError(ExportError):
    """A file that ONNX Runtime refuses, for a reason that no narrower error describes.

    Fails: `export.load("newer.onnx")`, written for an opset that this ONNX Runtime does not know. Fix: what the
    message quotes from ONNX Runtime, such as a newer version or `to_onnx(…, opset=…)`.
    """


class DataFileError(LoadError):
    """The file that holds a model's large tensors is missing, cut short, or not beside the model.

    Fails after `mv net.onnx elsewhere/`. Fix: move `net.onnx.<digest>.data` along; the message has its full name.
    """


class DamagedFileError(LoadError):
    """A file, or its data file, is not as it was written: bytes were lost, added or changed.

    Attributes:
        damaged: what differs: "the graph", "the metadata", "tensor fc1.weight", "cut short by 12 bytes (…)".

    Fails after an interrupted copy, or a flipped bit. Fix: copy the file again, or export it again. A file that
    another program changed on purpose: `export.load("edited.onnx", check=False)`.
    """

    def __init__(self, message: str, *, damaged: tuple[str, ...] = ()) -> None:
        self.damaged = damaged
        super().__init__(message)


class NotAnOnnxFileError(LoadError):
    """The path does not hold an ONNX model.

    Fails: `export.load("weights.safetensors")`. Fix: give the `.onnx` file that `export.to_onnx` wrote.
    """


class ProviderError(LoadError):
    """The device asked for cannot run the file.

    Fails on a machine without CUDA: `export.load("model.onnx", device="cuda")`.
    Fix: install what the message names, or `device="cpu"`; `device="auto"` chooses and says what it chose.
    """


class WriteError(ExportError, OSError):
    """The file cannot be written, or may not grow beyond what a single ONNX file can hold (2 GB).

    Fails: `export.to_onnx(fn, args, "/proc/model.onnx")`. Fix: give a path in a folder that you can write to.
    """


class VerificationError(ExportError):
    """A verdict failed and `raise_if_failed` was called; the message is the verdict's table.

    Fails: `export.verify(fn, args, path="other.onnx").raise_if_failed()`. Fix: look at `verdict.table()`: the row that
    failed names the output leaf, and `verdict.divergence` the first node that differs.
    """


class UnusedInputWarning(UserWarning):
    """A verdict says nothing about some inputs, weights or branches, since no output depends on them.

    A gain of 0 hides the weights that it multiplies: a file with other numbers there would pass as well.

    Fix: judge at parameters that all have an influence, for example after a few training steps or with noise added.
    Where the tensor really has none (a key bias before a softmax), filter the warning.
    """


class EagerDerivativeWarning(UserWarning):
    """A derivative that eager PyTorch computes wrongly or lacks: the recorded function has it right.

    So a file, or a function of `export.jit`, gives other numbers than eager, and its verdict fails.

    Fix: the replacement that the message names, such as `pure.cdist`, which is right in eager too.
    """
