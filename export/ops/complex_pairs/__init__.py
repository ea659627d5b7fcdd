"""Complex numbers as pairs of real ones: ONNX Runtime has no complex tensors."""
