#!/usr/bin/env bash
# PyTorch's batch, layer and instance normalisation have wrong Hessians and derivatives of forward-mode derivatives.
#
# Guess: grad(jvp(f)) and jvp(grad(f)) are the same second derivative, and equal to the one of the formula written out.
# Seen: through F.batch_norm in training mode, F.layer_norm and F.instance_norm, jvp(grad) and grad(grad) are right,
# while torch.func.hessian (with respect to a gain), grad(jvp), jvp(jvp) and every third derivative, grad(grad(grad))
# too, are wrong in the first digits, in float64 as in float32, without a message. Plain autograd's .backward() of a jvp
# is wrong as well. F.group_norm is right.
#
# Versions: torch 2.15.0, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-29 (relative difference from the formula):
#   batch_norm     jvp(grad) 3.5e-16  grad(jvp) 2.1e-01  jvp(jvp) 2.1e-01  grad(grad(grad)) 5.7e+01  hessian 1.3e-01
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jvp

torch.manual_seed(0)
x, weights, *directions = (torch.randn(4, 6, 5, dtype=torch.float64) for _ in range(5))


def formula(axes, shape):
    def norm(x, gain):
        centred = x - x.mean(axes, keepdim=True)
        return centred / ((centred**2).mean(axes, keepdim=True) + 1e-5).sqrt() * gain.reshape(shape)

    return norm


NORMS = {
    "batch_norm": (lambda x, g: F.batch_norm(x, None, None, g, training=True), formula((0, 2), (-1, 1)), 6),
    "layer_norm": (lambda x, g: F.layer_norm(x, (5,), g), formula((2,), (-1,)), 5),
    "instance_norm": (lambda x, g: F.instance_norm(x, weight=g), formula((2,), (-1, 1)), 6),
    "group_norm": (lambda x, g: F.group_norm(x, 1, g), formula((1, 2), (-1, 1)), 6),
}
NESTINGS = {"jvp(grad)": "JG", "grad(jvp)": "GJ", "jvp(jvp)": "JJ", "grad(grad(grad))": "GGG"}


def derivative(f, kinds):
    if not kinds:
        return f
    inner, along = derivative(f, kinds[1:]), directions[len(kinds) - 1]
    if kinds[0] == "G":
        return lambda x: (grad(inner)(x) * along).sum()
    return lambda x: jvp(inner, (x,), (along,))[1]


def difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


wrong = set()
for name, (*functions, size) in NORMS.items():
    gain = torch.linspace(0.5, 1.5, size, dtype=torch.float64)
    losses = [lambda x, gain, f=f: (f(x, gain) ** 3 * weights).sum() for f in functions]
    errors = {
        nesting: difference(*(derivative(lambda x, loss=loss: loss(x, gain), kinds)(x) for loss in losses))
        for nesting, kinds in NESTINGS.items()
    }
    errors["hessian"] = difference(*(hessian(lambda gain, loss=loss: loss(x * gain.sum(), gain))(gain) for loss in losses))
    wrong |= {(name, nesting) for nesting, error in errors.items() if error > 1e-6}
    print(f"{name:14}", "  ".join(f"{nesting} {error:.1e}" for nesting, error in errors.items()))
nestings = ("grad(jvp)", "jvp(jvp)", "grad(grad(grad))", "hessian")
expected = {(name, nesting) for name in ("batch_norm", "layer_norm", "instance_norm") for nesting in nestings}
assert wrong == expected, f"other derivatives are wrong now: {sorted(wrong)}"
PYTHON
