"""ONNX files as functions, in a process that needs neither torch nor pure; where they can run, and why not."""

from export.files.call_schema import read_call
from export.files.protobuf_wire import CALL_KEY
from export.files.signature_leaves import Leaf
from export.runtime.loaded_file import Loaded
from export.runtime.loading import load

__all__ = ["CALL_KEY", "Leaf", "Loaded", "load", "read_call"]
