"""Reversible rows against pytorchcv's block, or against their formulas in plain tensor code."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pytorchcv.models.revnet import ReversibleBlock
from torch import Tensor, nn

from parity_tests.oracles.oracle import Flat, Oracle
from parity_tests.oracles.streams import MLP, Conv, Parts


def library(module: nn.Module, x: Any, extras: Any, noise: Any) -> Tensor:
    """Run pytorchcv's block, which empties its input's storage, and whose backward uses an old name of autograd's."""
    warnings.filterwarnings("ignore", "'saved_variables' is deprecated", DeprecationWarning)
    return module(x.clone())


def convolutions(m: Any, x: Tensor) -> Tensor:
    a, b = x[:, :2], x[:, 2:]
    for f, g in ((m.f0, m.g0), (m.f1, m.g1)):
        a = a + f(b)
        b = b + g(a)
    return torch.cat([a, b], 1)


def tokens(m: Any, x: Tensor) -> Tensor:
    y1 = x[..., :4] + m.f(x[..., 4:])
    return torch.cat([y1, x[..., 4:] + m.g(y1)], -1)


def momentum(m: Any, x: Tensor) -> Tensor:
    v1 = 0.2 * m.b0(x)
    x1 = x + v1
    v2 = 0.8 * v1 + 0.2 * m.b1(x1)
    x2 = x1 + v2
    return x2 + 0.8 * v2 + 0.2 * m.b2(x2)


def euler(m: Any, x: Tensor) -> Tensor:
    for t in (0.5, 0.75, 1.0):
        hidden = m.fc1(torch.cat([x, torch.full((5, 1), t, dtype=x.dtype)], 1)).tanh()
        x = x + 0.25 * m.fc2(hidden)
    return x


def euler_layers(m: Any, x: Tensor) -> Tensor:
    for layer, t in ((m.f0, 0.0), (m.f1, 0.5), (m.f2, 1.0)):
        x = x + 0.5 * (x @ layer.weight[:, :6].T + t * layer.weight[:, 6] + layer.bias)
    return x


def unstacked(flat: Flat) -> Flat:
    return {
        f"f{depth}.{name.removeprefix('branch.')}": leaf[depth] for name, leaf in flat.items() for depth in range(3)
    }


def timed_image(m: Any, x: Tensor) -> Tensor:
    return x + 0.5 * m.norm2(m.conv2(m.norm1(m.conv1(torch.cat([x, torch.zeros_like(x[:, :1])], 1))).relu()))


def stack(m: Any, x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    for f, g in ((m.f0, m.g0), (m.f1, m.g1)):
        a = a + f(b)
        b = b + g(a)
    return torch.cat([a, b], 1)


def equilibrium(m: Any, x: Tensor) -> Tensor:
    """Newton's method on z − f(z, x): quadratic, and the last step carries the implicit derivative."""
    z, inner, outer = torch.zeros_like(x), m.fc.weight[:, :4], m.fc.weight[:, 4:]
    for step in range(12):
        h = torch.tanh(z @ inner.T + x @ outer.T + m.fc.bias)
        jacobian = torch.eye(4, dtype=x.dtype) - (m.out * (1 - h * h)).unsqueeze(-1) * inner
        z = z - torch.linalg.solve(jacobian, z - m.out * h)
        z = z.detach() if step < 10 else z
    return z


ORACLES = {
    "reversible": Oracle(lambda: ReversibleBlock(MLP(3, 5), MLP(3, 4)), {"f": "fm", "g": "gm"}, call=library),
    "reversible_conv": Oracle(
        lambda: Parts(convolutions, f0=Conv(2), g0=Conv(2), f1=Conv(2), g1=Conv(2)),
        {"0.f": "f0", "0.g": "g0", "1.f": "f1", "1.g": "g1"},
    ),
    "reversible_tokens": Oracle(lambda: Parts(tokens, f=MLP(4, 5), g=MLP(4, 5))),
    "reversible_stack": Oracle(
        lambda: Parts(stack, f0=MLP(3, 5), g0=MLP(3, 4), f1=MLP(3, 5), g1=MLP(3, 4)),
        {"0.f": "f0", "0.g": "g0", "1.f": "f1", "1.g": "g1"},
    ),
    "momentum": Oracle(
        lambda: Parts(momentum, b0=MLP(), b1=MLP(), b2=MLP()), {str(index): f"b{index}" for index in range(3)}
    ),
    "euler": Oracle(lambda: Parts(euler, fc1=nn.Linear(7, 8), fc2=nn.Linear(8, 6)), {"branch": ""}),
    "euler_layers": Oracle(lambda: Parts(euler_layers, **{f"f{k}": nn.Linear(7, 6) for k in range(3)}), unstacked),
    "euler_images": Oracle(
        lambda: Parts(
            timed_image,
            conv1=nn.Conv2d(5, 4, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(4),
            conv2=nn.Conv2d(4, 4, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(4),
        ),
        {"branch": ""},
    ),
    "equilibrium": Oracle(
        lambda: Parts(equilibrium, fc=nn.Linear(8, 4), out=torch.zeros(4)),
        {"branch": "", "branch.out.weight": "out"},
    ),
}
