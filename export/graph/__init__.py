"""A recorded function as an ONNX model: built, checked, with repeated blocks as ONNX functions."""
