"""ONNX files as functions, in a process that needs neither torch nor pure; where they can run, and why not."""

from export.runtime.loading import Loaded, load

__all__ = ["Loaded", "load"]
