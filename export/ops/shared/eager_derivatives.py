"""Derivatives that eager PyTorch lacks or computes wrongly, while a recorded function has them right.

A file with the right numbers then differs from eager: whoever compares the two should know which one to trust, and
what to write so that both are right.
"""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Iterator
from types import FrameType

import torch
from torch._C._functorch import TransformType

from export.errors import EagerDerivativeError, EagerDerivativeWarning, ExportError
from export.trace.source_lines import is_user_file, user_line
from pure.layers.transform_levels import differentiating, is_forward, is_nested

__all__ = ["note_distances", "note_norm", "noted", "raise_if_lacking", "typed_lack", "warn_of"]

_LACKING = re.compile("forward AD|derivative for .* is not implemented|returned an invalid gradient")
"""What PyTorch's messages say where an operator has no derivative of that kind."""

_WAYS_OUT = {
    "cdist": "pure.cdist in the place of torch.cdist has it",
    "scaled_dot_product": "inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH) the attention has it",
}
_ELSE = "interop.from_module gives modules many that their kernels lack; or write the operation with simpler ones"

SEEN = "2.15.0"
"""The version of PyTorch whose derivatives were held against values, by `parity_tests.derivative_compositions`."""

_notes: list[dict[str, None]] = []


@contextlib.contextmanager
def noted() -> Iterator[dict[str, None]]:
    """Collect what the functions that are recorded in the body compute right and eager PyTorch does not."""
    _notes.append({})
    try:
        yield _notes[-1]
    finally:
        _notes.pop()


def _note(text: str) -> None:
    if _notes:
        line = user_line(sys._getframe(1))
        _notes[-1][text + (f"\n  source: {line}" if line else "")] = None


def note_distances(a: torch.Tensor, b: torch.Tensor) -> None:
    """Note `torch.cdist` under forward mode, which eager lacks, and in second derivatives, some of which are wrong."""
    if is_forward():
        _note("torch.cdist has no forward-mode derivative; pure.cdist in its place has it")
    elif is_nested(a, b):
        _note("second derivatives of torch.cdist by jacrev are wrong or an error; those of pure.cdist are right")


def note_norm(name: str) -> None:
    """Note a norm's kernel in derivatives that eager computes wrongly: of a forward one, and third ones.

    It is wrong, too, where a backward pass is mapped, as by `jacrev(jacrev(f))`, which does not show beforehand.
    """
    kinds = differentiating()
    if len(kinds) > 2 or (len(kinds) == 2 and kinds[-1] == TransformType.Jvp):
        _note(
            f"this nested derivative of {name} is wrong; those of pure's norms, and of modules made blocks by "
            "interop.from_module, are right"
        )


def warn_of(notes: tuple[str, ...]) -> None:
    """Warn at the line of the caller's that asked for the recording.

    Warns:
        EagerDerivativeWarning: eager and the file differ, and the file is right.
    """
    if not notes:
        return
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    text = f"a file computes this right, and eager PyTorch does not (seen in {SEEN}): "
    for note in notes:
        warnings.warn(text + note, EagerDerivativeWarning, stacklevel=level)


def raise_if_lacking(name: str, error: BaseException) -> None:
    """Raise a typed error if another one says that an operator of PyTorch has no derivative of some kind.

    Raises:
        EagerDerivativeError: it does.
    """
    first = str(error).partition("\n")[0]
    if isinstance(error, RuntimeError) and not isinstance(error, ExportError) and _LACKING.search(first):
        way = next((way for part, way in _WAYS_OUT.items() if part in first.lower()), _ELSE)
        raise EagerDerivativeError(f"{name} has no value in eager PyTorch: {first}\n  way out: {way}") from error


@contextlib.contextmanager
def typed_lack(name: str) -> Iterator[None]:
    """Turn PyTorch's errors about derivatives that it lacks, in a function's own run, into a typed one."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        raise_if_lacking(name, error)
        raise
