"""A recorded function as an ONNX model: built, checked, converted to older opsets."""
