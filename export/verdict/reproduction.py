"""The script that stands in a reproduction's folder."""

from __future__ import annotations

__all__ = ["SCRIPT"]

SCRIPT = '''"""Runs model.onnx on inputs.npz and compares with expected.npz: float64 references and rounding scales.

Needs numpy and onnxruntime. Exits with 1 while a value differs by more than the limit, in units of its own scale.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

node, limit = NODE, LIMIT
here = Path(__file__).parent
inputs, expected = np.load(here / "inputs.npz"), np.load(here / "expected.npz")
session = onnxruntime.InferenceSession(here / "model.onnx", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
feeds = {given.name: inputs["input." + given.name] for given in session.get_inputs()}
worst = 0.0
for name, value in zip(names, session.run(names, feeds)):
    if "reference." + name not in expected:
        continue
    reference, scale = expected["reference." + name], expected["scale." + name]
    if value.shape != reference.shape:
        print(f"{name}: shape {value.shape}, expected {reference.shape}")
        worst = np.inf
        continue
    if reference.dtype.kind != "f":
        wrong = np.abs(value.astype(np.float64) - reference) > scale
        print(f"{name}: {wrong.sum()} of {wrong.size} values differ")
        worst = max(worst, np.inf if wrong.any() else 0.0)
        continue
    rounded = reference.astype(value.dtype).astype(np.float64)
    same = (value == rounded) | (np.isnan(value) & np.isnan(rounded))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(value - reference) / (scale + np.nan_to_num(np.abs(rounded - reference), posinf=0.0))
    ratio = np.where(same, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))
    if not ratio.size:
        continue
    at = np.unravel_index(ratio.argmax(), ratio.shape)
    first = " (the first node that differs)" if name == node else ""
    place = tuple(map(int, at))
    print(f"{name}{first} at {place}: {value[at]!r}, expected {reference[at]!r}, {ratio[at]:.3g} rounding scales apart")
    worst = max(worst, ratio[at])
sys.exit(int(worst > limit))
'''
"""Python source; NODE and LIMIT stand for the first node that differs and the largest ratio that passes."""
