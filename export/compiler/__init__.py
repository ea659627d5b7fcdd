"""`jit`: pure functions compiled by ONNX Runtime, called on tensors where they lie."""
