#!/usr/bin/env bash
# jacrev of the gradient of torch.cdist is silently wrong; forward mode of it, and some third derivatives of norms, are errors.
#
# Guess: every composition of torch.func's grad, jvp, jacrev and jacfwd gives the derivative of the formula, of
# torch.cdist as of torch.linalg.vector_norm.
# Seen: of cdist grad(grad(f)) is right, jacrev(grad(f)) wrong in the first digit, jvp(f) and jvp(grad(f)) have no rule.
# Of vector_norm, F.cosine_similarity and F.pairwise_distance, grad(jvp(grad(f))) and grad(jvp(jvp(f))) end in "one of
# the variables needed for gradient computation has been modified by an inplace operation"; the other orders are right.
#
# Versions: torch 2.15.0, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-29.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.func import grad, jacrev, jvp

torch.manual_seed(0)
a, b, direction = (torch.randn(4, 3, dtype=torch.float64) for _ in range(3))
KERNELS = {
    "cdist": lambda a: torch.exp(-torch.cdist(a, b).square()).sum(),
    "formula": lambda a: torch.exp(-(a[:, None] - b).square().sum(-1)).sum(),
}


def derivative(f, kinds):
    if not kinds:
        return f
    inner = derivative(f, kinds[1:])
    if kinds[0] == "G":
        return lambda x: (grad(inner)(x) * direction).sum()
    return lambda x: jvp(inner, (x,), (direction,))[1]


def ends(f, kinds):
    try:
        derivative(f, kinds)(a)
    except RuntimeError as error:  # NotImplementedError is one
        return str(error)
    return ""


second = {name: jacrev(grad(f))(a) for name, f in KERNELS.items()}
apart = ((second["cdist"] - second["formula"]).abs().max() / second["formula"].abs().max()).item()
products = {name: derivative(f, "GG")(a).item() for name, f in KERNELS.items()}
print(f"cdist: jacrev(grad) {apart:.1e} from the formula; grad of grad {products}")
assert apart > 1e-2
assert abs(products["cdist"] - products["formula"]) < 1e-9 * abs(products["formula"])
for kinds in ("J", "JG"):
    assert "forward AD" in ends(KERNELS["cdist"], kinds), kinds
NORMS = {
    "vector_norm": lambda a: torch.linalg.vector_norm(a, dim=1).sum(),
    "cosine_similarity": lambda a: F.cosine_similarity(a, b).sum(),
    "pairwise_distance": lambda a: F.pairwise_distance(a, b).sum(),
}
for name, f in NORMS.items():
    failing = {kinds for kinds in ("GGG", "GGJ", "GJG", "GJJ", "JGG", "JGJ", "JJG", "JJJ") if "inplace" in ends(f, kinds)}
    print(f"{name}: {sorted(failing)} end in an error")
    assert failing == {"GJG", "GJJ"}, name
PYTHON
