#!/usr/bin/env bash
# PyTorch's batch normalisation returns wrong gradients for a batch of one whose gradient arrives transposed (CPU).
#
# Guess: the gradients of BatchNorm2d do not depend on how the gradient of its output lies in memory. Seen: where the
# batch has one sample and the output goes through flatten(2).transpose(1, 2), as in models that turn a convolutional stem
# into tokens, the gradients with respect to input, weight and bias are all wrong, in float64 as in float32, in training
# and in evaluation, without a message; gradcheck fails. InstanceNorm2d does the same, convolutions and GroupNorm do not.
# With two samples all are right; .contiguous() behind the transposition does not help.
#
# Versions: torch 2.15.0, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-29 (largest error of the bias' gradient, which
# is a plain sum):
#   BatchNorm2d: 1 sample 10.8, 2 samples 0.0
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch

torch.manual_seed(0)
norm = torch.nn.BatchNorm2d(8).double().eval()


def error(samples):
    x = torch.randn(samples, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(samples, 16, 8, dtype=torch.float64)
    y = norm(x).flatten(2).transpose(1, 2)
    (found,) = torch.autograd.grad((y * weights).sum(), norm.bias)
    return (found - weights.sum((0, 1))).abs().max().item()


one, two = error(1), error(2)
print(f"BatchNorm2d: 1 sample {one:.1f}, 2 samples {two:.1f}")
assert two < 1e-9
assert one > 1, "the gradients of one sample are right now"
PYTHON
