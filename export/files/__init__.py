"""Model files as bytes: written whole, read without the onnx package, with their tensors and structure."""
