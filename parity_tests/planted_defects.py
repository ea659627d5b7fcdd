"""Planted defects: wrong files, each changed in one known place, through the verdict and through other checks.

`python -m parity_tests.planted_defects --seeds 2` prints who catches what. What counts as visible is said without any
verdict: an element of the file's outputs is further from the float64 function's than twenty times what the sound file's
are along its row or its column, and by `SPACINGS` float32 spacings more; an integer or a boolean is another one. Only
visible defects can be asked for. The other checks are numpy's `allclose` at two settings, what `torch.onnx.testing`
asserts, and Polygraphy's comparison where it is installed (`pip install polygraphy`), all on eager's outputs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import runpy
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import export
from export.files.pytree_structure import describe
from export.trace.arguments import is_tensor, take_apart
from export.verdict import reference_runs
from parity_tests import edited_files
from parity_tests.planted_changes import CHANGES, places
from parity_tests.planted_functions import functions

FACTOR = 20
"""How many times the sound file's own error, along the row or the column, make a difference visible."""

SPACINGS = 32
"""How many float32 spacings more than that, where the sound file is exact by chance."""

NOT_INSTALLED = "not installed"


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one defect.

    Attributes:
        seed: of the inputs and of the place.
        function: what it was planted in.
        change: the kind of defect.
        node: the node that is wrong.
        visible: whether it shows in the outputs.
        caught: who caught it.
        named: the node that the verdict named, and its text.
        reproduced: whether the reproduction ran and showed the difference; None if there is none.
    """

    seed: int
    function: str
    change: str
    node: str
    visible: bool
    caught: dict[str, bool]
    named: str
    text: str
    reproduced: bool | None

    @property
    def is_located(self) -> bool:
        """Whether the node that was named is the one that is wrong; a function's is called after its call."""
        return self.named == self.node or self.named.endswith(f".{self.node}")


def _outputs(file: Path, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[torch.Tensor] | None:
    try:
        with torch.no_grad():
            return list(describe(export.load(file, device="cpu")(*args), is_tensor, "out")[1])
    except export.errors.ExportError:
        return None


def _is_visible(found: list[torch.Tensor], sound: list[torch.Tensor], exact: list[torch.Tensor]) -> bool:
    for own, right, reference in zip(found, sound, exact, strict=True):
        if own.shape != right.shape or own.dtype != right.dtype:
            return True
        if not own.is_floating_point():
            if bool((own != right).any()):
                return True
            continue
        if bool((own.isfinite() != right.isfinite()).any()):
            return True
        error = torch.nan_to_num((own.double() - reference).abs())
        usual = torch.nan_to_num((right.double() - reference).abs())
        if usual.dim():
            row, column = usual.amax(-1, keepdim=True), usual.amax(0, keepdim=True)
            usual = torch.minimum(row.expand_as(usual), column.expand_as(usual)) if usual.dim() > 1 else row
        spacing = reference.float().nextafter(torch.tensor(torch.inf)).double() - reference.float().double()
        if bool((error > FACTOR * usual + SPACINGS * torch.nan_to_num(spacing)).any()):
            return True
    return False


def _others(found: list[torch.Tensor], eager: list[torch.Tensor]) -> dict[str, bool]:
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(found, eager, strict=True)]
    fits = all(a.shape == b.shape for a, b in pairs)

    def close(rtol: float, atol: float) -> bool:
        return fits and all(np.allclose(a, b, rtol, atol, equal_nan=True) for a, b in pairs)

    def asserted() -> bool:
        try:
            for a, b in zip(found, eager, strict=True):
                torch.testing.assert_close(a, b, equal_nan=True)
        except AssertionError:
            return False
        return True

    caught = {
        "allclose 1e-5": not close(1e-5, 1e-8),
        "allclose 1e-3": not close(1e-3, 1e-3),
        "torch.onnx": not asserted(),
    }
    if importlib.util.find_spec("polygraphy") is not None:
        from polygraphy.comparator import CompareFunc, IterationResult  # optional
        from polygraphy.logger import G_LOGGER

        G_LOGGER.module_severity = G_LOGGER.CRITICAL
        names = [str(i) for i in range(len(pairs))]
        one, two = (IterationResult(dict(zip(names, (pair[k] for pair in pairs), strict=True))) for k in (0, 1))
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", DeprecationWarning)
            caught["Polygraphy"] = not all(map(bool, CompareFunc.simple()(one, two).values()))
    return caught


def _reproduces(folder: str) -> bool:
    """Run a reproduction's script in this process: it must show the difference and exit with 1."""
    shown, given = io.StringIO(), sys.argv
    sys.argv = ["reproduce.py"]
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_path(str(Path(folder) / "reproduce.py"), run_name="__main__")
    except SystemExit as end:
        return end.code == 1 and "the difference stands" in shown.getvalue()
    finally:
        sys.argv = given
    return False


def planted(
    seed: int, only: Callable[[str], bool] = lambda name: True, kinds: tuple[str, ...] = tuple(CHANGES)
) -> Iterator[Result]:
    """Plant each kind of defect in each function once, in a node that the seed picks.

    Args:
        seed: of the inputs and of the place.
        only: which functions to take, by name.
        kinds: which kinds of defects.
    """
    chooser = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        for name, (fn, args) in functions(seed).items():
            if not only(name):
                continue
            sound_file, file = Path(folder) / "sound.onnx", Path(folder) / "planted.onnx"
            export.to_onnx(fn, args, sound_file)
            arguments = take_apart(fn, args, None)
            eager = list(reference_runs.run(fn, arguments, arguments.leaves).leaves)
            exact = list(reference_runs.run(fn, arguments, arguments.leaves, to=torch.float64).leaves)
            sound = _outputs(sound_file, fn, args)
            assert sound is not None
            for kind in kinds:
                model, node = _changed(sound_file, kind, chooser)
                if not node:
                    continue
                edited_files.save(model, file)
                found = _outputs(file, fn, args)
                if found is None:
                    continue
                visible = _is_visible(found, sound, exact)
                verdict = export.verify(fn, args, file, device="cpu")
                others = _others(found, eager) if [a.dtype for a in found] == [b.dtype for b in eager] else {}
                first = verdict.divergence
                shown = _reproduces(first.reproduction) if first is not None and first.reproduction else None
                caught = {"verify": verdict.status == "fail", **others}
                named, text = ("", "") if first is None else (first.node, str(first))
                yield Result(seed, name, kind, node, visible, caught, named, text, shown)


def _changed(sound: Path, kind: str, chooser: np.random.Generator) -> tuple[onnx.ModelProto, str]:
    """Return a model with one defect of a kind, and the node that is wrong; "" where none fits."""
    for position in chooser.permutation(len(list(places(onnx.load(sound))))):
        model = onnx.load(sound)
        node = CHANGES[kind](list(places(model))[int(position)])
        if node:
            return model, node
    return model, ""


def summary(results: list[Result]) -> str:
    """Return the table: of the visible defects, who catches how many; and how often the right node is named."""
    visible = [result for result in results if result.visible]
    columns = list(dict.fromkeys(key for result in results for key in result.caught))
    lines = [f"{len(results)} defects in {len({r.function for r in results})} functions, {len(visible)} visible"]
    lines.append(f"{'':18} visible  " + "  ".join(f"{column:>13}" for column in [*columns, *_absent(columns)]))
    for kind in [*CHANGES, "all"]:
        rows = [r for r in visible if kind in (r.change, "all")]
        cells = [f"{sum(r.caught.get(column, True) for r in rows):13}" for column in columns]
        lines.append(
            f"{kind:18} {len(rows):7}  " + "  ".join([*cells, *(f"{NOT_INSTALLED:>13}" for _ in _absent(columns))])
        )
    located = [r for r in visible if r.caught["verify"]]
    lines.append(f"right node named first: {sum(r.is_located for r in located)} of {len(located)}")
    shown = [r for r in located if r.reproduced is not None]
    lines.append(
        f"reproductions that run and show the difference: {sum(r.reproduced is True for r in shown)} of {len(shown)}"
    )
    lines += [
        f"missed (seed {r.seed}): {r.function}, {r.change} at {r.node}" for r in visible if not r.caught["verify"]
    ]
    lines += [
        f"named {r.named} for {r.node} (seed {r.seed}): {r.function}, {r.change}" for r in located if not r.is_located
    ]
    lines += [f"not reproduced (seed {r.seed}): {r.function}, {r.change}" for r in shown if not r.reproduced]
    unseen = sum(r.caught["verify"] for r in results if not r.visible)
    lines.append(f"caught though not counted as visible: {unseen} of {len(results) - len(visible)}")
    return "\n".join(lines)


def _absent(columns: list[str]) -> list[str]:
    return [] if "Polygraphy" in columns else ["Polygraphy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    print(summary([result for seed in range(parser.parse_args().seeds) for result in planted(seed)]))
