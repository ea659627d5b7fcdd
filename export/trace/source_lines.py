"""Which line of the user's code is running: the innermost frame outside PyTorch and outside this package."""

from __future__ import annotations

import os
import sys
from types import FrameType

import torch

import pure

__all__ = ["caller_of", "installed_line", "is_installed", "is_user_file", "line_of", "relative", "user_line"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_REPORT = os.path.join(_PACKAGE, "app", "report", "")
"""Where the package defines networks that it exports itself, whose lines count as the user's."""

_PURE = os.path.dirname(os.path.abspath(pure.__file__)) + os.sep
_CALLS = os.path.join(_PURE, "interop", ""), os.path.join(_PURE, "block.py")
"""Where blocks and modules are called: the user's line is the module's, or that which calls the block."""

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def is_user_file(filename: str) -> bool:
    """Tell whether a file is the user's (`pure` included), not PyTorch's, the standard library's or this package's."""
    generated = filename.startswith(("<frozen", "<string>", "<eval_with_key>"))
    if generated or filename.startswith((_TORCH, *_CALLS)) or f"{os.sep}sympy{os.sep}" in filename:
        return False
    if filename.startswith(_PACKAGE):
        return filename.startswith(_REPORT)
    return not filename.startswith(_LIBRARY) or f"{os.sep}site-packages{os.sep}" in filename


def relative(filename: str) -> str:
    """Shorten a file name by the import path it was found on, so that a model file names no machine's folders."""
    inside = [root for root in map(os.path.abspath, sys.path) if filename.startswith(root + os.sep)]
    return filename[len(max(inside, key=len)) + 1 :] if inside else filename


def line_of(frame: FrameType, number: int) -> str:
    """Return `file:line in function` of a frame if it is the user's, otherwise an empty string."""
    code = frame.f_code
    return f"{relative(code.co_filename)}:{number} in {code.co_name}" if is_user_file(code.co_filename) else ""


def user_line(frame: FrameType | None = None) -> str:
    """Return `file:line in function` of the innermost user frame, or an empty string."""
    frame = frame or sys._getframe(1)
    current: FrameType | None = frame
    while current is not None:
        line = line_of(current, current.f_lineno)
        if line:
            return line
        current = current.f_back
    return ""


def is_installed(filename: str) -> bool:
    """Tell whether a file belongs to an installed package or to `pure`, whose lines the user did not write."""
    return filename.startswith(_PURE) or f"{os.sep}site-packages{os.sep}" in filename


def installed_line() -> str:
    """Return `file:line in function` of the innermost user frame if it is an installed package's, else nothing."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return line_of(frame, frame.f_lineno) if frame is not None and is_installed(frame.f_code.co_filename) else ""


def caller_of(frame: FrameType | None) -> str:
    """Return `file:line in function` of the innermost frame outside of installed packages and `pure`, if that is one.

    Returns:
        the line; an empty string where the innermost user frame is outside of them itself, or no frame is.
    """
    inside = False
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file):
            if is_installed(file):
                inside = True
            else:
                return line_of(frame, frame.f_lineno) if inside else ""
        frame = frame.f_back
    return ""
