"""Repeated blocks as ONNX functions: found, written once, called, and put back."""
