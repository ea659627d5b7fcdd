"""The onnx package's own tests of single operators and small models, through `load`.

Each model is run on the stored inputs. It is right if every stored output comes back within the test's tolerances, with
its type, or it is refused by a typed error. Where ONNX Runtime itself, called directly, gives the very bits that `load`
gives and they are not the stored ones, the difference is its own: `DEVIATIONS` has these by name.

    python -m parity_tests.node_tests
"""

from __future__ import annotations

import collections
import dataclasses
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import export
from parity_tests.mutated_files import Recorded

__all__ = ["DEVIATIONS", "Outcome", "cases", "outcome"]

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
"""Tests whose models and data are in the onnx package."""

_DFT = "its float32 transform is off by up to {}; where the stored value is 0, only 1e-7 is allowed"
_RANDOM = "draws other random numbers from the same seed"
_MASKED = "the fourth output is taken before the causal mask: 84 of 432 values are finite where −inf is stored"

DEVIATIONS = {
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal": _MASKED,
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal": _MASKED,
    "test_attention_4d_causal_fp16": "one of 192 values is off by 0.000488, which is one unit in the last place",
    "test_dft": _DFT.format("1.6e-4"),
    "test_dft_axis": _DFT.format("2.4e-4"),
    "test_dft_inverse": _DFT.format("1.7e-5"),
    "test_dft_rfft": _DFT.format("1.6e-4"),
    "test_dft_irfft": _DFT.format("1.1e-5"),
    "test_dft_opset19": _DFT.format("1.6e-4"),
    "test_dft_axis_opset19": _DFT.format("2.4e-4"),
    "test_dft_inverse_opset19": _DFT.format("1.7e-5"),
    "test_dft_rfft_opset19": _DFT.format("1.6e-4"),
    "test_dft_irfft_opset19": _DFT.format("1.1e-5"),
    "test_stft": _DFT.format("8.4e-5"),
    "test_stft_with_window": _DFT.format("4.2e-5"),
    "test_training_dropout": _RANDOM,
    "test_training_dropout_default": _RANDOM,
    "test_training_dropout_default_mask": _RANDOM,
    "test_training_dropout_mask": _RANDOM,
    "test_maxunpool_export_with_output_shape": "puts 4 values at other places of the larger output (8 of 25 differ)",
    "test_resize_downsample_scales_linear_align_corners": "samples at another place: one of 2 values is off by 0.86",
    "test_resize_downsample_scales_cubic_align_corners": "samples at another place: 8 of 9 values are off, up to 1.05",
}
"""{test: how ONNX Runtime 1.31.1 on the CPU differs from the stored outputs}."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Attributes:
        name: the test's name.
        word: "right", "typed error", "deviation" (ONNX Runtime's own), "wrong" or "untyped".
        detail: the error, or the difference.
    """

    name: str
    word: str
    detail: str = ""


def cases(names: Sequence[str] | None = None) -> list[TestCase]:
    """Return the tests, or those of the given names, in a fixed order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package computes stored outputs as it loads, with overflows
        found = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    return [case for case in found if names is None or case.name in names]


def outcome(case: TestCase, folder: Path) -> Outcome:
    """Load one model as a file, run it on its inputs, and compare what it gives with the stored outputs."""
    model, data = _content(case)
    path = folder / "model.onnx"
    onnx.save(model, path)
    inputs, outputs = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
    found: list[Outcome] = []
    with Recorded() as recorded:
        found += _run(case, path, inputs, outputs, data)
    if recorded.word == "silent":
        return found[0]
    word = "untyped" if recorded.word.startswith("untyped") else "typed error"
    return Outcome(case.name, word, f"{recorded.word}: {' '.join(recorded.reason.split())}")


def _run(
    case: TestCase, path: Path, inputs: Sequence[str], outputs: Sequence[str], data: Sequence[tuple[Any, Any]]
) -> Iterator[Outcome]:
    """Yield the outcome of a model that loads and runs."""
    loaded = export.load(path, device="cpu")
    for given, wanted in data:
        results = loaded(dict(zip(inputs, given, strict=False)))
        own = [results[name] for name in outputs]
        problem = "; ".join(_differences(wanted, own, case.rtol, case.atol, "out"))
        if problem:
            theirs = _directly(path, dict(zip(inputs, given, strict=False)))
            same = not [*_differences(theirs, own, 0, 0, "out")]
            yield Outcome(case.name, "deviation" if same else "wrong", problem)
    yield Outcome(case.name, "right")


def _content(case: TestCase) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    if case.model_dir is None:
        return case.model, [([*map(_value, given)], [*map(_value, wanted)]) for given, wanted in case.data_sets]
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    data = []
    for part in sorted(folder.glob("test_data_set_*")):
        sides = []
        for side, values in (("input", model.graph.input), ("output", model.graph.output)):
            count = len([*part.glob(f"{side}_*.pb")])
            sides.append([_stored(part / f"{side}_{i}.pb", values[i].type) for i in range(count)])
        data.append((sides[0], sides[1]))
    return model, data


def _stored(path: Path, kind: onnx.TypeProto) -> Any:
    proto: Any = onnx.SequenceProto() if kind.HasField("sequence_type") else onnx.TensorProto()
    proto.ParseFromString(path.read_bytes())
    return numpy_helper.to_list(proto) if kind.HasField("sequence_type") else numpy_helper.to_array(proto)


def _value(value: Any) -> Any:
    """Return a value as `load` takes and gives it; element types that numpy lacks are stored as messages."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return [_value(item) for item in value] if isinstance(value, list) else value


def _directly(path: Path, feed: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    results: list[Any] = session.run(None, {name: _array(value) for name, value in feed.items()})
    return results


def _array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value


def _differences(wanted: Any, found: Any, rtol: float, atol: float, name: str) -> Iterator[str]:
    """Yield how values differ, in kind, type, shape and content."""
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            yield f"{name}: expected {len(wanted)} values in a list, got {found!r:.80}"
            return
        for i, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from _differences(one, other, rtol, atol, f"{name}.{i}")
        return
    if wanted is None or found is None:
        if wanted is not found:
            yield f"{name}: expected {wanted!r:.80}, got {found!r:.80}"
        return
    one, other = np.asarray(wanted), np.asarray(found)
    text = one.dtype.kind in "OUST"
    if (one.shape, text or one.dtype) != (other.shape, (text and other.dtype.kind == "O") or other.dtype):
        yield f"{name}: expected {one.dtype}{list(one.shape)}, got {other.dtype}{list(other.shape)}"
    elif text or one.dtype == bool:
        if one.tolist() != other.tolist():
            yield f"{name}: expected {one.tolist()}, got {other.tolist()}"
    else:
        exact = [x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in (one, other)]
        with np.errstate(invalid="ignore"):
            far = ~np.isclose(exact[1], exact[0], rtol, atol, equal_nan=True)
            if far.any():
                gap = np.nanmax(np.abs(exact[1] - exact[0])[far])
                yield f"{name}: {far.sum()} of {far.size} values differ, by up to {gap:.3g}"


def main() -> None:
    """Print how many models are right, refused by a typed error, wrong, or end in an untyped error."""
    with tempfile.TemporaryDirectory() as folder:
        found = [outcome(case, Path(folder)) for case in cases()]
    print(f"{len(found)} models of onnx {onnx.__version__} through load, ONNX Runtime {onnxruntime.__version__}")
    counts = collections.Counter(one.word for one in found)
    reasons = collections.Counter(
        re.sub(r"\d+", "N", one.detail.partition(":")[0] + ": " + one.detail[-60:])
        for one in found
        if one.word == "typed error"
    )
    for word in ("right", "typed error", "deviation", "wrong", "untyped"):
        print(f"  {counts[word]:6} {word}")
        if word == "typed error":
            for reason, count in reasons.most_common():
                print(f"         {count:6} {reason}")
        else:
            for one in found if word != "right" else []:
                if one.word == word:
                    print(f"         {one.name}: {one.detail}")
    unknown = {one.name for one in found if one.word == "deviation"} ^ set(DEVIATIONS)
    if unknown:
        print(f"  deviations that came or went: {', '.join(sorted(unknown))}")
    raise SystemExit(bool(counts["wrong"] or counts["untyped"] or unknown))


if __name__ == "__main__":
    main()
