"""Models that other people wrote, through `from_module`, `to_onnx` and a verdict: `python -m parity_tests.zoo`."""
