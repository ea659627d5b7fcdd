"""A folder that reproduces a difference: the model, its inputs, what is expected, and a script."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from export.verdict.judge import Judge
from export.verdict.sampled import Sampled

__all__ = ["PARTS", "SCRIPT", "write_reproduction"]

PARTS = ("model.onnx", "inputs.npz", "expected.npz", "reproduce.py")
"""What a reproduction consists of, with the data files of the model."""

SCRIPT = '''"""Runs model.onnx on inputs.npz and compares with expected.npz: float64 references and rounding scales.

Needs numpy, onnx and onnxruntime. Prints what the file gives and what is expected, and exits with 1 while a value
differs by more than the limit, in units of its own rounding scale. Another model to run in its place may be named:
python reproduce.py other.onnx
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

node, limit = NODE, LIMIT
here = Path(__file__).resolve().parent
inputs, expected = np.load(here / "inputs.npz"), np.load(here / "expected.npz")
wanted = [name.removeprefix("reference.") for name in expected if name.startswith("reference.")]
model = Path(sys.argv[1]) if sys.argv[1:] else here / "model.onnx"
onnxruntime.set_default_logger_severity(3)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
missing = [name for name in wanted if name not in [output.name for output in session.get_outputs()]]
if missing:
    import onnx

    content = onnx.load(model)
    made = {name for part in content.graph.node for name in part.output}
    content.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing if name in made)
    session = onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
feeds = {}
for given in session.get_inputs():
    value = inputs["input." + given.name]
    if given.type == "tensor(bfloat16)":  # kept as its 16 bits
        value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(value, 16)
    else:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(value)
    feeds[given.name] = value
worst = 0.0
found = dict(zip(names, session.run_with_ort_values(names, feeds)))
for name in sorted(wanted, key=lambda name: name != node):
    label = f"{name} (the first node that differs)" if name == node else name
    if name not in found:
        print(f"{label}: this model has no such value")
        continue
    result = found[name]
    if result.data_type() == "tensor(bfloat16)":
        import ctypes

        bits = (ctypes.c_uint16 * int(np.prod(result.shape()))).from_address(result.data_ptr())
        value = (np.array(bits, np.uint32).reshape(result.shape()) << 16).view(np.float32)
    else:
        value = result.numpy()
    reference, scale = expected["reference." + name], expected["scale." + name]
    if value.shape != reference.shape:
        print(f"{label}: shape {value.shape}, expected {reference.shape}")
        worst = np.inf
        continue
    if not value.size:
        continue
    if reference.dtype.kind != "f":
        ratio = np.where(np.abs(value.astype(np.float64) - reference) > scale, np.inf, 0.0)
        apart = f"{np.isinf(ratio).sum()} of {ratio.size} values differ"
        at = np.unravel_index(ratio.argmax(), ratio.shape)
    else:
        rounded = reference.astype(value.dtype).astype(np.float64)
        same = (value == rounded) | (np.isnan(value) & np.isnan(rounded))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(value - reference) / (scale + np.nan_to_num(np.abs(rounded - reference), posinf=0.0))
        ratio = np.where(same, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))
        at = np.unravel_index(ratio.argmax(), ratio.shape)
        apart = f"{ratio[at]:.3g} rounding scales apart"
    place = tuple(map(int, at))
    print(f"{label} at {place}: the file gives {value[at].item()!r}, expected {reference[at].item()!r}; {apart}")
    worst = max(worst, ratio[at])
print("the difference stands" if worst > limit else "the difference is gone")
sys.exit(int(worst > limit))
'''
"""Python source; NODE and LIMIT stand for the first value that differs and the largest ratio that passes."""


def write_reproduction(
    folder: Path,
    judge: Judge,
    model: onnx.ModelProto,
    leaves: Sequence[Tensor],
    expected: Mapping[str, Sampled],
    value: str,
) -> None:
    """Write model.onnx, inputs.npz, expected.npz and reproduce.py.

    Args:
        folder: where they go.
        judge: the file and the function.
        model: the file's content, with the value among its outputs.
        leaves: the inputs on which the difference shows.
        expected: what is expected of outputs and the value.
        value: the first value that differs; empty where only outputs do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for data in judge.file.stored_data():
        # A copy: onnx 1.23 refuses data with two hard links, beside the judged file as well.
        shutil.copyfile(data, folder / data.name)
    inputs = {f"input.{name}": _array(leaf) for name, leaf in judge.file.feed(leaves).items()}
    _save(folder / "inputs.npz", inputs)
    _save(
        folder / "expected.npz",
        {
            f"{kind}.{name}": part.cpu().numpy()
            for name, sampled in expected.items()
            for kind, part in (("reference", sampled.reference), ("scale", sampled.scale))
        },
    )
    script = SCRIPT.replace("NODE", repr(value)).replace("LIMIT", repr(judge.limit))
    (folder / "reproduce.py").write_text(script, encoding="utf-8")


def _array(leaf: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor's values; bfloat16 as its 16 bits, as numpy has no such type."""
    leaf = leaf.detach().cpu().contiguous()
    array: np.ndarray[Any, Any] = (leaf.view(torch.uint16) if leaf.dtype == torch.bfloat16 else leaf).numpy()
    return array


def _save(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    np.savez(path, allow_pickle=False, **arrays)
