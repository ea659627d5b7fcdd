#!/usr/bin/env bash
# Three autograd.Functions in one another, each of whose backward calls torch.func.vjp, fail under torch.func.grad.
#
# Guess: a function may evaluate itself again in its backward at any depth: one and two in one another are right.
# Seen: from three on grad raises RuntimeError with an internal assertion of functorch's levels: a tensor saved in an inner
# function comes back as the wrapper of a level that has ended.
#
# Versions: torch 2.15.0, CPU, Python 3.11. Seen on 2026-11-30.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.func import grad, vjp


def evaluated_again(function):
    """The function, whose gradient evaluates it again by `torch.func.vjp`."""

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(weight, x):
            return function(weight, x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, cotangent):
            weight, x = ctx.saved_tensors
            return vjp(lambda weight: function(weight, x), weight)[1](cotangent)[0], None

    return Again.apply


weight, x = torch.tensor(0.5), torch.tensor(2.0)
function = plain = lambda weight, x: (weight * x).tanh()
found = []
for depth in range(1, 5):
    function = evaluated_again(function)
    try:
        found.append("right" if torch.equal(grad(function)(weight, x), grad(plain)(weight, x)) else "wrong")
    except RuntimeError as error:
        found.append("INTERNAL ASSERT FAILED" if "INTERNAL ASSERT FAILED" in str(error) else str(error))
    print(f"{depth} in one another: {found[-1]}")
assert found == ["right", "right", "INTERNAL ASSERT FAILED", "INTERNAL ASSERT FAILED"]
PYTHON
