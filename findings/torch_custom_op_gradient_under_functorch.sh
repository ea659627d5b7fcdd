#!/usr/bin/env bash
# torch.func.grad refuses an operator made by torch.library.custom_op with register_autograd, and names a cure that is none.
#
# Guess: an operator with register_autograd(backward, setup_context=…) has a gradient under torch.func.grad, as under autograd.
# Seen: RuntimeError, "it must override the setup_context staticmethod", with setup_context given. torch.autograd.grad is right.
# What works: call a torch.autograd.Function with a static setup_context instead of the operator.
#
# Versions: torch 2.15.0, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-29:
#   autograd: [2.0, 2.0]; torch.func.grad: RuntimeError; an autograd.Function: [2.0, 2.0]
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch


@torch.library.custom_op("demo::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


twice.register_autograd(lambda ctx, g: 2 * g, setup_context=lambda ctx, inputs, output: None)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 2 * g


x = torch.ones(2, requires_grad=True)
by_autograd = torch.autograd.grad(twice(x).sum(), x)[0].tolist()
by_function = torch.func.grad(lambda x: Twice.apply(x).sum())(torch.ones(2)).tolist()
try:
    message = str(torch.func.grad(lambda x: twice(x).sum())(torch.ones(2)).tolist())
except RuntimeError as error:
    message = f"RuntimeError: {error}"
print(f"autograd: {by_autograd}; an autograd.Function: {by_function}; torch.func.grad: {message[:140]}")
sys.exit(0 if by_autograd == by_function == [2.0, 2.0] and "setup_context" in message else 1)
PYTHON
