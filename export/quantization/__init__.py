"""8-bit files: how a file is quantised, what runs on integers, and what that lost.

- Which samples calibrate and judge: `batches`, `npz_samples`.
- How is the file made: `quantizing`, `preparation`, `onnxruntime_quantizer`.
- What does ONNX Runtime run on integers: `integer_kernels`.
- What was lost: `quantized_verification`, `fidelity`, `intervals`, `quantization_verdict`.
"""
