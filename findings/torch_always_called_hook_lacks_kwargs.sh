#!/usr/bin/env bash
# PyTorch calls a global forward hook without the keyword arguments it asked for, where the module's forward raises.
#
# Guess: register_module_forward_hook(hook, with_kwargs=True, always_call=True) calls hook(module, args, kwargs, output)
# always. Seen: where forward raises, it calls hook(module, args, None). A hook of four arguments then fails, and all that
# is left of that is a warning. A hook of the module itself gets its keyword arguments in both cases.
#
# Versions: torch 2.15.0, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-29:
#   arguments behind the module: 3 where forward returns, 2 where it raises; a module's own hook: 3 and 3
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.nn.modules import module as nn_module

counts = []


class Raises(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            raise ValueError("no")
        return x


def hook(part, *given):
    counts.append(len(given))


handle = nn_module.register_module_forward_hook(hook, with_kwargs=True, always_call=True)
own = Raises()
own.register_forward_hook(hook, with_kwargs=True, always_call=True)
for x in (torch.zeros(1), torch.ones(1)):
    try:
        own(x)
    except ValueError:
        pass
handle.remove()
print(f"arguments behind the module: {counts[0]} where forward returns, {counts[2]} where it raises; ", end="")
print(f"a module's own hook: {counts[1]} and {counts[3]}")
assert (counts[0], counts[1], counts[3]) == (3, 3, 3)
assert counts[2] == 2, "the keyword arguments are given now"
PYTHON
