"""`pure.scan`: one operator that holds its step once, its derivatives and batches, and ONNX Scan."""
