"""Pure functions to ONNX files, run by ONNX Runtime, judged against float64.

Importing this package imports nothing heavy: each name is fetched at its first use, and `load` needs numpy and
onnxruntime only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # fetched at the first use, by `__getattr__`
    from export import errors, runtime
    from export.compiler.jitted import Jitted, jit
    from export.files.checkpoint import replace_weights, weights
    from export.footprint.measuring import memory
    from export.footprint.memory_use import MemoryUse
    from export.graph.onnx_export import Exported, to_onnx
    from export.quantization.quantization_verdict import QuantizationVerdict
    from export.quantization.quantized_verification import verify_quantized
    from export.quantization.quantizing import Quantized, quantize
    from export.runtime.loaded_file import Loaded
    from export.runtime.loading import load
    from export.testing.verdict_page import write_html
    from export.verdict.verdict_result import Verdict
    from export.verdict.verification import verify

_HOMES = {
    "to_onnx": "export.graph.onnx_export",
    "Exported": "export.graph.onnx_export",
    "load": "export.runtime.loading",
    "Loaded": "export.runtime.loaded_file",
    "verify": "export.verdict.verification",
    "Verdict": "export.verdict.verdict_result",
    "quantize": "export.quantization.quantizing",
    "Quantized": "export.quantization.quantizing",
    "verify_quantized": "export.quantization.quantized_verification",
    "QuantizationVerdict": "export.quantization.quantization_verdict",
    "memory": "export.footprint.measuring",
    "MemoryUse": "export.footprint.memory_use",
    "jit": "export.compiler.jitted",
    "Jitted": "export.compiler.jitted",
    "weights": "export.files.checkpoint",
    "write_html": "export.testing.verdict_page",
    "replace_weights": "export.files.checkpoint",
}
_MODULES = ("errors", "runtime")

__all__ = [
    "Exported",
    "Jitted",
    "Loaded",
    "MemoryUse",
    "QuantizationVerdict",
    "Quantized",
    "Verdict",
    "errors",
    "jit",
    "load",
    "memory",
    "quantize",
    "replace_weights",
    "runtime",
    "to_onnx",
    "verify",
    "verify_quantized",
    "weights",
    "write_html",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"export.{name}")
    if name in _HOMES:
        try:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            what = f"export.{name} needs {error.name}, which is not installed: python -m pip install pure-export"
            raise ModuleNotFoundError(what, name=error.name) from error
        globals()[name] = value
        return value
    raise AttributeError(f"module 'export' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
