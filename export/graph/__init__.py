"""Repeated blocks as ONNX functions: found, written, flattened and named again."""
