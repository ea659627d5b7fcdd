"""Pure functions to ONNX files, run by ONNX Runtime, judged against float64.

Importing this package imports nothing heavy: each name is fetched at its first use, and ``load`` needs numpy and
onnxruntime only.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export import errors, runtime
    from export.jit import Jitted, jit
    from export.onnx import Exported, to_onnx
    from export.quantization import Quantized, quantize
    from export.quantizing.degradation import QuantizationVerdict
    from export.quantizing.quantized import verify_quantized
    from export.runtime import Loaded, load
    from export.verdict import Verdict
    from export.verify import verify
    from export.weights import replace_weights, weights

_HOMES = {
    "to_onnx": "export.onnx",
    "Exported": "export.onnx",
    "load": "export.runtime",
    "Loaded": "export.runtime",
    "verify": "export.verify",
    "Verdict": "export.verdict",
    "quantize": "export.quantization",
    "Quantized": "export.quantization",
    "verify_quantized": "export.quantizing.quantized",
    "QuantizationVerdict": "export.quantizing.degradation",
    "jit": "export.jit",
    "Jitted": "export.jit",
    "weights": "export.weights",
    "replace_weights": "export.weights",
}
_MODULES = ("errors", "runtime")

__all__ = [
    "Exported",
    "Jitted",
    "Loaded",
    "QuantizationVerdict",
    "Quantized",
    "Verdict",
    "errors",
    "jit",
    "load",
    "quantize",
    "replace_weights",
    "runtime",
    "to_onnx",
    "verify",
    "verify_quantized",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"export.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'export' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps ``export.verify`` the function: importing the file of that name would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
